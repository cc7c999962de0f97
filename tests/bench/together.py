"""`python -m tests.bench.together NAME RUN…`: what recorded runs of one seed each say together.

The runs have the same test users, whose own figures are not recorded. What the users add to the variance of a mean over
seeds is at most the mean of what they add to each seed's (Var(Σ d_s / S) ≤ Σ Var(d_s) / S), so that intervals with this
mean are rather too wide. The seeds' part and the degrees of freedom are those of ``pipeline/report/statistics.py``.
Where seeds learn from members that they share, they agree more than chance does: with the mean correlation ρ of two
seeds, taken as the share of members that they have in common (as if all that a seed changes came from its members), the
variance of a mean is s²/S · (1 + (S - 1) ρ) / (1 - ρ).
"""

from __future__ import annotations

import argparse
import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from configs.files import flatten
from pipeline.report.significance import holm
from pipeline.report.statistics import degrees_of_freedom
from pipeline.report.tables import signed
from tests.bench.pages import RESULTS, table, write_page

_OF_ONE_RUN = {"name", "seeds", "arms", "storage", "cluster", "execution"}


def main() -> None:
    """Write ``docs/results/NAME.{json,md}`` from the recorded runs."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("name", help="of the page")
    parser.add_argument("runs", nargs="+", metavar="RUN", help="names of recorded runs of one seed")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="FOLDER")
    given = parser.parse_args()
    runs = {name: json.loads((given.results / f"{name}.json").read_text()) for name in given.runs}
    figures = together(runs)
    write_page(given.results, given.name, figures, page(given.name, figures))


def together(runs: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The comparisons that two runs or more have tested, each over the seeds that have it.

    Raises:
        SystemExit: the runs are not of one seed each, differ in more than seed and arms, or repeat a seed.
    """
    first = next(iter(runs.values()))
    seeds = [run["metrics"]["seeds"] for run in runs.values()]
    if any(len(each) != 1 for each in seeds) or len({each[0] for each in seeds}) < len(seeds):
        raise SystemExit(f"the runs have the seeds {seeds}; each must have one of its own")
    for name, run in runs.items():
        if _differ(run, first):
            raise SystemExit(f"{name} was run with other settings than {next(iter(runs))}")
    found: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for run in runs.values():
        for row in run["metrics"]["claims"]["rows"]:
            seed = run["metrics"]["seeds"][0]
            found[row["first"], row["second"]].append({**row, "seed": seed, "members": [
                _members(run["config"], arm, seed) for arm in (row["first"], row["second"])]})
    claims = first["metrics"]["claims"]
    rows = [_over_seeds(pair, each, claims["level"]) for pair, each in found.items() if len(each) > 1]
    untested = [1.0] * (len(found) - len(rows))  # of one run alone: a family is not what was repeated
    for row, corrected in zip(rows, holm([*(row["p"] for row in rows), *untested]), strict=False):
        row |= {"p_holm": corrected, "shown": bool(row["low"] > 0 and corrected < claims["level"])}
    return {"runs": list(runs), "metric": claims["metric"], "level": claims["level"],
            "test_users": first["metrics"]["test_users"], "rows": rows}


def _differ(run: Mapping[str, Any], first: Mapping[str, Any]) -> bool:
    """Whether something was set otherwise. A configuration is recorded with all its settings, so one that is absent was
    not known to that version; a recipe has what was set alone."""
    sides = [{name: value for name, value in flatten(each["config"]).items() if not {*name.split(".")} & _OF_ONE_RUN}
             for each in (run, first)]
    measured = [[each["metrics"]["test_users"], *(each["metrics"]["claims"][name] for name in ("metric", "level"))]
                for each in (run, first)]
    return measured[0] != measured[1] or any(
        value != other[name] if name in other else _known(name, other) or (
            name.startswith("recipes.") and value is not None)
        for own, other in (sides, sides[::-1]) for name, value in own.items())


