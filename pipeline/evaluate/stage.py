"""The `evaluate` stage: a trained model or a baseline → ranks, recommendations and metrics on the test users.

The test split is read here and nowhere else; nothing is fitted or chosen on it.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pyarrow as pa

from configs.errors import DataError, illegal
from models.sequences import Cases
from pipeline.evaluate.config import Baseline, EvaluateConfig
from pipeline.evaluate.definition import COLUMNS
from pipeline.evaluate.sharding import BaselineModel, Subject, TrainedModel, rank_cases
from pipeline.evaluate.summary import means, protocol, target_counts
from pipeline.evaluate.tables import write_tables
from pipeline.store import arrays
from pipeline.store.artifacts import Artifact, ArtifactDir, digest_ids
from pipeline.store.columns import CATEGORY, COUNT, ITEM_ID, ITEM_IDX
from pipeline.work.progress import say, took


def evaluate_model(config: EvaluateConfig, prepared: Artifact, trained: Artifact, out: ArtifactDir) -> Artifact:
    """Rank the test users with a trained model.

    Raises:
        ArtifactError: the model is damaged or knows another catalogue.
        DataError: there are no test users.
        TrainingError: the model's scores are not finite.
    """
    items = _items(prepared)
    device = "cuda" if config.execution.use_gpu else "cpu"
    return _evaluate(config, prepared, items, TrainedModel(trained, digest_ids(items[ITEM_ID]), device), out)


def evaluate_baseline(config: EvaluateConfig, name: Baseline, prepared: Artifact, out: ArtifactDir,
                      texts: Artifact | None = None) -> Artifact:
    """Fit a baseline on the training part and rank the test users with it.

    A baseline that does not fit (EASE above ``ease.max_items``) gives an artifact without rows, whose
    ``info["skipped"]`` says why.

    Raises:
        DataError: there are no test users.
    """
    items = _items(prepared)
    reason = skip_reason(config, name, len(items))
    if reason is None:
        return _evaluate(config, prepared, items, BaselineModel(config, name, prepared, len(items), texts), out)
    say(f"evaluate: {reason}")
    cases = _test_cases(prepared)
    write_tables(out, cases, target_counts(cases, items), config.top_k, ())
    return _commit(out, len(cases), 0, [], {"skipped": reason})


def skip_reason(config: EvaluateConfig, name: Baseline, num_items: int) -> str | None:
    """Why a baseline is not computed on a catalogue of this size, or None."""
    if name == "ease" and num_items > config.ease.max_items:
        gib = 3 * 4 * num_items**2 / 2**30
        return (f"ease skipped: {num_items:,} items are more than evaluate.ease.max_items={config.ease.max_items:,} "
                f"(it would need about {gib:,.0f} GiB)")
    return None


def _evaluate(config: EvaluateConfig, prepared: Artifact, items: pa.Table, subject: Subject,
              out: ArtifactDir) -> Artifact:
    cases = _test_cases(prepared)
    started = time.perf_counter()
    parts = rank_cases(config, prepared, subject, len(cases))
    ranks = write_tables(out, cases, target_counts(cases, items), config.top_k, parts)
    seconds = time.perf_counter() - started
    say(f"evaluate: {took(len(cases), 'users', seconds)}")
    info = {"seconds": seconds, "workers": config.execution.workers,
            "protocol": protocol(config, prepared, cases, items), "metrics": means(config, *ranks)}
    return _commit(out, len(cases), len(cases), cases.users, info)


def _items(prepared: Artifact) -> pa.Table:
    """The catalogue in id order."""
    return prepared.read_table("items.parquet", [ITEM_IDX, ITEM_ID, CATEGORY, COUNT]).sort_by(ITEM_IDX)


def _test_cases(prepared: Artifact) -> Cases:
    cases = arrays.cases(prepared.local("test.arrow"))
    if not len(cases):
        raise DataError(illegal("test users", 0, "1 or more", "choose another prepare.split or a weaker "
                                "prepare.filter, so that some users keep an item to be predicted"))
    return cases


def _commit(out: ArtifactDir, num_in: int, num_out: int, users: Any, info: dict[str, Any]) -> Artifact:
    return out.commit({"num_in": num_in, "num_out": num_out, "num_rejected": num_in - num_out}, COLUMNS,
                      digest_ids(np.asarray(users, np.int64)), info)
