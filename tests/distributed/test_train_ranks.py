"""Several gloo ranks against one process at the same global batch: same losses, same validation, no hang."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import spawn

from cluster.config import StorageConfig
from cluster.storage import Storage
from configs.errors import TrainingError
from models import row_shard
from models.config import (
    BERT4RecConfig,
    DistillationConfig,
    DistillationLossConfig,
    InfoNCEDistillation,
    ModelConfig,
    MSEDistillation,
    RMSEDistillation,
    SampledSoftmaxLoss,
    SASRecConfig,
)
from models.sequences import Sequences
from models.students import build_encoder
from pipeline.store.arrays import cases
from pipeline.train import validation
from pipeline.train.checkpoint import read_checkpoint
from pipeline.train.collaborative import TrainingMatrix
from pipeline.train.config import OptimizerConfig, TrainConfig
from pipeline.train.data import TrainingRows
from pipeline.train.ensemble_baselines import baseline_file, write_baselines
from pipeline.train.execution_config import TrainExecution
from pipeline.train.export import save_model
from pipeline.train.item_vectors import ItemVectors
from pipeline.train.loop import FAILURE, train_loop
from pipeline.train.session import LocalSession, first_whole
from pipeline.train.spec import TrainSpec
from pipeline.train.teaching_config import (
    ContentScores,
    EnsembleConfig,
    ItemKNNScores,
    MappedTextTable,
    Member,
    TransitionScores,
)
from tests.builders import make_prepared, make_sequences, make_targets, read_metrics
from tests.vectors import built, read_targets

BATCH = 6
USERS = 10 * BATCH + 1
"""The last global batch holds one row: no rank but the first has any."""
MODELS: dict[str, ModelConfig] = {"sasrec": SASRecConfig(hidden_dim=16, max_length=8, dropout=0.0),
                                  "bert4rec": BERT4RecConfig(hidden_dim=16, max_length=8, dropout=0.0)}
LOSSES: dict[str, DistillationLossConfig] = {"mse": MSEDistillation(), "rmse": RMSEDistillation(),
                                             "infonce": InfoNCEDistillation()}
MIXED = ("sasrec-mse", "bert4rec-rows", "bert4rec-shards")
"""Jobs that are begun by one worker and ended by two."""
JOBS = [*(f"{model}-{loss}" for model in MODELS for loss in LOSSES), "bert4rec-rows", "bert4rec-shards",
        "sasrec-tokens", "sasrec-taught"]
BY_ROWS = {"loss": SampledSoftmaxLoss(negatives=16, source="in_batch"),
           "optimizer": OptimizerConfig(table="rowwise", weight_decay=0.1)}
BASELINES = (ContentScores(components=5), TransitionScores(), ItemKNNScores(neighbors=7))
TAUGHT = {"item_table": MappedTextTable(), "ensemble": EnsembleConfig(
    members=(Member(arm="a"), Member(arm="b")), baselines=BASELINES, weight=0.7, temperature=1.5)}
"""Everything at once: a computed item table, profiles, two members and three baselines matched on perturbed histories.
"""
SHARDS = {"execution": TrainExecution(num_workers=0, log_every_steps=1, shard_item_table=True)}
FIELDS: dict[str, dict[str, Any]] = {"bert4rec-rows": BY_ROWS, "bert4rec-shards": BY_ROWS | SHARDS,
                                     "sasrec-tokens": {"batch_tokens": 40, "batch_size": 9}, "sasrec-taught": TAUGHT}


def spec_of(job: str, root: Path, **fields: Any) -> TrainSpec:
    model, loss = job.split("-")
    config = TrainConfig(**{
        "epochs": 6, "distill_epochs": 5, "batch_size": BATCH, "beta": True, "gradient_clip": 1.0, "alpha": 0.5,
        "distillation": DistillationConfig(loss=LOSSES.get(loss, MSEDistillation()), layer=1),
        "execution": TrainExecution(num_workers=0, log_every_steps=1)} | FIELDS.get(job, {}) | fields)
    shape = json.loads((root / "shape.json").read_text())
    if loss == "taught":
        shape |= {"texts": "texts.safetensors", "members": ("members/0", "members/1"),
                  "baselines": [baseline_file(place) for place in range(len(BASELINES))]}
    return TrainSpec(config=config, model=MODELS[model], arm="distilled", seed=0, fingerprint="f" * 16, folder=job,
                     targets="targets.safetensors", vectors="given.safetensors", **shape)


class Ranks(LocalSession):
    """A session of several gloo ranks that share a folder."""

    def __init__(self, storage: Storage, folder: str) -> None:
        super().__init__(storage, folder, torch.device("cpu"))
        self.rank, self.world_size = dist.get_rank(), dist.get_world_size()

    def report(self, metrics: dict[str, Any], checkpoint: Path | None) -> None:
        super().report(metrics, checkpoint)
        dist.barrier()


def one_rank(rank: int, world_size: int, root: Path) -> None:
    """Every job, then validation, a resumed run, a damaged checkpoint, a broken loss; results go to files."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{root}/rendezvous", rank=rank, world_size=world_size)
    storage = Storage.from_config(StorageConfig(uri=str(root)))
    out = root / f"ranks-{rank}"
    out.mkdir()
    row_shard.BLOCK_ROWS = 8
    for job in JOBS:
        (out / job).mkdir()
        train_loop(Ranks(storage, f"ranks/{job}"), spec_of(job, root), storage, out / job)
    (out / "validation.json").write_text(json.dumps(validate(storage, root, rank, world_size)))

    for job in MIXED:
        (out / f"mixed-{job}").mkdir()
        train_loop(Ranks(storage, f"mixed/{job}"), spec_of(job, root), storage, out / f"mixed-{job}")

    newest = sorted((root / "ranks/sasrec-mse").iterdir())[::-1]
    mine = [newest[0] if rank == 0 else root / "not here", newest[1]]
    found = first_whole((folder.name, folder) for folder in mine)
    (out / "agreed.json").write_text(json.dumps(found.name if found else None))

    wild = spec_of("sasrec-mse", root, optimizer=OptimizerConfig(lr=1e30), gradient_clip=None)
    try:
        train_loop(Ranks(storage, "wild"), wild.model_copy(update={"folder": "wild"}), storage, out)
    except TrainingError as exc:
        (out / "error.txt").write_text(str(exc))
    (out / "validation-error.txt").write_text(validate_broken(storage, root, rank, world_size))
    dist.destroy_process_group()


