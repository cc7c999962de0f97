"""Which test users are asked for an item that was made cold, and what the recommenders make of it.

Legend: N test users.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from pipeline.prepare.definition import COLD, COLD_FILE, CUT, REMOVED
from pipeline.report.ranks import Cases
from pipeline.report.tables import Metrics, Table, signed
from pipeline.store.artifacts import Artifact
from pipeline.store.columns import ITEM_IDX

LABELS = {REMOVED: "removed from training", CUT: "cut in training"}
OTHERS = "all others"


def cold_groups(prepared: Artifact, cases: Cases) -> dict[str, np.ndarray]:
    """Label → bool [N]; none where no item was made cold."""
    if COLD_FILE not in prepared.manifest.files:
        return {}
    table = prepared.read_table(COLD_FILE, [ITEM_IDX, COLD])
    items, kinds = table[ITEM_IDX].to_numpy(), table[COLD].to_numpy(zero_copy_only=False)
    groups = {label: np.isin(cases.targets_N, items[kinds == kind]) for kind, label in LABELS.items()}
    return groups | {OTHERS: ~np.isin(cases.targets_N, items)}


def cold_differences(metrics: Metrics) -> Table | None:
    """Paired differences on users whose target was made cold."""
    if not metrics["cold_start"]:
        return None
    return Table(f"Cold start: paired differences, {100 * metrics['bootstrap']['confidence']:g} % intervals",
                 ("target", "users", "pair", "metric", "difference", "interval", ""),
                 tuple(_rows(metrics["cold_start"])),
                 "Removed and cut targets apart: a model of ids alone cannot rank a removed one. Which items they are "
                 f"stands in {COLD_FILE} of the prepared data. Not tested: shown beside the claims.")


def _rows(found: list[Mapping[str, object]]) -> Iterator[tuple[str, ...]]:
    for row in found:
        mean, low, high = (float(str(row[name])) for name in ("mean", "low", "high"))
        yield (str(row["label"]), f"{row['users']:,}", f"{row['first']} − {row['second']}", str(row["metric"]),
               signed(mean), f"[{signed(low)}, {signed(high)}]", str(row["verdict"]))
