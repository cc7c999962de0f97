"""`make bench-large`: the stages at half a million and at five million users, a million items: how they grow.

Generated sessions as in ``bench-m2``. `encode` is measured with an encoder of one narrow layer, the stage without a
model's time; the stages after it go on from the generator's latents. Finished stages are not measured again.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from tests.bench.ledger import Ledger
from tests.bench.m2 import GB, SETTINGS, STAGES, Bench, Sizes
from tests.bench.pages import RESULTS, check_parts, table, verdict

USERS, ITEMS, TEST_SHARE = (500_000, 5_000_000), 1_000_000, 0.1
MEASURED = ("prepare", "profile", "encode", "vectors", "reduce", "train-distilled", "evaluate")
GROWING = {"train-distilled": "first_epoch_s", "evaluate": "rank_s"}
"""The seconds that are compared, without Ray's start; of other stages all."""
BEYOND = 100_000_000
"""Users that the design is for."""
DRIVER_TARGET_GB, EXPONENT_TARGET = 2.0, 1.05


def main() -> None:
    """Run the stages that are named, or all, at each size, and write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("stages", nargs="*", metavar="STAGE", help=f"any of {', '.join(MEASURED)}; none: all")
    parser.add_argument("--users", type=int, nargs="*", default=USERS, metavar="N")
    parser.add_argument("--items", type=int, default=ITEMS, metavar="N")
    parser.add_argument("--scratch", type=Path, default=Path(tempfile.gettempdir()) / "mentorec-bench-large",
                        metavar="FOLDER", help="keeps the artifacts between calls: 40 GB")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="FOLDER")
    parser.add_argument("--again", action="store_true", help="measure finished stages anew")
    given = parser.parse_args()
    check_parts(parser, given.stages, MEASURED)
    ledger = Ledger("large", given.results, given.again)
    for users in given.users:
        size = f"{users}x{given.items}"
        bench = Bench(given.scratch / size, Sizes(users, given.items, TEST_SHARE), SETTINGS)
        for stage in given.stages or MEASURED:
            ledger.run(f"{stage}-{size}", partial(STAGES[stage], bench))
            ledger.show(_page(ledger, sorted({*USERS, *given.users}), given.items))


def _page(ledger: Ledger, sizes: Sequence[int], items: int) -> str:
    rows, drivers, worst = [], {}, {}
    for stage in MEASURED:
        found = {users: ledger.figures(f"{stage}-").get(f"{users}x{items}") for users in sizes}
        cells: list[str] = []
        for users, each in found.items():
            cells += ["", "", ""] if each is None else _cells(stage, each)
            if each is not None and each.get("driver_bytes"):
                drivers[f"{stage}, {users:,} users"] = each["driver_bytes"] / GB
        growth = _exponent(stage, found)
        if growth is not None:
            worst[stage] = growth
        rows.append((stage, *cells, "" if growth is None else f"{growth:.2f}", *_driver_beyond(found)))
    checks = []
    for what, of, target in (("driver's peak, GB", drivers, DRIVER_TARGET_GB),
                             ("exponent in users", worst, EXPONENT_TARGET)):
        if of:
            name = max(of, key=lambda each: of[each])
            checks.append((what, f"≤ {target:g}", f"{of[name]:.2f} ({name})", verdict(of[name] <= target)))
    occur = {users: each["counts"]["items"] for users in sizes
             if (each := ledger.figures("prepare-").get(f"{users}x{items}")) is not None}
    per_item = _slope({users: _seconds("evaluate", each) / count for users, count in occur.items()
                       if (each := ledger.figures("evaluate-").get(f"{users}x{items}")) is not None})
    head = [f"{what}, {users:,}" for users in sizes for what in ("seconds", "driver GB", "all GB")]
    return "\n\n".join([
        "## Five million users, a million items",
        f"Generated sessions, {items:,} items, sampled softmax, two cores; each stage is the real command in a process "
        "of its own. `encode` has an encoder of one narrow layer: the stage is measured and no model; `vectors` are "
        "the generator's latents in the place of a real encoder's. Of `train` the first epoch is shown, which "
        "distils, of `evaluate` the ranking of "
        f"{TEST_SHARE:.0%} of the users. Driver: resident peak; all: it and all below it, shared pages divided (PSS). "
        "The exponent is the slope between the two sizes in logarithms; what a million items cost whatever the users, "
        "and Ray's start, are in the seconds of the other stages. The last two columns go on along a straight line "
        f"through the drivers' peaks: bytes of each further user, and GB at {BEYOND:,} users (on paper, not tried; "
        f"items come on top). Of the items {' and '.join(f'{count:,}' for count in occur.values())} occur, and "
        "ranking's work is users times items" + (
            "." if per_item is None else f": its seconds per item grow with an exponent of {per_item:.2f}."),
        table(("stage", *head, "exponent", "driver, bytes per user", f"driver GB, {BEYOND // 10**6} M users"), rows),
        table(("", "target", "worst", "met"), checks)])


def _cells(stage: str, each: Mapping[str, Any]) -> list[str]:
    memory = [f"{each[name] / GB:.2f}" if each.get(name) else "" for name in ("driver_bytes", "tree_unique_bytes")]
    return [f"{_seconds(stage, each):.1f}", *memory]


def _driver_beyond(found: Mapping[int, Mapping[str, Any] | None]) -> tuple[str, str]:
    """Bytes of the driver per further user, and GB at BEYOND users."""
    points = [(users, each["driver_bytes"]) for users, each in found.items() if each and each.get("driver_bytes")]
    if len(points) < 2:
        return "", ""
    (few, small), (many, large) = points[0], points[-1]
    per_user = max(0.0, (large - small) / (many - few))
    return f"{per_user:.0f}", f"{(large + per_user * (BEYOND - many)) / GB:.1f}"


def _seconds(stage: str, each: Mapping[str, Any]) -> float:
    return float(each[GROWING.get(stage, "seconds")])


def _exponent(stage: str, found: Mapping[int, Mapping[str, Any] | None]) -> float | None:
    return _slope({users: _seconds(stage, each) for users, each in found.items() if each is not None})


def _slope(seconds: Mapping[int, float]) -> float | None:
    """Of seconds by users in logarithms, between the first size and the last."""
    if len(seconds) < 2:
        return None
    (few, sooner), *_, (many, later) = seconds.items()
    return math.log(later / sooner) / math.log(many / few)


if __name__ == "__main__":
    main()