def validate_broken(storage: Storage, root: Path, rank: int, world_size: int) -> str:
    """What each rank says where the states of the first rank's users alone are not finite."""
    spec = spec_of("sasrec-mse", root)
    encoder = build_encoder(MODELS["sasrec"], 40, 0)
    if rank == 0:
        torch.nn.init.constant_(encoder.norm.bias, float("nan"))
    validator = validation.Validator(cases(storage.local(spec.validation)), spec.config, 0, rank, world_size)
    try:
        validator(encoder, torch.device("cpu"))
    except TrainingError as exc:
        return str(exc)
    return "finite"


def validate(storage: Storage, root: Path, rank: int, world_size: int) -> dict[str, float]:
    validation.BLOCK_CASES = 8
    config = spec_of("sasrec-mse", root).config.model_copy(update={"validation_users": 50})
    held_out = cases(storage.local(spec_of("sasrec-mse", root).validation))
    validator = validation.Validator(held_out, config, 0, rank, world_size)
    return validator(build_encoder(MODELS["sasrec"], 40, 0), torch.device("cpu"))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One worker and then two have trained every job here."""
    root = tmp_path_factory.mktemp("ranks")
    storage = Storage.from_config(StorageConfig(uri=str(root)))
    walks = [[*walk, 1, 2] for walk in make_sequences(USERS, longest=9)]
    walks = [[int(item) for item in walk] if len(walk) > 3 else [5, 6, 7, 8] for walk in walks]
    prepared = make_prepared(storage, Sequences.from_lists(walks))
    # Users with an even index only, and few of them: how many are in a batch differs from rank to rank.
    rows = read_targets(make_targets(storage, prepared, coverage=0.8))
    few = np.flatnonzero(rows.owners_N % 3 == 0)
    _, shape = built([(int(rows.owners_N[row]), "overall", rows.vectors_NP[row].tolist()) for row in few],
                     np.arange(USERS), root, standardize=True)
    (root / "shape.json").write_text(json.dumps({
        "num_items": 40, "profile_dim": shape.profile_dim, "num_angles": shape.num_angles,
        **{name: prepared.relative(f"{name}.arrow") for name in ("train", "validation")},
        "users": prepared.relative("users.parquet")}))
    for seed in (0, 1):
        (root / f"members/{seed}").mkdir(parents=True)
        save_model(root / f"members/{seed}", build_encoder(MODELS["sasrec"], 40, seed).state_dict(), MODELS["sasrec"],
                   pa.chunked_array([[str(item) for item in range(40)]]), {})
    vectors_VE = np.random.default_rng(0).normal(size=(40, 12)).astype(np.float32)
    texts = ItemVectors(vectors_VE, np.ones(40, bool))
    texts.save(root / "texts.safetensors")
    train_rows = TrainingRows.open(prepared.local("train.arrow"), build_encoder(MODELS["sasrec"], 1, 0))
    write_baselines(BASELINES, train_rows.sequences, texts, 0, TrainingMatrix(train_rows, 40, 0), root)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for job in JOBS:
        (root / "single" / job).mkdir(parents=True)
        session = LocalSession(storage, f"one/{job}", torch.device("cpu"))
        train_loop(session, spec_of(job, root), storage, root / "single" / job)
    torch.set_num_threads(threads)
    for job in MIXED:
        shutil.copytree(root / "one" / job / "checkpoint-000005", root / "mixed" / job / "checkpoint-000005")
    spawn(one_rank, args=(2, root), nprocs=2)
    return root


def steps(folder: Path) -> list[dict[str, Any]]:
    return [r for r in read_metrics(folder / "metrics.jsonl") if r["kind"] == "step"]


@pytest.mark.parametrize("job", JOBS)
def test_loss_curves_agree(root: Path, job: str) -> None:
    one, two = steps(root / "single" / job), steps(root / "ranks-0" / job)
    distilling = [r for r in one if r["alpha"] > 0]
    assert len(one) == len(two) == 6 * 11 and len(distilling) == 5 * 11
    for name in ("ranking", "matching", "distillation", "beta", "student_variance", "teacher_variance",
                 "gradient_norm"):
        assert [r.get(name, 0.0) for r in two] == pytest.approx([r.get(name, 0.0) for r in one], rel=1e-4), name
    for name in ("num_positions", "num_profiled", "retrieval", "step", "learning_rate"):
        assert [r.get(name) for r in two] == [r.get(name) for r in one], name
    assert {r["num_profiled"] for r in distilling} >= ({1.0, 2.0} if job == "sasrec-tokens" else {0.0, 1.0, 2.0})


@pytest.mark.parametrize("job", JOBS)
def test_the_kept_models_score_alike(root: Path, job: str) -> None:
    """Scores, not weights: key biases change no score, and Adam turns the rounding noise in them into steps."""
    scores_VV = []
    for side in ("one", "ranks"):
        saved = read_checkpoint(root / side / job / "checkpoint-000006", "f" * 16)
        assert (saved.progress.best_epoch, saved.progress.steps) == (6, 6 * 11)
        encoder = build_encoder(MODELS[job.split("-")[0]], 40, 0).eval()
        encoder.load_state_dict(saved.best or {})
        with torch.inference_mode():
            scores_VV.append(encoder.user_states_BD(torch.arange(1, 41)[:, None]) @ encoder.item_weights_VD().T)
    torch.testing.assert_close(scores_VV[1], scores_VV[0], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("epoch", [5, 6])
def test_a_divided_table_changes_no_bit(root: Path, epoch: int) -> None:
    """Neither of the weights nor of what the optimizer keeps nor, once there is one, of the best epoch."""
    whole, divided = (read_checkpoint(root / "ranks" / job / f"checkpoint-{epoch:06d}", "f" * 16)
                      for job in ("bert4rec-rows", "bert4rec-shards"))
    for name in ("model", "optimizer", "best"):
        expected, found = getattr(whole, name) or {}, getattr(divided, name) or {}
        assert found.keys() == expected.keys()
        assert [key for key, value in found.items() if not torch.equal(value, expected[key])] == [], name
    assert divided.progress.history == whole.progress.history
    assert (divided.best is None) == (epoch == 5)


def test_only_the_first_rank_keeps_a_log(root: Path) -> None:
    assert not (root / "ranks-1" / JOBS[0] / "metrics.jsonl").exists()


def test_validation_is_the_same_for_any_number_of_ranks(root: Path) -> None:
    before = validation.BLOCK_CASES
    storage = Storage.from_config(StorageConfig(uri=str(root)))
    alone = validate(storage, root, 0, 1)
    validation.BLOCK_CASES = before
    assert [json.loads((root / f"ranks-{r}/validation.json").read_text()) for r in (0, 1)] == [alone, alone]
    assert 0 < alone["ndcg@20"] < 1


def test_a_checkpoint_counts_only_if_every_rank_finds_it_whole(root: Path) -> None:
    assert [json.loads((root / f"ranks-{r}/agreed.json").read_text()) for r in (0, 1)] == ["checkpoint-000005"] * 2


def test_every_rank_raises_when_the_loss_is_not_finite(root: Path) -> None:
    first, second = ((root / f"ranks-{r}/error.txt").read_text() for r in (0, 1))
    assert first == second and "became NaN or Inf" in first
    assert json.loads((root / "wild" / FAILURE).read_text())["message"] == first


def test_every_rank_raises_when_one_ranks_validation_is_not_finite(root: Path) -> None:
    first, second = ((root / f"ranks-{r}/validation-error.txt").read_text() for r in (0, 1))
    assert first.startswith("score of user") and second == "validation: another worker's scores are NaN or infinite"


@pytest.mark.parametrize("job", MIXED)
def test_a_run_of_one_worker_goes_on_with_two(root: Path, job: str) -> None:
    """Nothing in a checkpoint depends on the number of workers."""
    one, mixed = steps(root / "single" / job), steps(root / "ranks-0" / f"mixed-{job}")
    assert mixed[:55] == one[:55]
    assert [r["ranking"] for r in mixed] == pytest.approx([r["ranking"] for r in one], rel=1e-4)
    assert len(mixed) == len(one)
