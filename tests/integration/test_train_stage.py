"""The train stage in one process: what it writes, what it never reads, and that a resumed run is the same run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from cluster.config import StorageConfig
from cluster.storage import Storage
from configs.errors import ArtifactError, ConfigError, ResourceError
from models.config import (
    BERT4RecConfig,
    ESASRecConfig,
    GRU4RecConfig,
    ModelConfig,
    RankingLossConfig,
    SampledSoftmaxLoss,
    SASRecConfig,
    SoftmaxLoss,
)
from models.matmul import HAS_BF16
from models.ranking import rank_users
from models.scoring import EncoderScorer
from models.sequences import Sequences
from models.students import build_encoder
from pipeline.store import artifacts
from pipeline.store.arrays import cases
from pipeline.store.artifacts import Artifact
from pipeline.store.columns import ITEM_ID
from pipeline.train import stage
from pipeline.train.config import Arm, EarlyStoppingConfig, OptimizerConfig, TrainConfig
from pipeline.train.execution_config import TrainExecution
from pipeline.train.export import load_model
from pipeline.train.keys import key
from pipeline.train.stage import train
from tests.builders import make_prepared, make_sequences, make_targets, read_metrics, train_arm
from tests.vectors import read_targets

SASREC = SASRecConfig(hidden_dim=16, max_length=8, dropout=0.2)
BERT4REC = BERT4RecConfig(hidden_dim=16, max_length=8, dropout=0.2)
ESASREC = ESASRecConfig(hidden_dim=16, max_length=8, dropout=0.2)
GRU4REC = GRU4RecConfig(hidden_dim=16, max_length=8, dropout=0.2, state_dim=12)
STUDENTS: tuple[ModelConfig, ...] = (SASREC, BERT4REC, ESASREC, GRU4REC)
every_student = pytest.mark.parametrize("model", STUDENTS, ids=lambda model: model.kind)
HERE = TrainExecution(num_workers=0, threads_per_worker=1, log_every_steps=2)
CONFIG = TrainConfig(epochs=5, distill_epochs=2, batch_size=16, beta=True,
                     early_stopping=EarlyStoppingConfig(patience_epochs=0), execution=HERE)


def changed(**fields: Any) -> TrainConfig:
    return CONFIG.model_copy(update=fields)


@pytest.fixture
def prepared(storage: Storage) -> Artifact:
    return make_prepared(storage)


@pytest.fixture
def targets(storage: Storage, prepared: Artifact) -> Artifact:
    return make_targets(storage, prepared)


def weights(artifact: Artifact) -> dict[str, torch.Tensor]:
    return load_file(artifact.local("model/model.safetensors"))


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@every_student
@pytest.mark.parametrize("arm", ["plain", "distilled", "shuffled", "random"])
def test_every_arm_exports_a_served_model(storage: Storage, prepared: Artifact, targets: Artifact, model: ModelConfig,
                                          arm: Arm) -> None:
    trained = train_arm(storage, prepared, targets, CONFIG, model, arm)
    info = trained.manifest.info
    assert 2 < info["best_epoch"] <= 5 == info["epochs"]
    assert [h["epoch"] for h in info["history"]] == [1, 2, 3, 4, 5]
    assert info["best_validation"] == max(h["ndcg@10"] for h in info["history"][2:])
    served = build_encoder(model, 40, 0).state_dict()
    assert {n: t.shape for n, t in weights(trained).items()} == {n: t.shape for n, t in served.items()}
    left = {name.split("/")[0] for name in trained.manifest.files}
    assert left == {"metrics.jsonl", "model", "tensorboard"}
    assert set(storage.names(trained.folder)) == left


def test_counts(storage: Storage, prepared: Artifact, targets: Artifact) -> None:
    lengths = make_sequences().lengths
    training = np.where(lengths >= 3, lengths - 2, lengths)
    for model, least in ((SASREC, 2), (BERT4REC, 1)):
        counts = train_arm(storage, prepared, targets, CONFIG, model).manifest.counts
        assert counts["num_in"] == 60
        assert counts["num_out"] == (training >= least).sum()
        assert counts["num_rejected"] == (training < least).sum()
        assert counts["num_validation"] == (lengths >= 3).sum()
        profiled = set(read_targets(targets).owners_N.tolist())
        assert counts["num_profiled"] == len(profiled & set(np.flatnonzero(training >= least)))


@pytest.mark.parametrize(("table", "loss", "told"), [("dense", SampledSoftmaxLoss(negatives=4), True),
                                                     ("rowwise", SampledSoftmaxLoss(negatives=4), False),
                                                     ("dense", SoftmaxLoss(), False)])
def test_a_dense_table_of_many_items_under_a_sampled_loss_is_told(
        storage: Storage, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
        table: Literal["dense", "rowwise"], loss: RankingLossConfig, told: bool) -> None:
    monkeypatch.setattr(stage, "_MANY_ITEMS", 10)
    config = changed(epochs=1, distill_epochs=0, loss=loss, optimizer=OptimizerConfig(table=table))
    train_arm(storage, make_prepared(storage), None, config, SASREC, "plain")
    assert ("with train.optimizer.table=rowwise only those that it reads" in capsys.readouterr().err) == told


def test_nobody_to_validate_on_is_told(storage: Storage, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing then ends the training early, or tells which epoch is best."""
    nobody = make_prepared(storage, Sequences.from_lists([[1, 2], [2, 3], [3, 1]] * 5))
    config = changed(epochs=3, distill_epochs=0, early_stopping=EarlyStoppingConfig())
    info = train_arm(storage, nobody, None, config, SASREC, "plain").manifest.info
    assert (info["epochs"], info["best_epoch"]) == (3, 3)
    assert "train: nobody to validate on: all 3 epochs are trained" in capsys.readouterr().err


