"""Checkpoints: whole or refused, newest first, damaged ones stepped over."""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from cluster.storage import Storage
from configs.errors import ArtifactError, StorageError, TrainingError
from pipeline.train import checkpoint as checkpoints
from pipeline.train.checkpoint import (
    BEST,
    MODEL,
    STATE,
    Checkpoint,
    Progress,
    damage,
    read_checkpoint,
    read_outcome,
    write_checkpoint,
)
from pipeline.train.optimizer_state import optimizer_tensors, restore_optimizer
from pipeline.train.session import LocalSession

FILES = ("model.safetensors", "optimizer.safetensors", "best.safetensors", "state.json", "metrics.jsonl")


def make(epochs: int, best: bool = True) -> Checkpoint:
    weights = {"w": torch.full((3, 2), float(epochs))}
    return Checkpoint(Progress("fp", epochs=epochs, steps=10 * epochs, history=[{"epoch": 1, "ndcg@10": 0.1}]), weights,
                      {"w/exp_avg": torch.ones(3, 2)}, weights if best else None, b'{"kind": "epoch"}\n')


def session_with(storage: Storage, epochs: int) -> LocalSession:
    session = LocalSession(storage, "run/checkpoints", torch.device("cpu"))
    for epoch in range(1, epochs + 1):
        folder = session.new_folder()
        write_checkpoint(folder, make(epoch))
        session.report({"epoch": epoch}, folder)
    return session


def test_round_trip(tmp_path: Path) -> None:
    written = make(3)
    write_checkpoint(tmp_path, written)
    assert damage(tmp_path) is None
    read = read_checkpoint(tmp_path, "fp")
    assert read.progress == written.progress
    assert read.metrics == written.metrics
    assert read.best is not None and written.best is not None
    for a, b in ((read.model, written.model), (read.optimizer, written.optimizer), (read.best, written.best)):
        assert a.keys() == b.keys()
        assert all(torch.equal(a[name], b[name]) for name in a)


def test_no_best_yet(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, make(1, best=False))
    assert not (tmp_path / BEST).exists()
    assert read_checkpoint(tmp_path, "fp").best is None


@pytest.mark.parametrize("name", FILES)
def test_a_truncated_file_is_noticed(tmp_path: Path, name: str) -> None:
    write_checkpoint(tmp_path, make(1))
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[:-1])
    assert name in (damage(tmp_path) or "")


@pytest.mark.parametrize("name", [*FILES, "digests.json"])
def test_a_missing_file_is_noticed(tmp_path: Path, name: str) -> None:
    write_checkpoint(tmp_path, make(1))
    (tmp_path / name).unlink()
    assert name in (damage(tmp_path) or "")


def test_a_flipped_bit_is_noticed(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, make(1))
    content = bytearray((tmp_path / MODEL).read_bytes())
    content[-1] ^= 1
    (tmp_path / MODEL).write_bytes(bytes(content))
    assert MODEL in (damage(tmp_path) or "")


def test_other_settings_are_refused(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, make(1))
    with pytest.raises(ArtifactError, match="belongs to fp, not to other"):
        read_checkpoint(tmp_path, "other")


def test_two_are_kept_and_the_newest_is_found(storage: Storage) -> None:
    session = session_with(storage, 4)
    assert storage.names("run/checkpoints") == ["checkpoint-000003", "checkpoint-000004"]
    latest = session.latest_checkpoint()
    assert latest is not None and read_checkpoint(latest, "fp").progress.epochs == 4


def test_nothing_to_go_on_from(storage: Storage) -> None:
    assert session_with(storage, 0).latest_checkpoint() is None


def test_a_damaged_one_is_stepped_over_with_a_warning(storage: Storage, caplog: pytest.LogCaptureFixture) -> None:
    session = session_with(storage, 3)
    broken = Path(storage.path("run/checkpoints/checkpoint-000003")) / MODEL
    broken.write_bytes(broken.read_bytes()[:20])
    with caplog.at_level(logging.WARNING):
        latest = session.latest_checkpoint()
    assert latest is not None and latest.name == "checkpoint-000002"
    assert "checkpoint-000003 is damaged (model.safetensors is not what was written)" in caplog.text


