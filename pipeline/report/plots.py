"""The report's plots."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pipeline.report.svg import INK, drawn
from pipeline.report.tables import OTHER, PROTOCOL_TITLES, validation_metrics

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_ARM_COLORS: Final = {"plain": "#7a869a", "distilled": "#1f9e89", "shuffled": "#e07b39", "random": "#a65bb8"}
_BASELINE: Final = "#b8b08d"
_CATEGORY_COLORS: Final = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#ee8866", "#44bb99")
_OTHER: Final = "#9a9a9a"
Metrics = Mapping[str, Any]


def plots(metrics: Metrics) -> dict[str, str]:
    """Name → SVG; a plot with nothing to show is absent."""
    found = {name: drawn(name, alt, partial(draw, metrics)) for name, (draw, alt) in _PLOTS.items()}
    return {name: svg for name, svg in found.items() if svg is not None}


def _color(who: str) -> str:
    return _ARM_COLORS.get(who, _BASELINE)


def _ranking(metrics: Metrics) -> Figure:
    main, primary = metrics["main_protocol"], metrics["primary"]
    bars = [(arm, f[main][primary]["mean"], f[main][primary]["sd"]) for arm, f in metrics["arms"].items()]
    bars += [(name, f[main][primary], None) for name, f in metrics["baselines"].items()]
    bars.sort(key=lambda bar: float(bar[1]))
    figure = Figure(figsize=(7.2, 0.8 + 0.34 * len(bars)))
    axes = figure.subplots()
    axes.barh([b[0] for b in bars], [b[1] for b in bars], xerr=[np.nan if b[2] is None else b[2] for b in bars],
              color=[_color(b[0]) for b in bars], height=0.66,
              error_kw={"ecolor": INK, "elinewidth": 1.2, "capsize": 3})
    for place, (_, value, deviation) in enumerate(bars):
        axes.annotate(f"{value:.4f}", (value + (deviation or 0.0), place), (5, 0), textcoords="offset points",
                      va="center", fontsize=9)
    axes.grid(axis="y", visible=False)
    axes.margins(x=0.14)
    axes.set_title(f"Test {primary}, {PROTOCOL_TITLES[main]}")
    return figure


def _intervals(metrics: Metrics) -> Figure | None:
    cutoff = metrics["primary"].partition("@")[2]
    shown = [d for d in metrics["differences"] if d["protocol"] == metrics["main_protocol"]
             and d["metric"] in (f"ndcg@{cutoff}", f"recall@{cutoff}")][::-1]
    if not shown:
        return None
    figure = Figure(figsize=(7.2, 0.9 + 0.34 * len(shown)))
    axes = figure.subplots()
    for place, d in enumerate(shown):
        color = _color(d["first"])
        axes.plot([d["low"], d["high"]], [place, place], color=color, linewidth=3, solid_capstyle="round")
        axes.plot([d["mean"]], [place], "o", color=color, markersize=7)
    axes.axvline(0, color=INK, linewidth=1)
    axes.set_yticks(range(len(shown)), [f"{d['first']} − {d['second']}, {d['metric']}" for d in shown])
    axes.grid(axis="y", visible=False)
    axes.margins(y=0.12)
    axes.set_title(f"Paired differences with {100 * metrics['bootstrap']['confidence']:g} % intervals")
    return figure


def _learning(metrics: Metrics) -> Figure | None:
    if not metrics["training"]:
        return None
    figure = Figure(figsize=(10, 3.2))
    left, right = figure.subplots(1, 2)
    for arm, seeds in metrics["training"].items():
        for number, run in enumerate(seeds.values()):
            label = arm if number == 0 else None
            _line(left, run["epoch"], run["validation"], _color(arm), label)
            _line(right, run["epoch"], run["ranking"], _color(arm), label)
            if run["best_epoch"] in run["epoch"]:
                best = run["validation"][run["epoch"].index(run["best_epoch"])]
                if best is not None:
                    left.plot([run["best_epoch"]], [best], "o", color=_color(arm), markersize=6)
    left.set_title(f"Validation {' or '.join(validation_metrics(metrics))} (dot: chosen epoch)")
    right.set_title("Ranking loss L_model on training users")
    for axes in (left, right):
        _mark_switch(axes, metrics)
        _by_epoch(axes)
    left.legend()
    figure.tight_layout()
    return figure


def _balance(metrics: Metrics) -> Figure | None:
    arms = {arm: seeds for arm, seeds in metrics["training"].items() if metrics["balance"].get(arm)}
    if not arms:
        return None
    figure = Figure(figsize=(10, 5.6))
    (terms, beta), (variance, retrieval) = figure.subplots(2, 2)
    for arm, seeds in arms.items():
        run = next(iter(seeds.values()))
        color, places = _color(arm), [i for i, v in enumerate(run["weighted_distillation"]) if v is not None]
        epochs = [run["epoch"][i] for i in places]

        def part(name: str, run: Mapping[str, Any] = run, places: list[int] = places) -> list[float | None]:
            return [run[name][i] for i in places]

        _line(terms, epochs, part("weighted_ranking"), color, f"{arm}: (1 − α)·L_model")
        _line(terms, epochs, part("weighted_distillation"), color, f"{arm}: α·β·L_distil", dashed=True)
        _line(beta, epochs, part("beta"), color, arm)
        _line(variance, epochs, part("student_variance"), color, f"{arm}: H_k")
        _line(variance, epochs, part("teacher_variance"), color, f"{arm}: T(profile)", dashed=True)
        _line(retrieval, epochs, part("retrieval"), color, arm)
        _line(retrieval, epochs, part("retrieval_by_chance"), color, f"{arm}: by chance", dashed=True)
    for axes, title in ((terms, "Terms of the total loss"), (beta, "β"), (variance, "Variance of both sides"),
                        (retrieval, "Own profile found in the batch")):
        axes.set_title(title)
        _by_epoch(axes)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize=8)
    figure.tight_layout()
    return figure


def _slices(metrics: Metrics) -> Figure | None:
    primary, arms = metrics["primary"], list(metrics["arms"])
    kinds = [(kind, title) for kind, title in (("history_length", "history length"),
                                              ("item_frequency", "training interactions of the target"))
             if metrics["slices"][kind]]
    if not arms or not kinds:
        return None
    figure = Figure(figsize=(10, 3.2))
    for axes, (kind, title) in zip(np.atleast_1d(figure.subplots(1, len(kinds))), kinds, strict=True):
        found = metrics["slices"][kind]
        width = 0.8 / len(arms)
        for number, arm in enumerate(arms):
            axes.bar(np.arange(len(found)) + (number - (len(arms) - 1) / 2) * width, [s[primary][arm] for s in found],
                     width * 0.92, color=_color(arm), label=arm)
        axes.set_xticks(range(len(found)), [s["label"] for s in found], fontsize=8)
        axes.grid(axis="x", visible=False)
        axes.margins(y=0.2)
        axes.set_title(f"{primary} by {title}")
    figure.axes[0].legend(fontsize=8)
    figure.tight_layout()
    return figure


def _map(metrics: Metrics) -> Figure | None:
    found = metrics["map"]
    if not found:
        return None
    figure = Figure(figsize=(7.6, 5.2))
    axes = figure.subplots()
    x, y, names = np.array(found["x"]), np.array(found["y"]), np.array(found["category"])
    colors = dict(zip(found["categories"], _CATEGORY_COLORS, strict=False))
    handles, labels = [], []
    for name in [OTHER, *found["categories"]]:
        mask = names == name
        if mask.any():
            handles.append(axes.scatter(x[mask], y[mask], s=9, color=colors.get(name, _OTHER), alpha=0.7, linewidths=0,
                                        rasterized=True))
            labels.append(name)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(visible=False)
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.set_title("Profiles of users, by the main category of their training items")
    # matplotlib leaves out a label that begins with an underscore, so the names are put in afterwards.
    legend = axes.legend(handles, ["" for _ in labels], loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8,
                         markerscale=2)
    for text, label in zip(legend.get_texts(), labels, strict=True):
        text.set_text(label)
    return figure


def _profiles(metrics: Metrics) -> Figure | None:
    angles = {name: a["histogram"] for name, a in (metrics["profiles"] or {"angles": {}})["angles"].items()
              if a["written"]}
    if not angles:
        return None
    figure = Figure(figsize=(7.0, 2.6))
    axes = figure.subplots()
    for color, (name, found) in zip(_CATEGORY_COLORS, angles.items(), strict=False):
        axes.stairs(found["counts"], found["edges"], color=color, label=name, fill=len(angles) == 1)
    axes.set_xlabel("words")
    axes.set_ylabel("profiles")
    axes.set_title("Length of the profiles")
    if len(angles) > 1:
        axes.legend()
    return figure


def _line(axes: Axes, x: list[int], y: list[float | None], color: str, label: str | None, dashed: bool = False) -> None:
    pairs = [(a, b) for a, b in zip(x, y, strict=True) if b is not None]
    if pairs:
        axes.plot(*zip(*pairs, strict=True), color=color, label=label, linestyle="--" if dashed else "-",
                  marker="." if len(pairs) < 12 else None)


def _by_epoch(axes: Axes) -> None:
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _mark_switch(axes: Axes, metrics: Metrics) -> None:
    distil = metrics["distill_epochs"]
    if distil and any(metrics["balance"].values()):
        axes.axvspan(0.5, distil + 0.5, color="#1f9e89", alpha=0.08, linewidth=0)


_PLOTS: Final = {
    "ranking": (_ranking, "Bars of the primary test metric of every recommender"),
    "intervals": (_intervals, "Paired differences between arms with intervals"),
    "learning": (_learning, "Validation metric and ranking loss by epoch"),
    "balance": (_balance, "Loss terms, beta, variances and retrieval by epoch"),
    "slices": (_slices, "Primary metric by history length and item frequency"),
    "profiles": (_profiles, "Histogram of the profiles' lengths in words"),
    "map": (_map, "Two-dimensional map of the profile vectors"),
}
