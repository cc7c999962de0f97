"""A search's plots: every trial across its settings, and what each setting explains."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from pipeline.report.svg import INK
from pipeline.work.text import shorten
from tuning.config import Choice, Integer, Uniform
from tuning.leaderboard import short
from tuning.space import Space, distribution, encode

if TYPE_CHECKING:
    from tuning.config import Dimension

_FEWEST: Final = 4
"""Scored trials below which variance is not explained."""
_LABEL_CHARACTERS: Final = 18
Row = dict[str, Any]


def parallel_coordinates(scored: Sequence[Row], space: Space, metric: str) -> Figure | None:
    """A line per trial, from setting to setting to the metric; a setting that it does not have breaks the line."""
    settings = [setting for setting in space if any(setting in row for row in scored)]
    if len(scored) < 2 or not settings:
        return None
    values = np.array([row["metric"] for row in scored], float)
    low, high = float(values.min()), float(values.max())
    shares = (values - low) / (high - low or 1.0)
    figure = Figure(figsize=(max(5.0, 1.9 * (len(settings) + 1)), 3.8))
    axes = figure.subplots()
    colors = matplotlib.colormaps["viridis"]
    for row, share in sorted(zip(scored, shares, strict=True), key=lambda pair: float(pair[1])):
        heights = [_height(space[setting], row[setting]) if setting in row else np.nan for setting in settings]
        axes.plot(range(len(settings) + 1), [*heights, share], color=colors(0.92 * share), marker=".",
                  alpha=0.35 + 0.65 * float(share), linewidth=1.0 + 1.2 * float(share))
    for place, setting in enumerate(settings):
        for height, label in _ticks(space[setting]):
            axes.annotate(label, (place, height), (4, 0), textcoords="offset points", fontsize=7.5, va="center")
    for height, value in ((0.0, low), (1.0, high)):
        axes.annotate(f"{value:.4f}", (len(settings), height), (6, 0), textcoords="offset points", fontsize=8.5,
                      va="center")
    axes.set_xticks(range(len(settings) + 1), [*_ends(settings), metric])
    for place in range(len(settings) + 1):
        axes.axvline(place, color=INK, linewidth=0.8, alpha=0.5)
    axes.set_yticks([])
    axes.grid(visible=False)
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.margins(x=0.08)
    axes.set_title(f"Trials across their settings (brighter: higher validation {metric})")
    return figure


def shared_settings(scored: Sequence[Row], space: Space) -> list[str]:
    """Those that every trial has and not all have alike: variance can be laid to them."""
    return [setting for setting in space if all(setting in row for row in scored)
            and len({encode(row[setting]) for row in scored}) > 1]


def importance(scored: Sequence[Row], space: Space) -> Figure | None:
    """Shares of the metric's variance that a forest over the trials lays to each setting alone (fANOVA, Hutter et al.,
    ICML 2014, as Optuna computes it); what is missing to 1 lies in settings together. Only of `shared_settings`."""
    shared = shared_settings(scored, space)
    if len(scored) < _FEWEST or len({row["metric"] for row in scored}) < 2 or not shared:
        return None
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize")
    for row in scored:
        study.add_trial(optuna.trial.create_trial(
            params={s: encode(row[s]) if isinstance(space[s], Choice) else row[s] for s in shared},
            distributions={s: distribution(space[s]) for s in shared}, value=row["metric"]))
    found = optuna.importance.FanovaImportanceEvaluator(seed=0).evaluate(study)
    if not any(found.values()):
        return None
    figure = Figure(figsize=(6.4, 0.9 + 0.34 * len(found)))
    axes = figure.subplots()
    names = list(found)[::-1]
    axes.barh(names, [found[name] for name in names], color="#1f9e89", height=0.66)
    axes.grid(axis="y", visible=False)
    axes.set_xlim(0, 1)
    axes.set_title("Share of the metric's variance by each setting alone (fANOVA)")
    return figure


def _ends(settings: Sequence[str]) -> list[str]:
    """The last names of dotted settings, as many of each as tell it from the others."""
    parts = [setting.split(".") for setting in settings]

    def end(own: Sequence[str]) -> str:
        counts = (n for n in range(1, len(own)) if sum(other[-n:] == own[-n:] for other in parts) == 1)
        return ".".join(own[-next(counts, len(own)):])

    return [end(own) for own in parts]


def _height(dimension: Dimension, value: Any) -> float:
    """Where a value stands between the bottom (0) and the top (1) of its axis."""
    if isinstance(dimension, Choice):
        place = [encode(v) for v in dimension.values].index(encode(value))
        return place / max(1, len(dimension.values) - 1)
    low, high = _scaled(dimension, dimension.low), _scaled(dimension, dimension.high)
    return float((_scaled(dimension, value) - low) / (high - low))


def _scaled(dimension: Uniform | Integer, value: float) -> float:
    return float(np.log(value)) if dimension.log else float(value)


def _ticks(dimension: Dimension) -> list[tuple[float, str]]:
    if isinstance(dimension, Choice):
        return [(_height(dimension, value), shorten(short(value), _LABEL_CHARACTERS)) for value in dimension.values]
    return [(0.0, f"{dimension.low:g}"), (1.0, f"{dimension.high:g}")]
