"""The counts and shares of ``stats.json``: what stands beside every figure."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import numpy as np

from pipeline.prepare.blocks import Interactions
from pipeline.prepare.config import SplitConfig
from pipeline.prepare.kept import KeptInteractions
from pipeline.prepare.ordering import Users
from pipeline.prepare.splits import TEST_CODE, TRAIN_CODE, VALIDATION_CODE, CaseRows, Split, span


def statistics(kept: KeptInteractions, split: Split, config: SplitConfig, tied_N: np.ndarray | None) -> dict[str, Any]:
    """Counts and shares of the kept interactions and their split.

    Args:
        tied_N: bool [N], rows that share their time with another of their user; None: timeless.
    """
    lengths = kept.users.lengths
    parts = np.bincount(split.parts, minlength=3)
    trained = kept.trained_users(split)
    trained_items = kept.trained_items(split)
    first, last = _span(kept)
    found: dict[str, Any] = {
        "users": len(kept.users), "items": len(kept.item_ids), "interactions": len(kept),
        "mean_length": len(kept) / len(kept.users), "median_length": float(np.median(lengths)),
        "max_length": int(lengths.max()), "density": len(kept) / (len(kept.users) * len(kept.item_ids)),
        "users_with_one_interaction": int((lengths == 1).sum()),
        "split": config.kind,
        "train_users": int((trained > 0).sum()), "train_items": int((trained_items > 0).sum()),
        "train_interactions": int(parts[TRAIN_CODE]),
        "train_users_with_one_interaction": int((trained == 1).sum()),
        "validation_interactions": int(parts[VALIDATION_CODE]), "test_interactions": int(parts[TEST_CODE]),
        "tied_rows_share": None if tied_N is None else float(tied_N.mean()),
        "boundary": split.boundary, "boundary_iso": _iso(split.boundary),
        "first_time": _iso(first), "last_time": _iso(last), "last_unix": last,
        **(split.left_out or {}),
    }
    for name, cases in (("validation", split.validation), ("test", split.test)):
        found |= {f"{name}_{k}": v for k, v in _of_cases(kept, cases, trained, trained_items, tied_N).items()}
    return found | _began_before(kept.users, split)


def _of_cases(kept: KeptInteractions, cases: CaseRows, trained: np.ndarray, trained_items: np.ndarray,
              tied_N: np.ndarray | None) -> dict[str, Any]:
    cold = trained_items[kept.items_of(cases.targets)] == 0
    repeated = _repeated(kept, cases)
    return {
        "users": len(cases.users),
        "users_in_training": int((trained[cases.users] > 0).sum()),
        "cold_targets": int(cold.sum()), "cold_targets_share": float(cold.mean()),
        "repeated_targets": int(repeated.sum()), "repeated_targets_share": float(repeated.mean()),
        "tied_targets_share": None if tied_N is None else float(tied_N[cases.targets].mean()),
        "mean_history_length": float((cases.targets - kept.users.starts[cases.users]).mean()),
    }


def _span(kept: KeptInteractions) -> tuple[int, int] | tuple[None, None]:
    """First and last Unix second."""
    spans = [found for found in kept.blocks.ask(seconds_of, "looking at times") if found is not None]
    return (min(first for first, _ in spans), max(last for _, last in spans)) if spans else (None, None)


def _repeated(kept: KeptInteractions, cases: CaseRows) -> np.ndarray:
    """bool [C]: the target stands in its own history."""
    target_M = np.zeros(len(kept.users), np.int32)
    target_M[cases.users] = kept.items_of(cases.targets)
    end_M = np.zeros(len(kept.users), np.int64)
    end_M[cases.users] = cases.targets
    repeats_M = np.zeros(len(kept.users), bool)
    starts = [place.start for place in kept.places()]
    for users in kept.blocks.ask(users_who_repeat, "looking at targets", target_M, end_M, each=starts):
        repeats_M[users] = True
    return repeats_M[cases.users]


def seconds_of(found: Interactions) -> tuple[int, int] | None:
    """First and last Unix second of a block; None: it has none."""
    return None if found.seconds is None else span(found.seconds)


def users_who_repeat(found: Interactions, target_M: np.ndarray, end_M: np.ndarray, start: int) -> np.ndarray:
    """Of a block whose first row is ``start``: users with their target item in a row before ``end_M``."""
    here = np.flatnonzero(found.items == target_M[found.users])
    return np.unique(found.users[here[start + here < end_M[found.users[here]]]])


def _began_before(users: Users, split: Split) -> dict[str, Any]:
    """Test users with interactions that are not of the test part: what was known of them before it began."""
    known = split.parts[users.starts[split.test.users]] != TEST_CODE
    return {"test_users_with_training_history": int(known.sum()),
            "test_users_with_training_history_share": float(known.mean())}


def _iso(seconds: float | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat()
