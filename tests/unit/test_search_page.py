"""The page of a search, from a leaderboard that is made up."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import Any

import numpy as np

from configs.loader import validate
from tuning.config import Choice, TuneConfig
from tuning.page import search_page
from tuning.plots import importance, parallel_coordinates
from tuning.space import Space

SPACE = {"train.alpha": {"kind": "choice", "values": [0.2, 0.4, 0.8]}, "train.beta": {"kind": "choice", "values": [
    True, False]}, "model.dropout": {"kind": "uniform", "low": 0.1, "high": 0.7}, "train.distillation.pooling.gamma": {
        "kind": "choice", "values": [0.05, 0.1], "when": {"train.beta": [True]}}}


class Cells(HTMLParser):
    """The cells of every table row, and the ids of the page."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.ids: list[str] = []
        self._inside = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.ids += [value for name, value in attrs if name == "id" and value]
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        self._inside = tag in ("td", "th")

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self._inside = False

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.rows[-1][-1] += data


def space() -> Space:
    return validate(TuneConfig, {"name": "s", "run": "demo.yaml", "space": SPACE}).space


def trials() -> list[dict[str, Any]]:
    """The metric is α and nothing else; one trial failed."""
    rng = np.random.default_rng(0)
    rows = []
    for number, (alpha, beta) in enumerate((a, b) for a in (0.8, 0.4, 0.2) for b in (True, False) for _ in range(4)):
        gamma = {"train.distillation.pooling.gamma": 0.1} if beta else {}
        rows.append({"trial": str(number), "status": "finished", "metric": alpha / 10, "epochs": 9, "seconds": 1.5,
                     "fingerprint": "f", "train.alpha": alpha, "train.beta": beta,
                     "model.dropout": float(rng.uniform(0.1, 0.7)), **gamma, "reason": ""})
    return [*rows, rows[0] | {"trial": "x", "status": "failed", "metric": None, "reason": "<b>loss</b> became NaN"}]


def test_the_page_holds_every_figure_and_escapes_what_it_shows() -> None:
    page = search_page("search & more", "ndcg@10", space(), trials(), ["The end."], halving=True)
    read = Cells()
    read.feed(page)
    assert "search &amp; more" in page and "<b>loss" not in page and "&lt;b&gt;loss&lt;/b&gt; became NaN" in page
    assert "Best of 25 trials: validation ndcg@10 0.0800 with train.alpha 0.8, train.beta true" in page
    assert "1 of the trials failed." in page and "The end." in page
    assert ["without β", "0.0200", "0.0400", "–", "0.0800"] in read.rows
    assert ["published, with β", "–", "0.0111", "0.0106", "0.0106"] in read.rows
    assert ["0.4", "8", "0.0400", "0.0400"] in read.rows and ["0.1", "12", "0.0800", "0.0467"] in read.rows
    assert len(read.ids) == len(set(read.ids)) > 10, "two plots whose ids do not meet"


def test_what_decides_the_metric_is_what_is_important() -> None:
    scored = [row for row in trials() if row["metric"] is not None]
    figure = importance(scored, space())
    assert figure is not None
    bars = {label.get_text(): bar.get_width() for label, bar in zip(
        figure.axes[0].get_yticklabels(), figure.axes[0].patches, strict=True)}
    assert bars["train.alpha"] > 0.95
    assert bars.keys() == {"train.alpha", "train.beta", "model.dropout"}, "γ is no setting of every trial"


def test_the_page_says_which_settings_have_no_share_of_the_variance() -> None:
    gamma = "train.distillation.pooling.gamma"
    page = search_page("s", "ndcg@10", space(), trials(), [], halving=False)
    assert f"Not among the shares: {gamma} (not of every trial: what they explain, others seem to)." in page
    alike = [row | {"model.dropout": 0.3, gamma: 0.05 if row["train.beta"] else 0.1} for row in trials()]
    page = search_page("s", "ndcg@10", space(), alike, [], halving=False)
    assert "Not among the shares: model.dropout (alike in all trials)." in page
    whole = [row | {gamma: 0.05 if row["train.beta"] else 0.1} for row in trials()]
    assert "Not among the shares" not in search_page("s", "ndcg@10", space(), whole, [], halving=False)
    few = search_page("s", "ndcg@10", space(), trials()[:2], [], halving=False)
    assert "Not among the shares" not in few, "there is no such plot"


def test_a_search_of_one_trial_has_no_plots() -> None:
    page = search_page("s", "ndcg@10", space(), trials()[:1], [], halving=False)
    assert "<svg" not in page and "0.0800" in page


def test_what_settings_explain_together_is_laid_to_none_of_them() -> None:
    """The metric is whether two settings agree: each alone explains little, and one that never changes nothing."""
    scored = [row | {"metric": float((row["train.alpha"] == 0.8) == row["train.beta"]), "model.dropout": 0.3}
              for row in trials() if row["metric"] is not None and row["train.alpha"] != 0.4]
    figure = importance(scored, space())
    assert figure is not None
    bars = [bar.get_width() for bar in figure.axes[0].patches]
    assert len(bars) == 2 and sum(bars) < 0.6
    assert importance([row | {"train.alpha": 0.8, "train.beta": True} for row in scored], space()) is None


def test_only_a_search_that_stops_trials_says_that_it_did() -> None:
    told = [search_page("s", "ndcg@10", space(), trials(), [], halving=halving) for halving in (True, False)]
    assert ["was stopped as one of the worse, unless" in page for page in told] == [True, False]


def test_settings_of_one_last_name_are_told_apart() -> None:
    names = ("train.alpha", "train.loss.kind", "train.target.kind", "recipes.a.train.alpha")
    rows = [{"metric": metric} | dict.fromkeys(names, 1) for metric in (0.1, 0.2)]
    figure = parallel_coordinates(rows, dict.fromkeys(names, Choice(values=(1, 2))), "ndcg@10")
    assert figure is not None
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == [
        "train.alpha", "loss.kind", "target.kind", "a.train.alpha", "ndcg@10"]