@every_student
def test_the_exported_model_is_the_chosen_epoch(storage: Storage, prepared: Artifact, targets: Artifact,
                                                model: ModelConfig) -> None:
    trained = train_arm(storage, prepared, targets, CONFIG, model)
    encoder = load_model(trained.local("model"))
    held_out = cases(prepared.local("validation.arrow"))
    ranks = rank_users(EncoderScorer(encoder), held_out, top_k=0).rank
    ndcg = np.where(ranks <= 10, 1 / np.log2(1.0 + ranks), 0).mean()
    assert ndcg == pytest.approx(trained.manifest.info["best_validation"], abs=1e-12)


def test_training_learns(storage: Storage) -> None:
    prepared = make_prepared(storage, make_sequences(users=200, seed=1))
    config = changed(epochs=30, batch_size=32, optimizer=CONFIG.optimizer.model_copy(update={"lr": 5e-3}))
    trained = train_arm(storage, prepared, None, config, SASREC, "plain")
    assert trained.manifest.info["best_validation"] > 0.4  # by chance: mean of 1 / log2(1 + rank ≤ 10) over 40, 0.11
    assert trained.manifest.info["history"][0]["ndcg@10"] < 0.25


def test_the_test_split_is_never_read(storage: Storage, prepared: Artifact, targets: Artifact) -> None:
    for name in ("test.arrow", "interactions.parquet", "histories"):
        storage.delete(prepared.relative(name))
    assert train_arm(storage, prepared, targets, CONFIG, SASREC).manifest.info["best_validation"] > 0


def test_arms_start_alike_and_see_the_same_batches(storage: Storage, prepared: Artifact, targets: Artifact) -> None:
    """With α = 0 the distilled arm is the plain one, bit for bit: same initial weights, order, masks, dropout."""
    config = changed(alpha=0.0, switch_optimizer="reset", finetune_lr=5e-4)
    for model in STUDENTS:
        plain = train_arm(storage, prepared, None, config, model, "plain")
        silent = train_arm(storage, prepared, targets, config, model, "distilled")
        assert same(weights(plain), weights(silent))
        other = train_arm(storage, prepared, targets, changed(), model, "distilled")
        assert not same(weights(plain), weights(other))


def test_metrics_show_both_sides(storage: Storage, prepared: Artifact, targets: Artifact) -> None:
    trained = train_arm(storage, prepared, targets, CONFIG, SASREC)
    records = read_metrics(trained.local("metrics.jsonl"))
    epochs = [r for r in records if r["kind"] == "epoch"]
    assert [(r["epoch"], r["phase"]) for r in epochs] == [(1, 1), (2, 1), (3, 2), (4, 2), (5, 2)]
    shown = {"distillation", "beta", "student_variance", "teacher_variance", "retrieval"}
    assert all(shown <= r.keys() for r in epochs[:2])
    assert not any(shown & r.keys() for r in epochs[2:])
    steps = [r for r in records if r["kind"] == "step"]
    assert [r["step"] for r in steps] == list(range(2, epochs[-1]["step"] + 1, 2))
    assert {r["alpha"] for r in steps if r["epoch"] <= 2} == {0.4}
    assert {r["alpha"] for r in steps if r["epoch"] > 2} == {0.0}
    events = list(trained.local("tensorboard").iterdir())
    assert len(events) == 1 and events[0].stat().st_size > 1000


