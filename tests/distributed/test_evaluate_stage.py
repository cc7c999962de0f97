"""The `evaluate` stage: its files and figures, and the same ones in this process and on Ray workers."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from cluster.storage import Storage
from configs.errors import ArtifactError, DataError, MentorecError, TrainingError
from models.config import BERT4RecConfig, ESASRecConfig, GRU4RecConfig, ModelConfig, SASRecConfig
from models.metrics import mean, per_user
from models.ranking import rank_users
from models.scoring import EncoderScorer
from models.sequences import Sequences
from models.students import build_encoder
from pipeline.evaluate import sharding, tables
from pipeline.evaluate.config import Baseline, EASEConfig, EvaluateConfig, EvaluateExecution
from pipeline.evaluate.keys import key
from pipeline.evaluate.stage import evaluate_baseline, evaluate_model
from pipeline.report.ranks import read_cases, read_ranked
from pipeline.store import arrays, artifacts
from pipeline.store.artifacts import Artifact, StageKey
from pipeline.store.columns import ITEM_ID, RANK, RANK_UNFILTERED, TARGET, USER_IDX
from pipeline.train.export import save_model
from tests.builders import make_prepared, make_sequences

FILES = ("ranks.parquet", "top.parquet")


@pytest.fixture(autouse=True)
def several_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards small enough that the test users fill several, unevenly."""
    monkeypatch.setattr(sharding, "SHARD_USERS", 16)


@pytest.fixture
def prepared(storage: Storage) -> Artifact:
    return make_prepared(storage)


SASREC = SASRecConfig(hidden_dim=8, max_length=6)
OTHERS = (BERT4RecConfig(hidden_dim=8, max_length=6), ESASRecConfig(hidden_dim=8, max_length=6),
          GRU4RecConfig(hidden_dim=8, max_length=6, state_dim=12))


def make_trained(prepared: Artifact, seed: int = 0, broken: bool = False, config: ModelConfig = SASREC) -> Artifact:
    """A `train` artifact with an untrained model."""
    out = artifacts.begin(prepared.storage, StageKey("train", 1, {"seed": seed, "broken": broken,
                                                                  "model": config.kind}))
    items = prepared.read_table("items.parquet")
    encoder = build_encoder(config, len(items), seed)
    if broken:
        with torch.no_grad():
            encoder.item_weights_VD()[3] = torch.nan
    folder = Path(out.path("model"))
    folder.mkdir(parents=True)
    save_model(folder, encoder.state_dict(), config, items[ITEM_ID], {})
    return out.commit({})


def config_of(workers: int = 0, **changed: Any) -> EvaluateConfig:
    execution = EvaluateExecution(workers=workers, batch_users=8, item_chunk=16)
    return EvaluateConfig(execution=execution, **changed)


def evaluate(config: EvaluateConfig, prepared: Artifact, subject: Artifact | Baseline, storage: Storage) -> Artifact:
    """A fresh evaluation, not to be found again."""
    name = f"baseline:{subject}" if isinstance(subject, str) else subject.fingerprint
    stage_key = key(config, prepared.fingerprint, name)
    storage.delete(stage_key.folder)
    out = artifacts.begin(storage, stage_key)
    if isinstance(subject, str):
        return evaluate_baseline(config, subject, prepared, out)
    return evaluate_model(config, prepared, subject, out)


def content(evaluated: Artifact) -> tuple[pa.Table, pa.Table, dict[str, Any]]:
    """Everything that must be equal bit for bit."""
    ranks, top = (evaluated.read_table(name) for name in FILES)
    return ranks, top, {name: v for name, v in evaluated.manifest.info.items() if name not in ("seconds", "workers")}


