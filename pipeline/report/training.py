"""Learning curves and the balance of the losses, from `metrics.jsonl` of the trained arms."""

from __future__ import annotations

import json
from typing import Any, Final

import numpy as np

from pipeline.store.artifacts import Artifact
from pipeline.train.config import Arm, TrainConfig
from pipeline.train.schedule import Schedule

_LOGGED: Final = ("ranking", "distillation", "beta", "student_variance", "teacher_variance", "retrieval",
                  "retrieval_by_chance")
_DIGITS: Final = 6
"""Significant digits of the curves' points."""


def curves(config: TrainConfig, arm: Arm, trained: Artifact) -> dict[str, Any]:
    """One training, epoch by epoch; None where an epoch has no such value (not validated, not distilling).

    ``weighted_ranking`` and ``weighted_distillation`` are the two terms of ECIR'26, eq. 5, as they were added; where
    epochs match an ensemble, what they add stands in place of L_model.
    """
    lines = trained.storage.read_bytes(trained.relative("metrics.jsonl")).splitlines()
    epochs = [record for record in map(json.loads, lines) if record["kind"] == "epoch"]
    info = trained.manifest.info
    series: dict[str, list[float | None]] = {name: [_short(e.get(name)) for e in epochs] for name in _LOGGED}
    alpha = [_mean_alpha(config, arm, e["epoch"], e["step"] // e["epoch"]) for e in epochs]
    beside = [_beside(config, e) for e in epochs]
    distils = [a > 0 and e.get("distillation") is not None for a, e in zip(alpha, epochs, strict=True)]
    for name in ("distillation", "beta"):
        series[name] = [v if d else None for v, d in zip(series[name], distils, strict=True)]
    return {
        "metric": config.validation_metric,
        "epoch": [e["epoch"] for e in epochs],
        "validation": [_short(e.get(config.validation_metric)) for e in epochs],
        **series,
        "alpha": [_short(a) for a in alpha],
        "weighted_ranking": [_short((1 - a) * value) for a, value in zip(alpha, beside, strict=True)],
        "weighted_distillation": [_short(a * e["beta"] * e["distillation"]) if d else None
                                  for a, d, e in zip(alpha, distils, epochs, strict=True)],
        "best_epoch": info["best_epoch"], "best_validation": info["best_validation"],
        "epochs_run": len(epochs), "stopped_early": info.get("stopped_early", False),
    }


def _beside(config: TrainConfig, epoch: dict[str, Any]) -> float:
    """What stands beside distillation in an epoch: L_model, or with an ensemble (1 - w)·L_model + w·L_match."""
    ensemble, ranking = config.ensemble, float(epoch["ranking"])
    if ensemble is None or (ensemble.epochs is not None and epoch["epoch"] > ensemble.epochs):
        return ranking
    return (1 - ensemble.weight) * ranking + ensemble.weight * float(epoch["matching"])


def balance(by_seed: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """First and last distilling epoch of an arm, means over seeds; empty where nothing was distilled."""
    rows = []
    for label, place in (("first distilling epoch", 0), ("last distilling epoch", -1)):
        found = []
        for series in by_seed.values():
            distilled = [i for i, v in enumerate(series["weighted_distillation"]) if v is not None]
            if distilled:
                found.append({name: series[name][distilled[place]] for name in (
                    "epoch", "alpha", "weighted_ranking", "weighted_distillation", *_LOGGED)})
        if found:
            row: dict[str, Any] = {"label": label}
            for name in found[0]:
                values = [f[name] for f in found if f[name] is not None]
                row[name] = float(np.mean(values)) if values else None
            both = row["weighted_ranking"] + row["weighted_distillation"]
            row["distillation_share"] = row["weighted_distillation"] / both if both > 0 else None
            rows.append(row)
    return rows


def _mean_alpha(config: TrainConfig, arm: Arm, epoch: int, steps_per_epoch: int) -> float:
    """α of an epoch (from 1), mean over its steps."""
    schedule = Schedule(config, arm, steps_per_epoch)
    first = (epoch - 1) * steps_per_epoch
    return float(np.mean([schedule.alpha(step) for step in range(first, first + steps_per_epoch)]))


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.{_DIGITS}g}")
