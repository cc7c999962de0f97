"""The pages of a report: every figure in them is one of metrics.json, and text from data stays text."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from cluster.storage import Storage
from configs.errors import ArtifactError
from models.sequences import Sequences
from pipeline.report.inputs import ReportInputs
from pipeline.report.render import escape_markdown, markdown
from pipeline.report.stage import write_report
from pipeline.report.summary import summary_table
from pipeline.store.columns import PROFILE, RANK, USER_IDX
from tests.builders import make_prepared
from tests.made_report import (
    HOSTILE,
    Written,
    evaluate_artifact,
    inputs_of,
    markdown_tables,
    run_config,
)


class Page(HTMLParser):
    """Text, cells, and everything that would load something or run."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.cells: list[str] = []
        self._in_cell = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [v or "" for k, v in attrs if k in ("src", "href", "xlink:href", "srcset", "action", "data")]
        assert not [k for k, _ in attrs if k.startswith("on")]
        if tag in ("td", "th"):
            self._in_cell = True
            self.cells.append("")

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self._in_cell = False

    def handle_data(self, data: str) -> None:
        if self._in_cell:
            self.cells[-1] += data


def test_html_is_self_contained_and_shows_the_same_cells(written: Written) -> None:
    folder, _, _ = written
    text = (folder / "report.html").read_text()
    page = Page(text)
    assert all(link.startswith(("#", "data:image/png;base64,")) for link in page.links)
    assert not {"script", "link", "iframe", "object", "embed"} & set(page.tags)
    assert not re.search(r"@import|url\((?!#)", text)
    assert page.tags.count("svg") == 7
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:xlink:href="|href=")#([^"]+)"', text)) <= set(ids)
    tables = markdown_tables((folder / "report.md").read_text())
    shown = [c for title, rows in tables.items() if not title.startswith("User") for row in rows for c in row if c]
    assert shown == [c.replace("\N{NO-BREAK SPACE}", " ") for c in page.cells if c]


def test_text_from_data_stays_text(written: Written) -> None:
    folder, metrics, _ = written
    assert any(HOSTILE in text for s in metrics["samples"] for text in s["profiles"].values())
    assert "<script" not in (folder / "report.html").read_text()
    report = (folder / "report.md").read_text()
    assert "<script" not in report
    assert r"[x\](http://e.vil)" in report
    assert escape_markdown(" a|b\n*c* ") == r"a\|b \*c\*"
    assert escape_markdown("10. <b>") == r"10\. &lt;b&gt;"
    assert escape_markdown("- x") == r"\- x"
    assert escape_markdown("## x [a]: b") == r"\## x [a\]: b"
    assert escape_markdown("-0.1 [+0.2, 0.30]") == "-0.1 [+0.2, 0.30]"


def test_sample_users_show_history_profile_and_both_models(written: Written) -> None:
    folder, metrics, inputs = written
    assert len(metrics["samples"]) == 4
    report = (folder / "report.md").read_text()
    ranks = inputs.evaluated["distilled", 0].read_table("ranks.parquet").to_pylist()
    rank_of = {row[USER_IDX]: row[RANK] for row in ranks}
    for sample in metrics["samples"]:
        assert sample["offers"]["distilled"]["rank"] == rank_of[sample["user"]]
        assert list(sample["offers"]) == ["plain", "distilled"]
        assert len(sample["offers"]["plain"]["items"]) == 5
        assert sample["history"] and sample["history"][-1] in report
        assert list(sample["profiles"]) == ["overall"]


def test_map_has_a_point_and_a_category_per_profiled_user(written: Written) -> None:
    _, metrics, _ = written
    assert len(metrics["map"]["x"]) == len(metrics["map"]["category"]) == 149
    assert set(metrics["map"]["categories"]) == {"category 0", "category 1", "category 2"}


def test_protocol_names_every_artifact(written: Written) -> None:
    folder, metrics, inputs = written
    report = (folder / "report.md").read_text()
    assert metrics["artifacts"]["train/shuffled/seed-2"] == inputs.trained["shuffled", 2].fingerprint
    assert all(fingerprint in report for fingerprint in metrics["artifacts"].values())
    assert all(f"Not computed: {name}" in report for name in ("item\\_knn", "ease"))


