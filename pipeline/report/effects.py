"""Where a gain comes from: paired differences among parts of the test users, and which parts there are.

Legend: N test users.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from pipeline.evaluate.slices import FREQUENCY_BINS, HISTORY_BINS, binned, by_category
from pipeline.prepare.definition import BEFORE, COLD, COLD_FILE, REMOVED
from pipeline.report.catalogue import Items
from pipeline.report.ranks import Cases
from pipeline.report.tables import SLICE_TITLES, Metrics, Table, signed
from pipeline.store.artifacts import Artifact
from pipeline.store.columns import COUNT, ITEM_IDX

Groups = dict[str, dict[str, np.ndarray]]
"""Kind → label → bool [N], whom of the test users a slice holds; no slice is empty."""
COLD_START = "cold_start"


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
    """By what the protocol took from the target. Of an item that is drawn to be cut nothing is taken where it has few
    already: such targets stand with the others that have as few."""
    table = prepared.read_table(COLD_FILE, [ITEM_IDX, COLD, BEFORE, COUNT])
    items, before, left = (table[name].to_numpy() for name in (ITEM_IDX, BEFORE, COUNT))
    removed = table[COLD].to_numpy(zero_copy_only=False) == REMOVED
    most = int(left.max(initial=0))
    taken_N = {label: np.isin(cases.targets_N, items[mask & (left < before)]) for label, mask in (
        ("removed from training", removed), (f"cut to {most} in training or fewer", ~removed))}
    yield from taken_N.items()
    rest_N = ~np.logical_or.reduce(list(taken_N.values()))
    count_N = cases.target_count_N
    yield f"as few without being cut (1 to {most})", rest_N & (count_N > 0) & (count_N <= most)
    yield f"more than {most} in training", rest_N & (count_N > most)
    yield "never in training", rest_N & (count_N == 0)


def tables(metrics: Metrics) -> Iterator[Table]:
    """One per kind of slice: effect and interval of each pair."""
    level = f"{100 * metrics['bootstrap']['confidence']:g} % interval"
    for kind, found in metrics["effects"].items():
        note = "Shown beside the claims, not tested."
        if kind == COLD_START:
            note = ("A model of ids alone cannot rank a removed item. Users are drawn with all others of the same "
                    "target, so that intervals are of other items, too; which ones were made cold is one draw "
                    f"(prepare.seed) and stands in {COLD_FILE} of the prepared data. {note}")
        yield Table(f"Effects, {SLICE_TITLES[kind][0].lower()}{SLICE_TITLES[kind][1:]}",
                    ("slice", "users", "pair", "metric", "difference", level, ""), tuple(map(_row, found)), note)


def _row(row: dict[str, Any]) -> tuple[str, ...]:
    return (row["label"], f"{row['users']:,}", f"{row['first']} − {row['second']}", row["metric"], signed(row["mean"]),
            f"[{signed(row['low'])}, {signed(row['high'])}]", row["verdict"])
