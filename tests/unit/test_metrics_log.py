"""The metrics of a training as JSON lines and as TensorBoard reads them."""

from __future__ import annotations

import json
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from pipeline.train.metrics_log import METRICS_FILE, TENSORBOARD, MetricsLog

STEP = {"kind": "step", "epoch": 1, "step": 50, "ranking": 2.5}
EPOCH = {"kind": "epoch", "epoch": 1, "step": 80, "phase": 1, "ranking": 1.25}


def test_both_hold_what_was_written_before_and_after_a_checkpoint(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path)
    log.write(STEP)
    earlier = log.content()
    log.write({**EPOCH, "ranking": 9.0})  # after the checkpoint: cut off
    log.close()
    log = MetricsLog(tmp_path, earlier)
    log.write(EPOCH)
    log.close()
    assert [json.loads(line) for line in (tmp_path / METRICS_FILE).read_text().splitlines()] == [STEP, EPOCH]
    events = EventAccumulator(str(tmp_path / TENSORBOARD)).Reload()
    assert sorted(events.Tags()["scalars"]) == ["epoch/epoch", "epoch/ranking", "step/epoch", "step/ranking"]
    assert [(e.step, e.value) for e in events.Scalars("step/ranking")] == [(50, 2.5)]
    assert [(e.step, e.value) for e in events.Scalars("epoch/ranking")] == [(80, 1.25)]
