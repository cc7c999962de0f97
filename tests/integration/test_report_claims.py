"""What a report claims, and what it advises to serve."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cluster.storage import Storage
from pipeline.report.claims import advice, opening
from pipeline.report.stage import write_report
from tests.made_report import Written, inputs_of, markdown_tables, run_config


def test_a_real_gain_is_claimed_and_chance_is_not(written: Written) -> None:
    folder, metrics, _ = written
    claims = metrics["claims"]
    assert [(row["first"], row["second"], row["shown"]) for row in claims["rows"]] == [
        ("distilled", "plain", True), ("distilled", "shuffled", True)]
    assert all(row["p"] <= row["p_holm"] <= 0.05 for row in claims["rows"])
    assert claims["chance"]["shown"] is False and claims["chance"]["low"] < 0 < claims["chance"]["high"]
    text = (folder / "report.md").read_text()
    assert "- Serve distilled: ndcg@10 +" in text and "and shown against shuffled." in text
    _, *rows = markdown_tables(text)["Claims: ndcg@10, seen items removed"]
    assert [(row[0], row[-1]) for row in rows] == [
        ("distilled − plain", "shown"), ("distilled − shuffled", "shown"),
        ("plain − plain, other seeds", "not tested")]


def test_claims_and_advice_are_of_the_protocol_that_the_run_evaluates_by(storage: Storage) -> None:
    config = run_config(arms=["plain", "distilled"], seeds=[0], evaluate={"filter_seen": False})
    metrics = write_report(config, storage, inputs_of(storage, config, users=80))
    assert metrics["main_protocol"] == "all_items"
    gains = {protocol: metrics["arms"]["distilled"][protocol]["ndcg@10"]["mean"]
             - metrics["arms"]["plain"][protocol]["ndcg@10"]["mean"] for protocol in ("all_items", "seen_removed")}
    [row] = metrics["claims"]["rows"]
    assert row["mean"] == pytest.approx(gains["all_items"]) != pytest.approx(gains["seen_removed"], rel=1e-3)
    text = Path(storage.path("runs/made-by-hand/report.md")).read_text()
    table = markdown_tables(text)["Claims: ndcg@10, all items ranked"]
    assert [cells[0] for cells in table[1:]] == ["distilled − plain"]
    said = f"ndcg@10 {100 * row['relative']:+.1f} % over plain"
    assert said in (advice(metrics) or "") and said in text
    assert "kept in the main table, removed from the ranking in the second" in text


def _claims(*rows: tuple[str, str, float, bool], **baselines: float) -> dict[str, Any]:
    """A report's metrics: every arm's own figure is 0.1."""
    arms = {name: {"seen_removed": {"ndcg@10": {"mean": 0.1}}} for row in rows for name in row[:2]}
    return {"main_protocol": "seen_removed", "primary": "ndcg@10", "arms": arms,
            "baselines": {name: {"seen_removed": {"ndcg@10": value}} for name, value in baselines.items()},
            "claims": {"metric": "ndcg@10", "rows": [
        {"first": first, "second": second, "mean": mean, "low": mean - 0.001, "high": mean + 0.001, "relative": 0.1,
         "verdict": "above 0" if mean > 0.001 else "below 0" if mean < -0.001 else "includes 0", "shown": shown,
         "worse": mean < -0.001}
        for first, second, mean, shown in rows]}}


def test_the_advice_says_what_to_serve_and_how_sure_that_is() -> None:
    assert advice({"claims": None}) is None
    nothing = advice(_claims(("distilled", "plain", 0.0, False), ("matched", "plain", -0.01, False)))
    assert nothing == "Serve plain: no teacher's gain is shown; matched did worse (ndcg@10)."
    best = advice(_claims(("distilled", "plain", 0.01, True), ("matched", "plain", 0.02, True),
                          ("matched", "ids", 0.01, True)))
    assert best == "Serve matched: ndcg@10 +10.0 % over plain [+0.0190, +0.0210], and shown against ids."
    control = advice(_claims(("matched", "plain", 0.02, True), ("matched", "ids", -0.01, False)))
    assert control == ("Serve ids, a control: ndcg@10 +0.0100 over matched [+0.0090, +0.0110], which is +10.0 % over "
                       "plain [+0.0190, +0.0210]; so what matched is taught is not what helps.")
    both = advice(_claims(("a", "plain", 0.02, True), ("a", "a-ids", 0.0, False), ("b", "plain", 0.019, True),
                          ("b", "b-ids", 0.01, True)))
    assert both is not None and both.endswith("; of the others, shown against all controls of their own: b "
                                              "(+10.0 % over plain [+0.0180, +0.0200]).")
    unsure = advice(_claims(("matched", "plain", 0.02, True), ("matched", "ids", 0.0, False)))
    assert unsure is not None and unsure.endswith("not shown against ids, so it need not be the teacher's knowledge.")
    open_ = advice(_claims(("matched", "ids", 0.02, True)))
    assert open_ == "No plain arm was trained, so what to serve is open (ndcg@10); shown: matched over ids."
    alone = advice(_claims(("matched", "plain", 0.02, True)))
    assert alone is not None and "no control was trained" in alone


def test_the_opening_tells_what_the_advice_rests_on_and_which_controls_gain(
        written: Written) -> None:
    _, metrics, _ = written
    first, second = opening(metrics)  # the shuffled control gains nothing
    assert first == advice(metrics)
    assert second.startswith("How sure: 2 comparisons fixed by the configuration, ") and "3 seeds; plain" in second
    gain = {"first": "longer", "second": "plain", "protocol": "seen_removed", "metric": "ndcg@10", "mean": 0.002,
            "low": 0.001, "high": 0.003, "relative": 0.05, "verdict": "above 0"}
    others = [gain | {"metric": "recall@10"}, gain | {"first": "distilled"}, gain | {"verdict": "includes 0"},
              gain | {"second": "distilled"}, gain | {"protocol": "all_items"}]
    assert opening({**metrics, "differences": [gain, *others]})[2] == (
        "Controls above plain, listed and not tested: longer +5.0 % over plain [+0.0010, +0.0030].")
    chance = {**metrics["claims"]["chance"], "testable": True, "shown": True}
    doubtful = opening({**metrics, "claims": {**metrics["claims"], "chance": chance}})[1]
    assert "trust no gain of this size" in doubtful
    assert "what other starts would give is open" in opening({**metrics, "claims": {
        **metrics["claims"], "chance": None}})[1]
    arms = {"distilled": metrics["arms"]["distilled"]}
    assert "no plain arm was trained" in opening({**metrics, "claims": {**metrics["claims"], "chance": None},
                                                  "arms": arms})[1]


def test_the_advice_names_the_baselines_that_do_better() -> None:
    rows = (("matched", "plain", 0.02, True), ("matched", "ids", 0.01, True))
    found = advice(_claims(*rows, popularity=0.02, item_knn=0.11, ease=0.2))
    assert found is not None and found.endswith(
        "shown against ids. Better than matched (0.1000) on this data: ease 0.2000, item_knn 0.1100.")
    plain = advice(_claims(("distilled", "plain", 0.0, False), ease=0.3))
    assert plain is not None and plain.endswith("Better than plain (0.1000) on this data: ease 0.3000.")