def test_files_hold_every_test_user_once_and_agree_with_the_metrics(prepared: Artifact, storage: Storage) -> None:
    evaluated = evaluate(config_of(), prepared, make_trained(prepared), storage)
    ranks, top, metrics = content(evaluated)
    test = arrays.cases(prepared.local("test.arrow"))
    assert ranks[USER_IDX].to_pylist() == top[USER_IDX].to_pylist() == test.users.tolist()
    assert ranks[TARGET].to_pylist() == test.targets.tolist()
    assert ranks["history_length"].to_pylist() == test.histories.lengths.tolist()
    for name, column in (("seen_removed", RANK), ("all_items", RANK_UNFILTERED)):
        assert metrics["metrics"][name] == mean(per_user(ranks[column].to_numpy(), (5, 10, 20)))
    counts = prepared.read_table("items.parquet")["train_count"].to_numpy()
    assert ranks["target_count"].to_pylist() == counts[test.targets - 1].tolist()
    assert evaluated.manifest.counts == {"num_in": len(test), "num_out": len(test), "num_rejected": 0}


@pytest.mark.parametrize("config", OTHERS, ids=lambda config: config.kind)
def test_every_student_is_evaluated_as_it_was_exported(prepared: Artifact, storage: Storage, config: ModelConfig
                                                       ) -> None:
    ranks, _, _ = content(evaluate(config_of(), prepared, make_trained(prepared, config=config), storage))
    encoder = build_encoder(config, 40, 0)
    expected = rank_users(EncoderScorer(encoder), arrays.cases(prepared.local("test.arrow")), top_k=0)
    assert ranks[RANK].to_pylist() == expected.rank.tolist()
    assert ranks[RANK_UNFILTERED].to_pylist() == expected.rank_unfiltered.tolist()


def test_protocol_counts_cold_and_repeated_targets(storage: Storage) -> None:
    """Leave-one-out: the target of the first user is in its history, that of the second was never trained on."""
    prepared = make_prepared(storage, Sequences.from_lists([[1, 2, 3, 1], [2, 3, 1, 4], [1, 3, 2]]), items=4)
    protocol = evaluate(config_of(), prepared, "popularity", storage).manifest.info["protocol"]
    counts = {name: protocol[name] for name in
              ("num_users", "num_items", "num_cold_targets", "num_repeated_targets")}
    assert counts == {"num_users": 3, "num_items": 4, "num_cold_targets": 1, "num_repeated_targets": 1}


def test_the_main_protocol_can_be_all_items(prepared: Artifact, storage: Storage) -> None:
    evaluated = evaluate(config_of(filter_seen=False), prepared, "transitions", storage)
    assert evaluated.manifest.info["protocol"]["main"] == "all_items"


@pytest.mark.parametrize("name", ["popularity", "transitions", "item_knn", "ease"])
def test_held_out_items_leave_a_baselines_fit_alone(storage: Storage, name: Baseline) -> None:
    walks = [walk.tolist() for walk in make_sequences()]
    other = [[*walk[:-2], walk[-1], 1] if len(walk) >= 3 else walk for walk in walks]
    history = Sequences.from_lists([[5, 6, 7]])
    found = []
    for sequences in (walks, other):
        prepared = make_prepared(storage, Sequences.from_lists(sequences))
        scorer = sharding.BaselineModel(config_of(), name, prepared, 40).scorer()
        found.append(scorer.scores(scorer.states(history, np.arange(1)), 1, 41).tolist())
    assert walks != other
    assert found[0] == found[1]


def test_a_large_catalogue_skips_ease_and_says_why(prepared: Artifact, storage: Storage) -> None:
    evaluated = evaluate(config_of(ease=EASEConfig(max_items=39)), prepared, "ease", storage)
    ranks, top, metrics = content(evaluated)
    assert "40 items are more than evaluate.ease.max_items=39" in metrics["skipped"]
    assert (len(ranks), len(top)) == (0, 0)
    assert ranks.schema == evaluate(config_of(), prepared, "ease", storage).read_table("ranks.parquet").schema


def test_the_report_reads_the_lists_as_they_are(prepared: Artifact, storage: Storage) -> None:
    """Coverage and popularity of the first ten of twenty; the lists of a few users."""
    evaluated = evaluate(config_of(), prepared, "transitions", storage)
    counts_V = prepared.read_table("items.parquet")["train_count"].to_numpy()
    found = read_ranked(evaluated, read_cases(evaluated), counts_V)
    table = evaluated.read_table("top.parquet")
    for protocol, name in (("seen_removed", "top"), ("all_items", "top_unfiltered")):
        lists = table[name].to_pylist()
        listed = [item for items in lists for item in items[:10] if item]
        assert found.listed[protocol] == {  # type: ignore[index]
            "coverage@10": len(set(listed)) / 40,
            "popularity@10": pytest.approx(sum(counts_V[item - 1] for item in listed) / len(listed))}
        users = table[USER_IDX].to_pylist()
        assert found.lists(protocol, users[3:5]) == dict(zip(users[3:5], lists[3:5], strict=True))  # type: ignore[arg-type]
    short = evaluate(config_of(cutoffs=(3,), top_k=3), prepared, "transitions", storage)
    assert list(read_ranked(short, read_cases(short), counts_V).listed["all_items"]) == ["coverage@3", "popularity@3"]