def test_synthetic_data_carry_their_line_on_top(written: Written) -> None:
    folder, metrics, _ = written
    line = "signal built in: shows that the machinery works"
    assert metrics["notice"] == line
    assert line in (folder / "report.md").read_text()[:200]
    assert (folder / "report.html").read_text().index(line) < (folder / "report.html").read_text().index("<nav>")
    assert line in summary_table(metrics)


def test_one_seed_says_that_seed_variance_is_not_included(storage: Storage) -> None:
    config = run_config(seeds=[4], arms=["plain", "distilled"], prepare={"source": {"kind": "sequences"}})
    metrics = write_report(config, storage, inputs_of(storage, config))
    assert metrics["notice"] is None
    assert metrics["arms"]["plain"]["all_items"]["mrr@20"]["sd"] is None
    report = Path(storage.path("runs/made-by-hand/report.md")).read_text()
    assert "one seed: seed variance not included" in report
    assert "±" not in report
    assert "seed variance not included" in summary_table(metrics)


def test_plain_arm_alone_reports_without_a_teacher(storage: Storage) -> None:
    config = run_config(arms=["plain"], report={"sample_users": 0, "bootstrap_samples": 100})
    metrics = write_report(config, storage, inputs_of(storage, config))
    assert (metrics["teacher"], metrics["map"], metrics["claims"]) == (None, None, None)
    assert (metrics["differences"], metrics["samples"]) == ([], [])
    page = Path(storage.path("runs/made-by-hand/report.html")).read_text()
    assert 'id="differences"' not in page
    assert "ndcg@10" in summary_table(metrics)


def test_report_is_rendered_from_the_metrics_file_alone(written: Written) -> None:
    folder, _, _ = written
    stored = json.loads((folder / "metrics.json").read_text())
    assert markdown(stored) == (folder / "report.md").read_text()


def test_recommenders_ranked_on_other_cases_are_refused(storage: Storage) -> None:
    config = run_config(seeds=[0], arms=["plain"])
    inputs = inputs_of(storage, config)
    other = make_prepared(storage, Sequences.from_lists([[1, 2, 3, 4], [3, 2, 1]]), items=40, prefix="other")
    rng = np.random.default_rng(0)
    stranger = evaluate_artifact(storage, other, "stranger", np.zeros(2), rng, 40)
    mixed = ReportInputs(inputs.prepared, None, None, None, inputs.trained, inputs.evaluated, {"popularity": stranger})
    with pytest.raises(ArtifactError, match="test users or targets are not those"):
        write_report(config, storage, mixed)


def test_the_page_of_profiles_shows_lengths_rejects_and_samples(written: Written
                                                                ) -> None:
    folder, metrics, inputs = written
    assert inputs.profiles is not None
    texts = inputs.profiles.read_table("profiles")[PROFILE].to_pylist()
    angle = metrics["profiles"]["angles"]["overall"]
    assert (angle["written"], angle["rejected"]) == (149, 1)
    assert angle["words"]["median"] == float(np.median([len(text.split()) for text in texts]))
    assert angle["characters"]["most"] == max(map(len, texts))
    assert sum(angle["histogram"]["counts"]) == 149
    assert metrics["profiles"]["rejected"] == {"no signals": {"count": 1, "share": 1 / 150}}
    samples = metrics["profile_samples"]
    assert len(samples) == 13 and samples[0]["rejected"] == [{"angle": "overall", "reason": "no signals"}]
    assert samples[1]["profiles"][0]["text"] in texts and samples[1]["id"] == f"user-{samples[1]['user']}"
    page = (folder / "report.html").read_text()
    assert 'href="#profiles"' in page and "rejected (no signals)" in page and "<script>" not in page
    rows = markdown_tables((folder / "report.md").read_text())
    assert rows["Rejected profiles"][1] == ["no signals", "1", "0.7 %"]
    assert rows["Profiles by angle"][1][:4] == ["overall", "149", "1", "0.7 %"]