def test_damaged_ones_never_outlive_newer_ones(storage: Storage) -> None:
    session = session_with(storage, 5)
    for name in storage.names("run/checkpoints"):
        (Path(storage.path(f"run/checkpoints/{name}")) / STATE).write_text("{")
    assert session.latest_checkpoint() is None
    folder = session.new_folder()
    write_checkpoint(folder, make(1))
    session.report({"epoch": 1}, folder)
    assert storage.names("run/checkpoints") == ["checkpoint-000001"]


def test_an_unfinished_folder_is_no_checkpoint(storage: Storage) -> None:
    session = session_with(storage, 2)
    shutil.copytree(storage.path("run/checkpoints/checkpoint-000002"), session.new_folder(), dirs_exist_ok=True)
    latest = session.latest_checkpoint()
    assert latest is not None and latest.name == "checkpoint-000002"


@pytest.mark.parametrize(("number", "cause"), [
    (errno.ENOSPC, "the disk is full"), (errno.EACCES, "no permission"), (errno.EROFS, "the file system is read-only")])
def test_a_disk_that_takes_nothing_leaves_the_last_good_one(storage: Storage, monkeypatch: pytest.MonkeyPatch,
                                                            number: int, cause: str) -> None:
    session = session_with(storage, 1)

    def full(*_: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(checkpoints, "save_file", full)
    folder = session.new_folder()
    with pytest.raises(StorageError, match=f"checkpoint after epoch 2.*, 0 MiB: {cause}.*is untouched"):
        write_checkpoint(folder, make(2))
    assert not folder.exists()
    latest = session.latest_checkpoint()
    assert latest is not None and read_checkpoint(latest, "fp").progress.epochs == 1


def test_the_optimizer_goes_on_where_it_was() -> None:
    def build() -> tuple[torch.nn.Linear, torch.optim.AdamW]:
        torch.manual_seed(0)
        layer = torch.nn.Linear(3, 2)
        return layer, torch.optim.AdamW(layer.parameters(), lr=0.1, fused=True)

    def step(layer: torch.nn.Linear, optimizer: torch.optim.AdamW, seed: int) -> None:
        optimizer.zero_grad()
        layer(torch.randn(4, 3, generator=torch.Generator().manual_seed(seed))).square().sum().backward()
        optimizer.step()

    one, adam = build()
    for seed in range(3):
        step(one, adam, seed)
    names = [name for name, _ in one.named_parameters()]
    tensors = optimizer_tensors(adam, names)
    assert set(tensors) == {f"{n}/{k}" for n in ("weight", "bias") for k in ("step", "exp_avg", "exp_avg_sq")}
    other, fresh = build()
    other.load_state_dict(one.state_dict())
    restore_optimizer(fresh, names, {name: value.clone() for name, value in tensors.items()})
    step(one, adam, 9)
    step(other, fresh, 9)
    assert torch.equal(one.weight, other.weight) and torch.equal(one.bias, other.bias)


def test_the_state_is_plain_json(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, make(2))
    assert json.loads((tmp_path / STATE).read_text())["steps"] == 2 * 10


def test_an_unfinished_training_has_no_outcome(tmp_path: Path) -> None:
    saved = make(3)
    write_checkpoint(tmp_path, saved)
    with pytest.raises(TrainingError, match="stopped after epoch 3, before its end; .*run the same command again"):
        read_outcome(tmp_path, "fp")
    saved.progress.finished = True
    shutil.rmtree(tmp_path)
    tmp_path.mkdir()
    write_checkpoint(tmp_path, saved)
    assert read_outcome(tmp_path, "fp").progress.epochs == 3