def _known(name: str, others: Mapping[str, Any]) -> bool:
    """Whether a setting, a group that it is in, or settings inside it stand among others."""
    return any(name.startswith(f"{other}.") or other.startswith(f"{name}.") for other in others)


def _members(config: Mapping[str, Any], arm: str, seed: int) -> set[tuple[str, int]]:
    """The trainings that an arm learns from."""
    ensemble = config.get("recipes", {}).get(arm, {}).get("train", {}).get("ensemble") or {}
    return {(member["arm"], seed + member.get("seed", 0)) for member in ensemble.get("members", ())}


def _in_common(rows: Sequence[Mapping[str, Any]]) -> float:
    """The mean share of members that two seeds have in common, of the arm of a pair that has more."""
    shares = [max(len(one & other) / max(len(one), 1) for one, other in zip(a["members"], b["members"], strict=True))
              for a, b in combinations(rows, 2)]
    return float(np.mean(shares))


def _over_seeds(pair: tuple[str, str], rows: Sequence[Mapping[str, Any]], level: float) -> dict[str, Any]:
    """Mean, interval and two-sided p of a comparison over the seeds that have it."""
    means_S = np.array([row["mean"] for row in rows])
    errors_S = np.array([row["high"] - row["low"] for row in rows]) / (2 * stats.norm.ppf(1 - level / 2))
    alike = _in_common(rows)
    of_seeds, of_users = float(means_S.var(ddof=1)) / len(rows), float((errors_S**2).mean())
    of_seeds *= (1 + (len(rows) - 1) * alike) / (1 - alike)
    freedom = degrees_of_freedom(of_seeds, of_users, len(rows))
    error, mean = math.sqrt(of_seeds + of_users), float(means_S.mean())
    reach = float(stats.t.ppf(1 - level / 2, freedom)) * error
    bases = [row["mean"] / row["relative"] for row in rows if row["relative"]]
    relative = mean / float(np.mean(bases)) if len(bases) == len(rows) else None
    p = float(2 * stats.t.sf(abs(mean) / error, freedom)) if error else float(mean == 0)
    return {"first": pair[0], "second": pair[1], "seeds": [row["seed"] for row in rows], "means": means_S.tolist(),
            "members_in_common": alike, "mean": mean, "relative": relative, "low": mean - reach,
            "high": mean + reach, "degrees_of_freedom": freedom, "p": p}


def page(name: str, figures: Mapping[str, Any]) -> str:
    """The page of the figures."""
    rows = []
    for row in figures["rows"]:
        rows.append((f"{row['first']} − {row['second']}", ", ".join(map(str, row["seeds"])),
                     ", ".join(map(signed, row["means"])), signed(row["mean"]),
                     "–" if row["relative"] is None else f"{100 * row['relative']:+.1f} %",
                     f"[{signed(row['low'])}, {signed(row['high'])}]", f"{row['p_holm']:.1g}",
                     "shown" if row["shown"] else "not shown"))
    level = f"{100 * (1 - figures['level']):g} % interval"
    of_runs = ", ".join(f"[{run}]({run}.md)" for run in figures["runs"])
    return "\n\n".join([
        f"# {name}",
        f"Test {figures['metric']} of {figures['test_users']:,} users, seeds that were run and recorded one by one "
        f"({of_runs}), together. Intervals are of other users and other seeds; the users' part of the variance is the "
        "mean of the single seeds', which is the most that it can be, the seeds' part and Student's t are as in the "
        "report of several seeds." + "".join(
            f" Two seeds of {row['first']} − {row['second']} have {100 * row['members_in_common']:.0f} % of an arm's "
            "members in common on average; the interval is widened as if all that seeds change came from members."
            for row in figures["rows"] if row["members_in_common"]),
        table(("pair", "seeds", "difference by seed", "mean", "relative", level, "p (t, Holm)", ""), rows)])


if __name__ == "__main__":
    main()