class Interrupted(Exception):
    pass


def interrupt_at(epoch: int) -> Any:
    def stop(record: dict[str, Any]) -> None:
        if record["epoch"] == epoch:
            raise Interrupted

    return stop


@pytest.mark.parametrize(("model", "fields"), [
    (SASREC, {}),
    (SASREC, {"switch_optimizer": "reset", "finetune_lr": 5e-4, "gradient_clip": 0.5}),
    (BERT4REC, {"early_stopping": EarlyStoppingConfig(patience_epochs=1), "validation_users": 20}),
    (SASREC, {"execution": HERE.model_copy(update={"checkpoint_every_epochs": 2})}),
    (ESASREC, {}),
    (GRU4REC, {}),
])
@pytest.mark.parametrize("epoch", [1, 2, 3])
def test_a_resumed_run_is_the_same_run(tmp_path: Path, model: ModelConfig, fields: dict[str, Any], epoch: int) -> None:
    outcome = []
    for name, stops in (("whole", []), ("broken", [epoch, epoch + 1])):
        storage = Storage.from_config(StorageConfig(uri=str(tmp_path / name)))
        prepared = make_prepared(storage)
        targets = make_targets(storage, prepared)
        for stop in stops:
            with pytest.raises(Interrupted):
                train_arm(storage, prepared, targets, changed(**fields), model, on_epoch=interrupt_at(stop))
        outcome.append(train_arm(storage, prepared, targets, changed(**fields), model))
    whole, broken = outcome
    assert same(weights(whole), weights(broken))
    assert whole.local("metrics.jsonl").read_bytes() == broken.local("metrics.jsonl").read_bytes()
    for name in ("best_epoch", "history", "epochs", "steps", "stopped_early"):
        assert whole.manifest.info[name] == broken.manifest.info[name]
    assert len(list(broken.local("tensorboard").iterdir())) == 1


def test_an_object_store_holds_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A filesystem whose paths are not this machine's: files are fetched, checkpoints and results uploaded."""
    monkeypatch.setattr("cluster.node_copies.NODE_CACHE", tmp_path / "cache")
    (tmp_path / "bucket").mkdir()
    remote = Storage(pafs.SubTreeFileSystem(str(tmp_path / "bucket"), pafs.LocalFileSystem()), "prefix")
    local = Storage.from_config(StorageConfig(uri=str(tmp_path / "local")))
    outcome = []
    for storage in (local, remote):
        prepared = make_prepared(storage)
        targets = make_targets(storage, prepared)
        with pytest.raises(Interrupted):
            train_arm(storage, prepared, targets, CONFIG, SASREC, on_epoch=interrupt_at(3))
        attempt = storage.files("artifacts/train")[1].rsplit("/attempts/")[0]
        assert sum("checkpoint-" in f and f.endswith("state.json") for f in storage.files(attempt)) == 2
        outcome.append(train_arm(storage, prepared, targets, CONFIG, SASREC))
    assert same(weights(outcome[0]), weights(outcome[1]))
    logs = [a.storage.read_bytes(a.relative("metrics.jsonl")) for a in outcome]
    assert logs[0] == logs[1]
    names = [{n for n in a.manifest.files if "tfevents" not in n} for a in outcome]
    assert names[0] == names[1]
    assert any("tfevents" in name for name in outcome[1].manifest.files)


def test_execution_settings_change_nothing(storage: Storage, prepared: Artifact, targets: Artifact) -> None:
    other = HERE.model_copy(update={"checkpoint_every_epochs": 3, "log_every_steps": 7, "max_failures": 0})
    keys = [key(changed(execution=e), SASREC, "distilled", 0, "p", "r").fingerprint for e in (HERE, other)]
    assert keys[0] == keys[1]
    first = weights(train_arm(storage, prepared, targets, CONFIG, SASREC))
    storage.delete("artifacts/train")
    assert same(first, weights(train_arm(storage, prepared, targets, changed(execution=other), SASREC)))


def test_only_arms_with_a_teacher_depend_on_it() -> None:
    def fingerprint(arm: Arm, reduce_fp: str | None = "r", **fields: Any) -> str:
        return key(changed(**fields), SASREC, arm, 0, "p", reduce_fp).fingerprint

    assert fingerprint("plain") == fingerprint("plain", None, alpha=0.9) == fingerprint("plain", "other")
    assert fingerprint("plain") != fingerprint("plain", epochs=6)
    for arm in ("distilled", "shuffled", "random"):
        assert len({fingerprint(arm), fingerprint(arm, "other"), fingerprint(arm, alpha=0.9)}) == 3
    with pytest.raises(ConfigError, match="needs the profile vectors"):
        fingerprint("shuffled", None)


