"""What is said where profiles are rejected, and while they are written."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cluster.storage import Storage
from pipeline.profile.llm import progress
from pipeline.profile.llm.config import OpenAIEngine, OpenAIExecution, VLLMEngine
from pipeline.profile.llm.cost import Estimate
from pipeline.profile.llm.ledger import Ledger
from pipeline.profile.llm.progress import AnswerProgress
from pipeline.profile.llm.requests import Author
from pipeline.profile.remedies import rejected, remedy


@pytest.mark.parametrize(("reasons", "helps"), [
    ({"no item text": 5}, "give the items text in prepare.source"),
    ({"no answer: HTTP 400: a": 2, "no answer: HTTP 400: b": 2, "no item text": 3}, "what the server or engine says"),
    ({"cut off": 3, "only reasoning": 3, "title leaked": 4}, "raise profile.engine.sampling.max_tokens"),
    ({"not the schema": 1, "title leaked": 1, "cut off": 1}, "see profile.engine.gate"),
    ({"one item alone is longer than the token budget": 1}, "raise profile.engine.max_model_len"),
    ({"no interaction for the angle favourites: no signals": 1}, "profile.angles")])
def test_the_remedy_fits_the_commonest_reason(reasons: dict[str, int], helps: str) -> None:
    assert helps in remedy(reasons)


def test_many_reasons_are_told_in_short() -> None:
    assert rejected({"a": 1, "b": 1_200}) == "b: 1,200, a: 1"
    told = rejected({f"no answer: {n} {'x' * 1000}": 1 for n in range(100)})
    assert told.endswith(", and 95 other reasons") and len(told) < 1_200


def test_a_running_pass_tells_how_far_it_is(monkeypatch: pytest.MonkeyPatch,
                                            capsys: pytest.CaptureFixture[str]) -> None:
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(progress.time, "time", lambda: 5_000 + now[0])
    told = AnswerProgress("profile: pass 1", 1000)
    now[0] += 35
    assert told.line() == "profile: pass 1: no answer yet after 35 s"
    told.add(0, 0, 0, ["HTTP 500"], None)
    assert told.line() == "profile: pass 1: no answer yet after 35 s; 1 without an answer (HTTP 500: 1)"
    told.add(10, 9_000, 1_000, [], 5_115.0)
    assert capsys.readouterr().err == "profile: pass 1: first answer after 35 s\n"
    assert told.tokens_per_second is None, "too few"
    now[0] += 65
    told.add(128, 91_000, 19_000, ["HTTP 500", "a" * 100], 5_120.0)
    assert told.line() == ("profile: pass 1: 138 of 1,000 answered, 1,000 prompt and 200 output tokens/s, "
                           f"8 min 38 s to go; 3 without an answer (HTTP 500: 2, {'a' * 80}: 1)")
    assert told.summary().startswith("profile: pass 1: 138 answers in 100.0 s, 1,000 prompt and 200 output tokens/s; 3")
    assert told.tokens_per_second == pytest.approx(120_000 / 85), "without the engine's start"


@pytest.mark.parametrize("clock", [-3600.0, 3600.0])
def test_a_node_whose_clock_is_wrong_makes_no_nonsense_of_the_speed(monkeypatch: pytest.MonkeyPatch, clock: float
                                                                    ) -> None:
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(progress.time, "time", lambda: 5_000 + now[0])
    told = AnswerProgress("profile: pass 1", 1000)
    now[0] += 50
    told.add(50, 9_000, 1_000, [], 5_110.0 + clock)
    now[0] += 50
    told.add(50, 9_000, 1_000, [], 5_160.0 + clock)
    assert told.tokens_per_second == pytest.approx(20_000 / (100 if clock < 0 else 50))


def test_a_plan_takes_the_speed_that_was_measured_where_none_is_set(storage: Storage) -> None:
    ledger = Ledger.of(storage, Author({"model": "m"}))
    assert ledger.speed is None
    ledger.remember_speed(412.34)
    engine = OpenAIEngine(base_url="http://h/v1", model="m", tokenizer="/t")
    measured = replace(Estimate.nothing(engine, ledger.speed), asked=1000, asked_tokens=450_000)
    assert list(measured.lines())[-1].startswith("at most 2.93 hours at 412 tokens/s, as the latest answers came; ")
    for num_gpus, hours in ((1, "5.86 GPU-hours"), (0, "2.93 hours")):  # two engines, on GPUs or on the machine's CPUs
        vllm = VLLMEngine(model="m", execution={"replicas": 2, "num_gpus": num_gpus})
        planned = replace(Estimate.nothing(vllm, ledger.speed), asked=1000, asked_tokens=450_000)
        assert list(planned.lines())[-1].startswith(f"at most {hours} at 412 tokens/s")
    unknown = Estimate.nothing(engine)
    assert list(unknown.lines())[-1].startswith("hours: known after the first answers")
    told = Estimate.nothing(engine.model_copy(update={"execution": OpenAIExecution(tokens_per_second=7)}), ledger.speed)
    assert (told.tokens_per_second, told.measured) == (7, False)

