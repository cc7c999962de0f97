"""`make bench-scale`: how an epoch, its memory and ranking grow with users and items, on generated data.

Every point is a data set of its own: prepared once into the scratch folder, trained on one thread for some steps scaled
to the epoch, and ranked for all its users. Plots go to ``docs/results``.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tests.bench.beauty import driver_settings
from tests.bench.generated import prepared
from tests.bench.ledger import Ledger
from tests.bench.pages import RESULTS, table, verdict
from tests.bench.peers.driver import Driver, own_python

SIZES = (10_000, 30_000, 100_000, 300_000, 1_000_000)
FIXED = {"users": 20_000, "items": 20_000}
"""The one that does not grow."""
MEAN_LENGTH, BATCH, STEPS, WARM_STEPS, TOP = 6.0, 128, 100, 10, 10
EXPONENT_TARGET, STEP_TARGET, STEP_SIZES = 1.05, 1.2, (100_000, 1_000_000)
GIB = 2**30
AXES = {"epoch_s": "epoch, CPU-s", "peak_gib": "peak memory, GiB", "rank_s": "ranking all users, CPU-s"}


def main() -> None:
    """Measure the points that are named, or all, and write the page and the plots."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("points", nargs="*", metavar="POINT", help="users-10000, items-1000000, …; none: all")
    parser.add_argument("--sizes", type=int, nargs="*", default=SIZES)
    parser.add_argument("--steps", type=int, default=STEPS, help="timed per point, twice")
    parser.add_argument("--loss", default='{"kind": "sampled_softmax", "negatives": 512}', metavar="JSON")
    parser.add_argument("--optimizer", default='{"table": "rowwise"}', metavar="JSON")
    parser.add_argument("--scratch", type=Path, default=Path(tempfile.gettempdir()) / "mentorec-bench-scale",
                        metavar="FOLDER", help="keeps the prepared data between calls")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="FOLDER")
    parser.add_argument("--again", action="store_true", help="measure finished points anew")
    given = parser.parse_args()
    ledger = Ledger("scale", given.results, given.again)
    for point in given.points or [f"{axis}-{size}" for axis in FIXED for size in given.sizes]:
        axis, _, size = point.partition("-")
        if axis not in FIXED or not size.isdigit():
            parser.error(f"unknown point {point!r}; legal: {', '.join(f'{axis}-N' for axis in FIXED)}")
        ledger.run(point, partial(measure, axis, int(size), given))
        _write(ledger, given)


def measure(axis: str, size: int, given: argparse.Namespace) -> dict[str, Any]:
    """Seconds and memory of one point."""
    sizes = FIXED | {axis: size}
    scratch = given.scratch.resolve() / f"{axis}-{size}"
    scratch.mkdir(parents=True, exist_ok=True)
    data = prepared(scratch / "storage", sizes["users"], sizes["items"], MEAN_LENGTH)
    settings = partial(driver_settings, data, scratch, batch_size=BATCH, loss=json.loads(given.loss),
                       optimizer=json.loads(given.optimizer))
    with Driver("mentorec", own_python(), settings(task="slices")) as driver:
        epoch = driver.facts["steps_per_epoch"]
        driver.ask({"steps": WARM_STEPS})
        steps = min(given.steps, epoch)
        parts = [driver.ask({"steps": steps}) for _ in range(2)]
    step_s = min(part["cpu_s"] for part in parts) / steps
    with Driver("mentorec", own_python(), settings(task="rank")) as driver:
        ranked = driver.ask({"rank": TOP, "to": str(scratch / "top.npy")})
    counts = data.manifest.counts
    return {"users": sizes["users"], "items": sizes["items"], "interactions": counts["num_out"],
            "steps_per_epoch": epoch, "timed_steps": steps, "step_ms": 1e3 * step_s, "epoch_s": step_s * epoch,
            "peak_gib": parts[-1]["peak_bytes"] / GIB, "rank_s": ranked["cpu_s"], "rank_wall_s": ranked["wall_s"],
            "rank_peak_gib": ranked["peak_bytes"] / GIB, "slices": parts}


def exponent(sizes: Sequence[float], values: Sequence[float]) -> float:
    """Slope of the least-squares line through the logarithms."""
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])


def _write(ledger: Ledger, given: argparse.Namespace) -> None:
    parts = ["## Growth", f"Generated data without any signal: mean length "
             f"{MEAN_LENGTH:g}, batch {BATCH}, loss {given.loss}, optimizer {given.optimizer}, one thread; epochs "
             f"scaled from {given.steps} steps, ranking is the top {TOP} of all users; what does not grow is held at "
             f"{FIXED['users']:,}. The exponent is the slope through the logarithms of all points."]
    checks: list[tuple[str, str, str, str]] = []
    for axis in FIXED:
        points = sorted((each for each in ledger.figures(f"{axis}-").values()), key=lambda each: each[axis])
        if not points:
            continue
        parts.append(table((axis, "interactions", "steps", "step ms", "epoch CPU-s", "peak GiB", "ranking CPU-s",
                            "ranking peak GiB"),
                           [(f"{each[axis]:,}", f"{each['interactions']:,}", f"{each['steps_per_epoch']:,}",
                             f"{each['step_ms']:.2f}", f"{each['epoch_s']:.1f}", f"{each['peak_gib']:.2f}",
                             f"{each['rank_s']:.2f}", f"{each['rank_peak_gib']:.2f}") for each in points]))
        if len(points) > 1:
            slopes = {name: exponent([each[axis] for each in points], [each[name] for each in points])
                      for name in AXES}
            parts.append(f"Exponents in {axis}: " + ", ".join(
                f"{AXES[name].partition(',')[0]} {slope:.2f}" for name, slope in slopes.items()) + ".")
            if axis == "users":
                checks.append(("exponent of epoch time in users", f"≤ {EXPONENT_TARGET}", f"{slopes['epoch_s']:.2f}",
                               verdict(slopes["epoch_s"] <= EXPONENT_TARGET)))
            plot = _plot(points, axis, given.results)
            parts.append(f"![growth with {axis}](results/{plot.name})")
    items = ledger.figures("items-")
    if all(str(size) in items for size in STEP_SIZES):
        low, high = (items[str(size)]["step_ms"] for size in STEP_SIZES)
        checks.append(("step time, 1M items : 100k items", f"≤ {STEP_TARGET}", f"{high / low:.2f}",
                       verdict(high / low <= STEP_TARGET)))
    if checks:
        parts.append(table(("", "target", "found", "met"), checks))
    ledger.show("\n\n".join(parts))


def _plot(points: Sequence[Mapping[str, Any]], axis: str, results: Path) -> Path:
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "mentorec"
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, len(AXES), figsize=(9, 2.8), layout="constrained")
    for panel, (name, label) in zip(panels, AXES.items(), strict=True):
        panel.loglog([each[axis] for each in points], [each[name] for each in points], "o-", linewidth=1)
        panel.set_xlabel(axis)
        panel.set_title(label, fontsize="medium")
        panel.grid(alpha=0.3)
    path = results / f"bench-scale-{axis}.svg"
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
    return path


if __name__ == "__main__":
    main()