def test_the_global_random_state_is_left_alone(storage: Storage, prepared: Artifact) -> None:
    torch.manual_seed(123)
    expected = torch.rand(3)
    torch.manual_seed(123)
    train_arm(storage, prepared, None, CONFIG, SASREC, "plain")
    assert torch.equal(torch.rand(3), expected)


def test_upstream_keeps_the_last_epoch(storage: Storage, prepared: Artifact, targets: Artifact) -> None:
    info = train_arm(storage, prepared, targets, changed(compat="upstream"), SASREC).manifest.info
    assert info["best_epoch"] == 5
    assert info["best_validation"] == info["history"][-1]["ndcg@10"]


def test_nobody_to_validate_on(storage: Storage) -> None:
    walks = Sequences.from_lists([[1, 2], [2, 3], [3, 1]])
    prepared = make_prepared(storage, walks, items=3)
    info = train_arm(storage, prepared, None, CONFIG, SASREC, "plain").manifest.info
    assert info["best_epoch"] == 5 and info["best_validation"] is None and info["history"] == []


def test_validation_now_and_then_and_at_the_end(storage: Storage, prepared: Artifact) -> None:
    info = train_arm(storage, prepared, None, changed(validate_every_epochs=2), SASREC, "plain").manifest.info
    assert [h["epoch"] for h in info["history"]] == [2, 4, 5]


def test_several_profiles_per_user(storage: Storage, prepared: Artifact) -> None:
    several = make_targets(storage, prepared, angles=("overall", "recent"), coverage=0.5)
    attention = CONFIG.distillation.model_copy(update={"profile_aggregation": "attention"})
    trained = train_arm(storage, prepared, several, changed(distillation=attention), SASREC)
    assert trained.manifest.info["teacher"]["angles"] == 2


def test_mixed_precision(storage: Storage, prepared: Artifact, targets: Artifact) -> None:
    full = train_arm(storage, prepared, targets, CONFIG, SASREC)
    half = train_arm(storage, prepared, targets, changed(precision="bf16"), SASREC)
    losses = [[r["ranking"] for r in read_metrics(a.local("metrics.jsonl")) if r["kind"] == "epoch"]
              for a in (full, half)]
    assert (losses[0] != losses[1]) == HAS_BF16
    assert losses[1] == pytest.approx(losses[0], rel=0.02)
    assert {t.dtype for t in weights(half).values()} == {torch.float32}


@every_student
@pytest.mark.parametrize("by_path", [False, True])
def test_upgrade_a_trained_model_to_a_grown_catalogue(storage: Storage, by_path: bool, model: ModelConfig) -> None:
    small, grown = [[1, 2, 3, 4, 5], [2, 3, 4, 5, 1], [3, 4, 5, 1, 2]], [[1, 7, 3, 4, 6], [6, 3, 4, 5, 1]]
    old_data = make_prepared(storage, Sequences.from_lists(small), items=5)
    new_data = make_prepared(storage, Sequences.from_lists(grown), items=7)
    old = train_arm(storage, old_data, None, CONFIG, model, "plain")
    source = str(old.local("model")) if by_path else old.fingerprint
    config = changed(init_from=source, epochs=1, distill_epochs=0,
                     optimizer=CONFIG.optimizer.model_copy(update={"lr": 1e-12}))
    new = train_arm(storage, new_data, None, config, model, "plain", seed=5)
    assert new.manifest.info["start"] == {
        "model": source, "matched_items": 5, "items_from_text": 0, "fresh_items": 2}
    before, after = weights(old), weights(new)
    fresh = build_encoder(model, 7, 5).state_dict()["item_embedding.weight"]
    table = after.pop("item_embedding.weight")
    torch.testing.assert_close(table[:6], before["item_embedding.weight"][:6])
    torch.testing.assert_close(table[6:8], fresh[6:8])
    torch.testing.assert_close(table[8:], before.pop("item_embedding.weight")[6:])
    for name, value in after.items():
        torch.testing.assert_close(value, before[name])


