"""The figures of an audit as tables. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.report.tables import PROTOCOL_TITLES, Table, signed
from pipeline.work.text import table as aligned

_WORDS = {
    "profile": "the user's own profile", "shuffled": "another user's profile",
    "history": "mean of the training items' texts", "popularity": "popularity", "chance": "chance",
}
_MAIN = "seen_removed"


def tables(audit: Mapping[str, Any]) -> list[Table]:
    """Means and intervals under both protocols, and the profile's paired differences under the first."""
    return [_means(audit, protocol) for protocol in PROTOCOL_TITLES] + [_differences(audit)]


def plain_text(audit: Mapping[str, Any], name: str) -> str:
    """What the terminal shows."""
    parts = []
    for found in tables(audit):
        parts += ["", found.title, "", aligned(found.header, found.rows), *([found.note] if found.note else [])]
    return "\n".join([f"{name}: teacher audit on {audit['users']:,} validation users", *parts])


def markdown(audit: Mapping[str, Any], name: str) -> str:
    """For a recorded result."""
    return f"```\n{plain_text(audit, name)}\n```"


def _means(audit: Mapping[str, Any], protocol: str) -> Table:
    subjects = audit[protocol]["subjects"]
    names = list(subjects["profile"])
    rows = tuple((_words(subject), *(f"{figures[n]['mean']:.4f} [{figures[n]['low']:.4f}, {figures[n]['high']:.4f}]"
                                     for n in names)) for subject, figures in subjects.items())
    means = {n: [figures[n]["mean"] for figures in subjects.values()] for n in names}
    best = frozenset((means[n].index(max(means[n])), column) for column, n in enumerate(names, 1))
    return Table(f"Teacher audit on validation, {PROTOCOL_TITLES[protocol]}", ("ranked by", *names), rows,
                 _note(audit) if protocol == _MAIN else "", best)


def _differences(audit: Mapping[str, Any]) -> Table:
    rows = tuple((f"own profile − {_words(d['second'])}", d["metric"], signed(d["mean"]),
                  f"[{signed(d['low'])}, {signed(d['high'])}]", d["verdict"]) for d in audit[_MAIN]["differences"])
    return Table(f"Paired differences of the audit, {PROTOCOL_TITLES[_MAIN]}",
                 ("pair", "metric", "difference", "interval", "lies"), rows)


def _words(subject: str) -> str:
    kind, _, angle = subject.partition("/")
    return f"{_WORDS[kind]}, angle {angle}" if angle else _WORDS[kind]


def _note(audit: Mapping[str, Any]) -> str:
    left_out = ", ".join(f"{reason}: {count:,}" for reason, count in audit["left_out"].items() if count)
    several = (f" Several angles ({', '.join(audit['angles'])}): the mean of their vectors." if len(audit["angles"]) > 1
               else "")
    return (f"{audit['users']:,} of {audit['validation_users']:,} validation users"
            f"{f' (left out: {left_out})' if left_out else ''}; {audit['items']:,} items, ranked by the cosine of text "
            f"vectors; {audit['items_without_text']:,} items without text come last ({audit['targets_without_text']:,} "
            f"of them targets); {audit['cold_targets']:,} targets are cold.{several} percentile: share of the other "
            f"candidates that stand below the target. Intervals: {100 * audit['bootstrap']['confidence']:g} %, "
            f"{audit['bootstrap']['resamples']:,} resamples of users.")
