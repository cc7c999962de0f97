"""The protocol beside the figures: data, split, counts, ranking rules, training, selection."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.config import RunConfig
from pipeline.prepare.config import SyntheticSource
from pipeline.report.inputs import ReportInputs

SYNTHETIC = "signal built in: shows that the machinery works"
_COUNTED = {
    "users": "users", "items": "items", "interactions": "interactions", "mean_length": "mean interactions per user",
    "train_users": "training users", "train_items": "items in training", "train_interactions": "training interactions",
    "validation_users": "validation users", "test_users": "test users",
    "test_users_in_training": "test users with training history",
    "test_users_without_history_by_cold_start": "test users left out, their history made cold",
    "validation_users_without_history_by_cold_start": "validation users left out, their history made cold",
    "cold_items_removed": "items removed from training", "cold_items_cut": "items drawn to be cut",
    "validation_cold_targets": "cold validation targets (never in training)",
    "test_cold_targets": "cold test targets (never in training)",
    "test_cold_targets_share": "share of cold test targets",
    "test_repeated_targets_share": "share of test targets already in their history",
    "tied_rows_share": "share of rows tied in time", "test_tied_targets_share": "share of test targets tied in time",
    "boundary_iso": "split boundary", "boundary": "split boundary, Unix seconds",
}


def notice(config: RunConfig) -> str | None:
    """The line that goes with every figure on generated data."""
    return SYNTHETIC if isinstance(config.prepare.source, SyntheticSource) else None


def protocol(config: RunConfig, stats: Mapping[str, Any]) -> dict[str, Any]:
    """Settings in words, and the counts of `prepare`."""
    train, evaluate, cold = config.train, config.evaluate, config.prepare.cold_start
    switch = (f"; the first {train.distill_epochs} distil in the arms with a teacher (α {train.alpha:g}, "
              f"{train.alpha_schedule}; β {'on' if train.beta else 'off'}; {train.distillation.loss.kind} after block "
              f"{train.distillation.layer}, {train.distillation.pooling.kind} pooling)" if train.distill_epochs else "")
    batch = "of about a fortieth of the training users (16 to 512)" if train.batch_size is None else train.batch_size
    stop = train.early_stopping.patience_epochs
    kept = ("the last epoch is kept (compat: upstream)" if train.compat == "upstream" else
            f"best {train.validation_metric} on validation users, after the distilling epochs")
    return {
        "settings": {
            "source": config.prepare.source.kind,
            "filter": _words(config.prepare.filter.model_dump(mode="json")),
            "split": _words(config.prepare.split.model_dump(mode="json")),
            **({"cold start": _words(cold.model_dump(mode="json"))} if cold is not None else {}),
            "ranking": "the whole catalogue, cold items included; the target is never removed",
            "seen items": ("removed from the ranking in the main table, kept in the second" if evaluate.filter_seen else
                           "kept in the main table, removed from the ranking in the second"),
            "ties": f"items of equal score are ordered by a seeded hash (seed {evaluate.tie_seed})",
            "history at test": "all of the user's interactions before the target" + (
                ", but for training interactions of items that were made cold" if cold is not None else ""),
            "model": _words(config.model.model_dump(mode="json")),
            "start of the item embeddings": _item_start(config),
            "training": f"{train.epochs} epochs at most, batch {batch}, AdamW, learning rate "
                        f"{train.optimizer.lr:g}{switch}",
            "early stopping": f"after {stop} validations without a better one" if stop else "none",
            "selection": f"{kept}; the test split is not read before the figures below",
            "arms": "same initial served parameters, batch order and epochs for every arm of a seed" + (
                ", but for what a recipe sets" if any(arm in config.recipes for arm in config.arms) else ""),
            "seeds": ", ".join(map(str, config.seeds)),
        },
        "counts": {label: stats[name] for name, label in _COUNTED.items() if stats.get(name) is not None},
        "dropped": dict(stats.get("dropped", {})),
    }


def fingerprints(inputs: ReportInputs) -> dict[str, str]:
    """Step → fingerprint of every artifact that the figures come from."""
    before = {"prepare": inputs.prepared, "profile": inputs.profiles, "encode": inputs.encoded,
              "audit": inputs.audit, "reduce": inputs.targets}
    found = {label: artifact.fingerprint for label, artifact in before.items() if artifact is not None}
    for stage, artifacts in (("train", inputs.trained), ("evaluate", inputs.evaluated)):
        found |= {f"{stage}/{arm}/seed-{seed}": a.fingerprint for (arm, seed), a in artifacts.items()}
    return found | {f"evaluate/baseline/{name}": a.fingerprint for name, a in inputs.baselines.items()}


def cost(inputs: ReportInputs) -> dict[str, Any]:
    """What training took, by arm and seed; not part of the figures that a rerun must repeat."""
    return {f"{arm}/seed-{seed}": {"seconds": a.manifest.info.get("seconds"), "epochs": a.manifest.info.get("epochs"),
                                   "workers": a.manifest.info.get("world_sizes")}
            for (arm, seed), a in inputs.trained.items()}


def _item_start(config: RunConfig) -> str:
    init = config.train.item_init
    start = "random" if init is None else (f"the items' texts, encoded as the profiles are, {init.method} to the "
                                           f"student's width{', whitened' if init.whiten else ''}; without text random")
    return start if config.train.init_from is None else f"a trained model; items it lacks: {start}"


def _words(values: Mapping[str, Any]) -> str:
    """``kind: name=value, …`` of a settings group."""
    rest = ", ".join(f"{k}={v}" for k, v in values.items() if k != "kind" and v is not None)
    kind = values.get("kind")
    return rest if kind is None else f"{kind}: {rest}" if rest else str(kind)