def test_a_model_of_another_catalogue_is_no_start(storage: Storage, prepared: Artifact) -> None:
    old = train_arm(storage, prepared, None, CONFIG, SASREC, "plain")
    folder = old.local("model")
    items = pq.read_table(folder / "items.parquet")
    foreign = pa.array([f"x{place}" for place in range(len(items))])
    pq.write_table(items.set_column(items.schema.get_field_index(ITEM_ID), ITEM_ID, foreign), folder / "items.parquet")
    with pytest.raises(ArtifactError, match=r"knows none of the \d+ items of this data \(its ids are like 'x0', here"):
        train_arm(storage, prepared, None, changed(init_from=str(folder)), SASREC, "plain")


def test_a_model_of_other_dimensions_is_no_start(storage: Storage, prepared: Artifact) -> None:
    old = train_arm(storage, prepared, None, CONFIG, SASREC, "plain")
    wider = SASRecConfig(hidden_dim=32, max_length=10, dropout=0.5)
    with pytest.raises(ArtifactError, match=r"hidden_dim: 16 → 32, max_length: 8 → 10"):
        train_arm(storage, prepared, None, changed(init_from=old.fingerprint), wider, "plain")
    with pytest.raises(ArtifactError, match="no finished `train` artifact 'ffffffffffffffff'"):
        train_arm(storage, prepared, None, changed(init_from="f" * 16), SASREC, "plain")
    with pytest.raises(ConfigError, match="has no model.json"):
        train_arm(storage, prepared, None, changed(init_from=str(storage.path("nowhere"))), SASREC, "plain")


def test_loading_refuses_what_does_not_fit(storage: Storage, prepared: Artifact) -> None:
    folder = train_arm(storage, prepared, None, CONFIG, SASREC, "plain").local("model")
    assert load_model(folder, expected=SASREC.model_copy(update={"dropout": 0.9})).num_items == 40
    with pytest.raises(ArtifactError, match="kind: 'sasrec' → 'bert4rec'"):
        load_model(folder, expected=BERT4REC)
    with pytest.raises(ArtifactError, match="item_digest: .* → 'other'"):
        load_model(folder, item_digest="other")
    card = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps({**card, "num_items": 39}))
    with pytest.raises(ArtifactError, match=r"item_embedding.weight: \[41, 16\] → \[40, 16\]"):
        load_model(folder)
    (folder / "model.safetensors").write_bytes(b"\x80\x04not safetensors")
    with pytest.raises(ArtifactError, match="cannot be read"):
        load_model(folder)
    (folder / "model.json").unlink()
    with pytest.raises(ArtifactError, match="is not an exported model"):
        load_model(folder)


def test_what_is_refused_at_the_door(storage: Storage, prepared: Artifact, targets: Artifact,
                                     monkeypatch: pytest.MonkeyPatch) -> None:
    out = artifacts.begin(storage, key(CONFIG, SASREC, "plain", 0, prepared.fingerprint, None))
    deep = CONFIG.distillation.model_copy(update={"layer": 2})
    with pytest.raises(ConfigError, match="needs the `reduce` artifact"):
        train(CONFIG, SASREC, "distilled", 0, prepared, None, out)
    with pytest.raises(ConfigError, match="train.distillation.layer: got 2; legal: 0…1"):
        train(changed(distillation=deep), SASREC, "distilled", 0, prepared, targets, out)
    for alone in (0, 1):
        divided = changed(execution=TrainExecution(num_workers=alone, shard_item_table=True))
        with pytest.raises(ConfigError, match="shard_item_table: got True; legal: with num_workers of 2 or more"):
            train(divided, SASREC, "plain", 0, prepared, None, out)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ResourceError, match="train.execution.use_gpu: torch sees no GPU in this process; set it to"):
        train(changed(execution=TrainExecution(num_workers=0, use_gpu=True)), SASREC, "plain", 0, prepared, None, out)


def test_with_dropout_two_workers_are_another_address_than_one() -> None:
    def fingerprint(workers: int | tuple[int, int], dropout: float) -> str:
        execution = CONFIG.execution.model_copy(update={"num_workers": workers})
        return key(changed(execution=execution), SASREC.model_copy(update={"dropout": dropout}), "plain", 0, "p",
                   None).fingerprint

    assert fingerprint(0, 0.2) == fingerprint(1, 0.2) != fingerprint(2, 0.2)
    assert fingerprint(2, 0.2) != fingerprint(3, 0.2)
    assert fingerprint(1, 0.0) == fingerprint(2, 0.0) == fingerprint((1, 2), 0.0)
    assert len({fingerprint(workers, 0.2) for workers in (1, 2, (1, 2))}) == 3
