"""Where a gain comes from: paired differences among parts of the test users, and which parts there are.

Legend: N test users.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from pipeline.evaluate.slices import FREQUENCY_BINS, HISTORY_BINS, binned, by_category
from pipeline.prepare.definition import COLD, COLD_FILE, CUT, REMOVED
from pipeline.report.catalogue import Items
from pipeline.report.ranks import Cases
from pipeline.report.tables import SLICE_TITLES, Metrics, Table, signed
from pipeline.store.artifacts import Artifact
from pipeline.store.columns import ITEM_IDX

Groups = dict[str, dict[str, np.ndarray]]
"""Kind → label → bool [N], whom of the test users a slice holds; no slice is empty."""
COLD_START = "cold_start"
_LABELS = {REMOVED: "removed from training", CUT: "few left in training"}


def groups(prepared: Artifact, cases: Cases, items: Items) -> Groups:
    """By history length, by frequency and category of the target, and by what was done to it where some were made cold.
    """
    found = {"history_length": dict(binned(cases.history_length_N, HISTORY_BINS)),
             "item_frequency": dict(binned(cases.target_count_N, FREQUENCY_BINS)),
             "category": dict(by_category(cases.targets_N, items.categories))}
    if COLD_FILE in prepared.manifest.files:
        found[COLD_START] = dict(_cold(prepared, cases))
    return {kind: {label: mask_N for label, mask_N in slices.items() if mask_N.any()} for kind, slices in found.items()}


def _cold(prepared: Artifact, cases: Cases) -> Iterator[tuple[str, np.ndarray]]:
    table = prepared.read_table(COLD_FILE, [ITEM_IDX, COLD])
    items, kinds = table[ITEM_IDX].to_numpy(), table[COLD].to_numpy(zero_copy_only=False)
    for kind, label in _LABELS.items():
        yield label, np.isin(cases.targets_N, items[kinds == kind])
    yield "all others", ~np.isin(cases.targets_N, items)


def tables(metrics: Metrics) -> Iterator[Table]:
    """One per kind of slice: effect and interval of each pair."""
    level = f"{100 * metrics['bootstrap']['confidence']:g} % interval"
    for kind, found in metrics["effects"].items():
        note = "Shown beside the claims, not tested."
        if kind == COLD_START:
            note = ("A model of ids alone cannot rank a removed item; some of those with few left had no more before. "
                    f"Which items they are stands in {COLD_FILE} of the prepared data. {note}")
        yield Table(f"Effects, {SLICE_TITLES[kind][0].lower()}{SLICE_TITLES[kind][1:]}",
                    ("slice", "users", "pair", "metric", "difference", level, ""), tuple(map(_row, found)), note)


def _row(row: dict[str, Any]) -> tuple[str, ...]:
    return (row["label"], f"{row['users']:,}", f"{row['first']} − {row['second']}", row["metric"], signed(row["mean"]),
            f"[{signed(row['low'])}, {signed(row['high'])}]", row["verdict"])