def test_no_test_users_is_an_error(storage: Storage) -> None:
    prepared = make_prepared(storage, Sequences.from_lists([[1], [2, 1]]), items=2)
    with pytest.raises(DataError, match="test users: got 0"):
        evaluate(config_of(), prepared, "popularity", storage)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_model_gives_the_same_on_workers(prepared: Artifact, storage: Storage, ray_cluster: None, tmp_path: Path,
                                           monkeypatch: pytest.MonkeyPatch, workers: int) -> None:
    trained, rank, ranked_by = make_trained(prepared), sharding.rank_shards, tmp_path / "ranked-by"
    ranked_by.mkdir()

    def rank_and_tell(*args: Any) -> Any:
        (ranked_by / str(os.getpid())).write_text(os.environ.get("A_STAGE_S_OWN", ""))
        return rank(*args)

    monkeypatch.setattr(sharding, "rank_shards", rank_and_tell)
    config = config_of(workers)
    own = config.execution.model_copy(update={"runtime_env": {"env_vars": {"A_STAGE_S_OWN": "yes"}}})
    found = evaluate(config.model_copy(update={"execution": own}), prepared, trained, storage)
    assert {told.read_text() for told in ranked_by.iterdir()} == {"yes"}
    assert not (ranked_by / str(os.getpid())).exists()
    assert content(found) == content(evaluate(config_of(), prepared, trained, storage))


@pytest.mark.parametrize("workers", [0, 2])
def test_several_shards_of_a_task_and_several_row_groups_give_the_same(
        prepared: Artifact, storage: Storage, ray_cluster: None, monkeypatch: pytest.MonkeyPatch, workers: int) -> None:
    trained = make_trained(prepared)
    expected = content(evaluate(config_of(), prepared, trained, storage))
    monkeypatch.setattr(sharding, "_TASKS_PER_WORKER", 1)
    monkeypatch.setattr(tables, "_GROUP_ROWS", 20)
    found = evaluate(config_of(workers), prepared, trained, storage)
    assert content(found) == expected
    assert pq.ParquetFile(found.path("top.parquet")).num_row_groups > 1


@pytest.mark.parametrize("name", ["popularity", "transitions", "item_knn", "ease"])
def test_a_baseline_gives_the_same_on_workers(prepared: Artifact, storage: Storage, ray_cluster: None,
                                              name: Baseline) -> None:
    assert content(evaluate(config_of(2), prepared, name, storage)) == content(
        evaluate(config_of(), prepared, name, storage))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_model_of_another_catalogue_is_refused(prepared: Artifact, storage: Storage, ray_cluster: None,
                                                 workers: int) -> None:
    trained = make_trained(make_prepared(storage, prefix="other"))
    with pytest.raises(ArtifactError, match="item_digest") as caught:
        evaluate(config_of(workers), prepared, trained, storage)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_model_with_damaged_weights_stops_the_evaluation(prepared: Artifact, storage: Storage, ray_cluster: None,
                                                           workers: int) -> None:
    with pytest.raises(TrainingError, match="item 4: got nan"):
        evaluate(config_of(workers), prepared, make_trained(prepared, broken=True), storage)


def test_a_gpu_that_is_not_there_is_a_clear_error(prepared: Artifact, storage: Storage, ray_cluster: None) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    trained = make_trained(prepared)
    for workers in (0, 1):
        config = EvaluateConfig(execution=EvaluateExecution(workers=workers, use_gpu=True))
        with pytest.raises(MentorecError, match="use_gpu"):
            evaluate(config, prepared, trained, storage)
