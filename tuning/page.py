"""A search as one HTML page: its trials, what each setting was worth, and the paper's tables beside it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from pipeline.report.render import page
from pipeline.report.svg import drawn
from pipeline.report.tables import Table
from tuning import plots
from tuning.config import Choice
from tuning.leaderboard import FAILED, REASON, short
from tuning.space import Space

_TEMPLATE = Path(__file__).parent / "templates" / "search.html.j2"
_ALPHA, _BETA, _POOLING = "train.alpha", "train.beta", "train.distillation.pooling"
PUBLISHED_ALPHA: Final = {False: {0.4: 0.0105, 0.6: 0.0108, 0.8: 0.0109}, True: {0.4: 0.0111, 0.6: 0.0106, 0.8: 0.0106}}
"""ECIR'26, ablation of α: β off or on → α → SASRec's test NDCG@10 on Beauty (the paper's own split and cut-offs)."""
_SHOWN = 30
Row = dict[str, Any]


def search_page(name: str, metric: str, space: Space, rows: Sequence[Row], told: Sequence[str], halving: bool) -> str:
    """The page.

    Args:
        metric: the validation metric that was searched for.
        rows: the leaderboard, best first.
        told: what became of the winner on other seeds and on the test part, or how to find out, and what to mind;
            sentences.
        halving: whether the worse trials were stopped (`asha`).
    """
    scored = [row for row in rows if row["metric"] is not None and row["status"] != FAILED]
    failed = sum(row["status"] == FAILED for row in rows)
    settings = [setting for setting in space if any(setting in row for row in rows)]
    best = ", ".join(f"{setting} {row_value(scored[0], setting)}" for setting in settings if setting in scored[0])
    figures = {
        "coordinates": drawn("coordinates", f"Every trial's settings and its validation {metric}",
                             lambda: plots.parallel_coordinates(scored, space, metric)),
        "importance": drawn("importance", "How much of the metric's variance each setting explains",
                            lambda: plots.importance(scored, space)),
    }
    content = {
        "name": name,
        "left_out": _left_out(scored, space) if figures["importance"] is not None else "",
        "verdicts": [f"Best of {len(rows)} trials: validation {metric} {scored[0]['metric']:.4f} with {best}.",
                     *([f"{failed} of the trials failed."] if failed else []), *told],
        "trials": [_trials(rows, settings, metric, halving)],
        "settings": list(_settings(scored, space, metric)),
    }
    return page(_TEMPLATE, content, {key: svg for key, svg in figures.items() if svg is not None})


def _left_out(scored: Sequence[Row], space: Space) -> str:
    """Which settings the plot of importance does not show, and why; a sentence."""
    shared = plots.shared_settings(scored, space)
    some = [setting for setting in space if not all(setting in row for row in scored)]
    alike = [setting for setting in space if setting not in (*shared, *some)]
    reasons = [f"{', '.join(names)} ({why})" for names, why in (
        (some, "not of every trial: what they explain, others seem to"), (alike, "alike in all trials")) if names]
    return f"Not among the shares: {'; '.join(reasons)}." if reasons else ""


def row_value(row: Row, setting: str) -> str:
    """A setting of a trial, short; empty where the trial does not have it."""
    return short(row[setting]) if setting in row else ""


def _trials(rows: Sequence[Row], settings: Sequence[str], metric: str, halving: bool) -> Table:
    shown = [(f"{row['metric']:.4f}" if row["metric"] is not None else "–", row["status"], str(row["epochs"] or ""),
              f"{row['seconds']:,.0f}", *(row_value(row, setting) for setting in settings), row[REASON])
             for row in rows[:_SHOWN]]
    note = f"The first {_SHOWN} of {len(rows)}; leaderboard.csv has them all. " if len(rows) > _SHOWN else ""
    if halving:
        note += ("A trial of few epochs was stopped as one of the worse, unless its own early stopping or its settings "
                 "ended it.")
    return Table("Trials, best first", (f"validation {metric}", "status", "epochs", "seconds", *settings, "reason"),
                 tuple(shown), note)


def _settings(scored: Sequence[Row], space: Space, metric: str) -> Iterator[Table]:
    for setting, dimension in space.items():
        if isinstance(dimension, Choice):
            groups = [(value, [row["metric"] for row in scored if setting in row and row[setting] == value])
                      for value in dimension.values]
            rows = tuple((row_value({setting: value}, setting), str(len(found)), f"{max(found):.4f}",
                          f"{sum(found) / len(found):.4f}") for value, found in groups if found)
            note = ("Published: mean is best on Beauty and Kion, exponential on ML-20M and Amazon-M2 (ECIR'26)."
                    if setting.startswith(_POOLING) else "")
            yield Table(setting, ("value", "trials", f"best {metric}", "mean"), rows, note)
    if all(isinstance(space.get(setting), Choice) for setting in (_ALPHA, _BETA)):
        yield _alpha_beta(scored, space, metric)


def _alpha_beta(scored: Sequence[Row], space: Space, metric: str) -> Table:
    """The paper's table: α across, without and with β."""
    alpha, beta = space[_ALPHA], space[_BETA]
    assert isinstance(alpha, Choice) and isinstance(beta, Choice)
    columns = sorted({float(a) for a in alpha.values} | set(PUBLISHED_ALPHA[True]))

    def cell(a: float, b: bool) -> str:
        found = [row["metric"] for row in scored if row.get(_ALPHA) == a and row.get(_BETA) == b]
        return f"{max(found):.4f}" if found else "–"

    def label(b: bool) -> str:
        return "with β" if b else "without β"

    rows = [(label(b), *(cell(a, b) for a in columns)) for b in (False, True)]
    rows += [(f"published, {label(b)}", *(f"{PUBLISHED_ALPHA[b][a]:.4f}" if a in PUBLISHED_ALPHA[b] else "–"
                                          for a in columns)) for b in (False, True)]
    return Table(f"α × β: validation {metric}", ("", *(f"α = {a:g}" for a in columns)), tuple(rows),
                 "Published: SASRec on Beauty, test NDCG@10 under the paper's own split; to compare within rows only.")
