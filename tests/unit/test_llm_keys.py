"""What enters a fingerprint of LLM profiles, what does not, and the ledger of answers."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from cluster.config import StorageConfig
from cluster.storage import Storage
from pipeline.profile import keys
from pipeline.profile.config import ProfileConfig
from pipeline.profile.engines import engine_of
from pipeline.profile.llm import ledger as ledger_module
from pipeline.profile.llm.ledger import SCHEMA, Index, Ledger, Lookup, heads_of
from pipeline.profile.llm.requests import REQUEST, Author
from pipeline.store.artifacts import changed_keys


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "weights").write_text("1")
    return folder


def config_of(model: Path, **changes: Any) -> ProfileConfig:
    return ProfileConfig(engine={"kind": "vllm", "model": str(model), **changes})


def differing(model: Path, **changes: Any) -> set[str]:
    first = keys.key(config_of(model), "fp").values()
    second = keys.key(config_of(model, **changes), "fp").values()
    return {line.partition(":")[0] for line in changed_keys(first, second)}


@pytest.mark.parametrize(("changes", "name"), [
    ({"sampling": {"temperature": 0.2}}, "config.engine.sampling.temperature"),
    ({"sampling": {"max_tokens": 500}}, "config.engine.sampling.max_tokens"),
    ({"dtype": "float16"}, "config.engine.dtype"), ({"max_model_len": 4096}, "config.engine.max_model_len"),
    ({"model_kwargs": {"quantization": "fp8"}}, "config.engine.model_kwargs.quantization"),
    ({"long_history": {"strategy": "cut"}}, "config.engine.long_history.strategy"),
    ({"gate": {"retries": 1}}, "config.engine.gate.retries")])
def test_a_setting_that_changes_texts_is_another_address_and_is_named(model: Path, changes: dict[str, Any],
                                                                      name: str) -> None:
    assert name in differing(model, **changes)


def test_another_prompt_changes_the_prompts_digest(model: Path) -> None:
    assert {"config.engine.prompt.domain", "digests.prompts"} <= differing(model, prompt={"domain": "beauty"})


def test_other_weights_in_the_same_folder_are_another_model(model: Path) -> None:
    before = keys.key(config_of(model), "fp")
    (model / "weights").write_text("2")
    after = keys.key(config_of(model), "fp")
    assert [line.partition(":")[0] for line in changed_keys(before.values(), after.values())] == ["digests.model"]


@pytest.mark.parametrize("changes", [
    {"execution": {"replicas": 4, "tensor_parallel": 2, "batch_size": 1, "concurrent_batches": 3, "num_gpus": 0,
                   "engine_kwargs": {"max_num_seqs": 3}, "tokens_per_second": 5, "price_per_hour": 2}}])
def test_where_and_how_fast_it_runs_changes_no_address(model: Path, changes: dict[str, Any]) -> None:
    assert not differing(model, **changes)
    limits = config_of(model).model_copy(update={"max_cost_without_confirm": 3.0, "max_rejected_fraction": 0.9})
    assert keys.key(limits, "fp") == keys.key(config_of(model), "fp")


@pytest.mark.parametrize(("name", "says"), [("quantization", "model_kwargs"), ("max_model_len", "not passed through"),
                                            ("trust_remote_code", "not passed through")])
def test_engine_arguments_that_change_answers_are_refused_as_execution(model: Path, name: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        config_of(model, execution={"engine_kwargs": {name: 1}})


@pytest.mark.parametrize(("changes", "says"), [
    ({"max_model_len": 1000}, "leaves 0 tokens"), ({"sampling": {"temperature": 0}}, "set gate.retries=0")])
def test_settings_that_cannot_go_together(model: Path, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        config_of(model, **changes)


def test_the_gate_and_the_batch_change_no_author(model: Path) -> None:
    def author(**changes: Any) -> str:
        spec = engine_of(config_of(model, **changes))
        return spec.prompt_builder(spec.digests()).author.digest  # type: ignore[attr-defined]

    assert author() == author(gate={"min_words": 3}, execution={"batch_size": 2}, max_model_len=3000)
    assert len({author(), author(sampling={"temperature": 0.1}), author(dtype="float32")}) == 3


# --- ledger ---


@pytest.fixture
def ledger(storage: Storage) -> Ledger:
    return Ledger.of(storage, Author({"model": "m"}))


def answers(numbers: range, attempt: str = "a") -> pa.Table:
    return pa.table({REQUEST: [key(n) for n in numbers], "text": [f"text {n}" for n in numbers],
                     "finish_reason": ["stop"] * len(numbers), "prompt_tokens": list(numbers),
                     "output_tokens": [1] * len(numbers), "started_at": [0.0] * len(numbers),
                     "answered_at": [float(n) for n in numbers], "attempt": [attempt] * len(numbers)}).cast(SCHEMA)


def key(n: int) -> str:
    return Author({"model": "m"}).key([{"role": "user", "content": str(n)}], 0)


def test_answers_are_found_by_key(ledger: Ledger, tmp_path: Path) -> None:
    for start in range(0, 60, 20):
        ledger.write(answers(range(start, start + 20)))
    Index.build(ledger).save(tmp_path / "index.arrow")
    lookup = Lookup(ledger, Index.open(tmp_path / "index.arrow"))
    assert [lookup(key(n)).text for n in (3, 59, 20)] == ["text 3", "text 59", "text 20"]  # type: ignore[union-attr]
    assert lookup(key(60)) is None
    assert Index.build(ledger).holds(heads_of([key(5), key(60)])).tolist() == [True, False]


def test_an_empty_ledger_knows_nothing(ledger: Ledger, tmp_path: Path) -> None:
    Index.build(ledger).save(tmp_path / "index.arrow")
    assert Lookup(ledger, Index.open(tmp_path / "index.arrow"))(key(0)) is None
    assert not Index.build(ledger).holds(np.zeros(2, np.uint64)).any()


def test_the_same_answers_make_one_part(ledger: Ledger) -> None:
    assert ledger.write(answers(range(5))) == ledger.write(answers(range(5)))
    assert len(ledger.parts()) == 1


def test_small_parts_are_gathered_while_others_read(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_module, "_PART_ROWS", 25)
    for start in range(0, 60, 10):
        ledger.write(answers(range(start, start + 10), "a" if start < 50 else "other"))
    reader = Lookup(ledger, Index.build(ledger))
    assert ledger.gather("a") == 50
    assert len(ledger.parts()) == 3, "30 + 20 of this attempt, 10 of another"
    assert [reader(key(n)).prompt_tokens for n in range(60)] == list(range(60))  # type: ignore[union-attr]
    assert ledger.gather("a") == 50


def test_parts_that_another_run_gathers_meanwhile(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger.write(answers(range(10)))
    there, calls = Ledger.parts, []

    def before_it_was_gathered(self: Ledger) -> list[str]:
        calls.append(len(calls))
        return [*there(self), "gone.parquet"] if len(calls) <= 2 else there(self)

    monkeypatch.setattr(Ledger, "parts", before_it_was_gathered)
    assert len(Index.build(ledger)) == 10 and len(calls) == 3
    calls.clear()
    assert ledger.gather("a") == 10


def test_two_halves_of_a_key_are_compared(ledger: Ledger) -> None:
    ledger.write(answers(range(1)))
    twin = key(0)[:16] + "0" * 16
    assert Lookup(ledger, Index.build(ledger))(twin) is None


def test_the_ledger_says_who_answered(tmp_path: Path) -> None:
    storage = Storage.from_config(StorageConfig(uri=str(tmp_path)))
    author = Author({"model": "m", "sampling": {"temperature": 0.7}})
    ledger = Ledger.of(storage, author)
    assert storage.read_json(f"{ledger.folder}/author.json") == dataclasses.asdict(author)["values"]
