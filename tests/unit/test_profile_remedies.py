"""What is said where profiles are rejected, and while they are written."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cluster.storage import Storage
from configs.errors import DataError, ResourceError
from pipeline.profile.config import ProfileConfig
from pipeline.profile.llm import progress
from pipeline.profile.llm.config import OpenAIEngine, OpenAIExecution, VLLMEngine
from pipeline.profile.llm.cost import Estimate
from pipeline.profile.llm.ledger import Ledger
from pipeline.profile.llm.progress import AnswerProgress
from pipeline.profile.llm.requests import Author
from pipeline.profile.remedies import rejected, remedy
from pipeline.profile.stage import check_rejected


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
    for num_gpus, hours in ((1, "2.93 GPU-hours"), (0, "1.47 hours")):  # two engines, on GPUs or on the machine's CPUs
        vllm = VLLMEngine(model="m", execution={"replicas": 2, "num_gpus": num_gpus})
        planned = replace(Estimate.nothing(vllm, ledger.speed), asked=1000, asked_tokens=450_000)
        assert list(planned.lines())[-1].startswith(f"at most {hours} at 825 tokens/s")
    unknown = Estimate.nothing(engine)
    assert list(unknown.lines())[-1].startswith("hours: known after the first answers")
    told = Estimate.nothing(engine.model_copy(update={"execution": OpenAIExecution(tokens_per_second=7)}), ledger.speed)
    assert (told.tokens_per_second, told.measured) == (7, False)


def test_a_limit_is_kept_where_tokens_are_paid_for_and_refused_where_no_price_is_known() -> None:
    engine = OpenAIEngine(base_url="http://h/v1", model="m", tokenizer="/t", sampling={"max_tokens": 100}, execution={
        "price_per_million_prompt_tokens": 0.6, "price_per_million_output_tokens": 2})
    planned = Estimate.nothing(engine).counting({"asked": 1000, "asked_tokens": 450_000})
    assert planned.price == pytest.approx(3 * (0.45 * 0.6 + 0.1 * 2)), "each may be asked three times"
    assert list(planned.lines())[-1] == "price 1.41"
    planned.demand_confirmation(1.5)
    with pytest.raises(ResourceError, match=r"at most 1.41, above profile.max_cost_without_confirm=1.2; give --yes"):
        planned.demand_confirmation(1.2)
    unknown = Estimate.nothing(OpenAIEngine(base_url="http://h/v1", model="m", tokenizer="/t"))
    unknown.demand_confirmation(None)
    with pytest.raises(ResourceError, match="=10 cannot be kept, as no price is known: set .*price_per_hour"):
        unknown.demand_confirmation(10)


@pytest.mark.parametrize(("prices", "says"), [
    ({"price_per_million_prompt_tokens": 1}, "are set together"),
    ({"price_per_million_prompt_tokens": 1, "price_per_million_output_tokens": 1, "price_per_hour": 1}, "not both")])
def test_prices_that_do_not_go_together(prices: dict[str, float], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        OpenAIExecution(**prices)


def test_silence_of_a_server_is_not_taken_for_rejects() -> None:
    config = ProfileConfig(max_unanswered_fraction=0.01)
    stats = {"counts": {"num_in": 200, "num_rejected": 22},
             "rejected_by_reason": {"too short": 20, "no answer: HTTP 429 after 6 attempts": 2}}
    check_rejected(config, stats)
    stats["rejected_by_reason"] = {"too short": 19, "no answer: HTTP 429 after 6 attempts": 3}
    with pytest.raises(DataError, match=r"3 of 200 profiles got no answer \(1.5%; no answer: HTTP 429 .*: 3\), more "
                                        "than profile.max_unanswered_fraction=0.01; see what the server"):
        check_rejected(config, stats)
    check_rejected(config.model_copy(update={"max_unanswered_fraction": 0.05}), stats)

