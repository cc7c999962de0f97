"""What a report claims: the tested comparisons as a table, and what to serve in one sentence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.report.tables import NONE, PROTOCOL_TITLES, Metrics, Table, signed


def claims(metrics: Metrics) -> Table | None:
    """The tested comparisons."""
    found = metrics["claims"]
    if found is None:
        return None
    listed = [(f"{row['first']} − {row['second']}", row) for row in found["rows"]]
    if found["chance"] is not None:
        listed.append(("plain − plain, other seeds", found["chance"]))
    rule = (f"p: {found['permutations']:,} random flips of the signs of the users' differences, averaged over seeds "
            "(other users, these models), with several seeds the larger of that and Student's t over users and seeds; "
            "Holm's correction over the pairs that the configuration fixes. Shown: interval above 0 and corrected p "
            f"below {found['level']:.2g}.")
    rows = tuple((pair, signed(row["mean"]), NONE if row["relative"] is None else f"{100 * row['relative']:+.1f} %",
                  f"[{signed(row['low'])}, {signed(row['high'])}]", f"{row['p']:.4f}", f"{row['p_holm']:.4f}",
                  _word(row)) for pair, row in listed)
    return Table(f"Claims: {found['metric']}, {PROTOCOL_TITLES[metrics['main_protocol']]}",
                 ("pair", "difference", "relative", f"{100 * (1 - found['level']):g} % interval", "p", "p (Holm)", ""),
                 rows, f"{rule}{_chance_note(found['chance'])}")


def _word(row: Mapping[str, Any]) -> str:
    if not row.get("testable", True):
        return "not tested"
    return "shown" if row["shown"] else "worse" if row.get("worse") else "not shown"


def _chance_note(chance: Mapping[str, Any] | None) -> str:
    """What plain against plain can find, and what it cannot."""
    if chance is None:
        return ""
    seeds = chance["seeds"]
    if not chance["testable"]:
        return (" Plain against plain sets one seed against one other, which tells what a seed does by chance and is "
                "no test: that takes four seeds.")
    return (f" Plain against plain must read: not shown. It sets {seeds} seeds against {seeds} others, fewer than the "
            "pairs above have: it finds gross errors alone.")


def opening(metrics: Metrics) -> list[str]:
    """The report's first lines: what to serve, what that rests on, which controls are worth a look, and what speaks
    against the comparisons."""
    return [*filter(None, [advice(metrics), certainty(metrics), controls_above_plain(metrics)]), *metrics["caveats"]]


def advice(metrics: Metrics) -> str | None:
    """What to serve, how sure that is, and which baselines do better. None where no teacher was compared."""
    found = metrics["claims"]
    if found is None:
        return None
    arm, sentence = _served(found)
    return f"{sentence}{_better_baselines(metrics, arm)}."


def certainty(metrics: Metrics) -> str | None:
    """What the advice rests on, in one sentence. None where no teacher was compared."""
    found = metrics["claims"]
    if found is None:
        return None
    count, seeds = len(found["rows"]), len(metrics["seeds"])
    rests = (f"How sure: {count} comparison{'s' if count > 1 else ''} fixed by the configuration, "
             f"{metrics['test_users']:,} test users, {seeds} seed{'s' if seeds > 1 else ''}")
    chance = found["chance"]
    if chance is None and "plain" not in metrics["arms"]:
        return f"{rests}; no plain arm was trained, so what other starts give by chance is not known."
    if chance is None:
        return f"{rests}; what other starts would give is open: `mentorec prove` trains several."
    if not chance["testable"]:
        return f"{rests}; plain differs from plain of another seed by {signed(chance['mean'])}, which is chance alone."
    if chance["shown"]:
        return (f"{rests}; plain differs from plain of other seeds ({signed(chance['mean'])}), which is chance alone: "
                "trust no gain of this size.")
    return f"{rests}; plain against plain of other seeds reads not shown ({signed(chance['mean'])}), as it must."


def controls_above_plain(metrics: Metrics) -> str | None:
    """Controls whose interval against plain is above 0: what they have is cheaper than a teacher. None: there are none.
    """
    teachers = {row["first"] for row in metrics["claims"]["rows"]} if metrics["claims"] else set()
    found = [f"{row['first']} {_gain(row)}" for row in metrics["differences"]
             if row["second"] == "plain" and row["first"] not in teachers and row["verdict"] == "above 0"
             and (row["protocol"], row["metric"]) == (metrics["main_protocol"], metrics["primary"])]
    return f"Controls above plain, listed and not tested: {', '.join(found)}." if found else None


def _served(found: Mapping[str, Any]) -> tuple[str, str]:
    """The arm to serve, and why, without a full stop."""
    if not any(row["second"] == "plain" for row in found["rows"]):
        shown = [f"{row['first']} over {row['second']}" for row in found["rows"] if row["shown"]]
        return "plain", (f"No plain arm was trained, so what to serve is open ({found['metric']}); shown: "
                         f"{', '.join(shown) or 'nothing'}")
    by_arm: dict[str, list[Mapping[str, Any]]] = {}
    for row in found["rows"]:
        by_arm.setdefault(row["first"], []).append(row)
    better = {arm: next(row for row in rows if row["second"] == "plain") for arm, rows in by_arm.items()
              if any(row["second"] == "plain" and row["shown"] for row in rows)}
    if not better:
        hurt = [row["first"] for row in found["rows"] if row["second"] == "plain" and row["worse"]]
        return "plain", ("Serve plain: no teacher's gain is shown" + (f"; {', '.join(hurt)} did worse" if hurt else "")
                         + f" ({found['metric']})")
    arm = max(better, key=lambda name: better[name]["mean"])
    controls = {name: [row for row in by_arm[name] if row["second"] != "plain"] for name in better}
    above = min((row for row in controls[arm] if row["worse"]), key=lambda row: row["mean"], default=None)
    if above is not None:
        return above["second"], (
            f"Serve {above['second']}, a control: {found['metric']} {signed(-above['mean'])} over {arm} "
            f"[{signed(-above['high'])}, {signed(-above['low'])}], which is {_gain(better[arm])}; so what {arm} is "
            "taught is not what helps")
    unsure = [row["second"] for row in controls[arm] if not row["shown"]]
    proven = [name for name in better if name != arm and controls[name] and all(row["shown"] for row in controls[name])]
    sentence = f"Serve {arm}: {found['metric']} {_gain(better[arm])}"
    if not controls[arm]:
        sentence += "; no control was trained, so what the gain is due to is open"
    elif unsure:
        sentence += f"; not shown against {', '.join(unsure)}, so it need not be the teacher's knowledge"
    else:
        sentence += f", and shown against {', '.join(row['second'] for row in controls[arm])}"
    also = ", ".join(f"{name} ({_gain(better[name])})" for name in proven)
    return arm, sentence + (f"; of the others, shown against all controls of their own: {also}" if also else "")


def _gain(row: Mapping[str, Any]) -> str:
    """``+6.7 % over plain [+0.0025, +0.0055]``."""
    size = signed(row["mean"]) if row["relative"] is None else f"{100 * row['relative']:+.1f} %"
    return f"{size} over {row['second']} [{signed(row['low'])}, {signed(row['high'])}]"


def _better_baselines(metrics: Metrics, arm: str) -> str:
    """The baselines whose mean is above the arm's; they are not tested, so nothing more is said."""
    protocol, metric = metrics["main_protocol"], metrics["primary"]
    if arm not in metrics["arms"]:
        return ""
    served = metrics["arms"][arm][protocol][metric]["mean"]
    better = {name: figures[protocol][metric] for name, figures in metrics["baselines"].items()
              if figures[protocol][metric] > served}
    if not better:
        return ""
    listed = ", ".join(f"{name} {value:.4f}" for name, value in sorted(better.items(), key=lambda pair: -pair[1]))
    return f". Better than {arm} ({served:.4f}) on this data: {listed}"
