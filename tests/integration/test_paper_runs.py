"""Every configuration of the paper prepares its own raw layout and takes 20 training steps or more."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from cluster.storage import Storage
from configs.files import SHIPPED
from configs.loader import load
from pipeline.config import RunConfig
from pipeline.prepare import keys as prepare_keys
from pipeline.prepare.config import SyntheticSource
from pipeline.prepare.raw_layouts import write_raw_layout
from pipeline.prepare.stage import prepare
from pipeline.reduce.config import UMAPReducer
from pipeline.store import artifacts
from tests.builders import make_targets, train_arm

GENERATED = SyntheticSource(users=300, items=90, mean_length=9.0, tastes=8, seed=4)
STEPS = 20
NAMES = sorted(path.stem for path in (SHIPPED / "paper").glob("*.yaml"))


@pytest.mark.parametrize("name", NAMES)
def test_prepares_and_takes_twenty_steps(name: str, storage: Storage, tmp_path: Path,
                                         monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MENTOREC_DATA", str(tmp_path))
    config = load(RunConfig, f"paper/{name}.yaml",
                  [f"train.epochs={STEPS}", f"train.distill_epochs={STEPS // 2}", "train.execution.num_workers=0",
                   "train.execution.threads_per_worker=1"])
    dataset = name.rpartition("-")[0]
    write_raw_layout(config.prepare.source.kind, GENERATED, tmp_path / "paper" / dataset)
    prepared = prepare(config.prepare, artifacts.begin(storage, prepare_keys.key(config.prepare)))
    assert prepared.manifest.counts["train_users"] > 100
    assert isinstance(config.reduce.method, UMAPReducer)
    targets = make_targets(storage, prepared, width=config.reduce.method.components)

    trained = train_arm(storage, prepared, targets, config.train, config.model)

    info = trained.manifest.info
    assert info["steps"] >= STEPS
    epochs = [json.loads(line) for line in trained.local("metrics.jsonl").read_text().splitlines()]
    epochs = [record for record in epochs if record["kind"] == "epoch"]
    assert [record["epoch"] for record in epochs] == list(range(1, STEPS + 1))
    assert all(math.isfinite(record["ranking"]) for record in epochs)
    assert all(record["distillation"] > 0 for record in epochs[: STEPS // 2])
    assert epochs[-1]["ranking"] < epochs[0]["ranking"]
