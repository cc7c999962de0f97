"""The report of a run made by hand: metrics.json first, and every figure of report.md and report.html is its own."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from cluster.storage import Storage
from configs.errors import ArtifactError
from models.sequences import Sequences
from pipeline.config import RunConfig
from pipeline.report.claims import advice, opening
from pipeline.report.inputs import ReportInputs
from pipeline.report.render import escape_markdown, markdown
from pipeline.report.stage import write_report
from pipeline.report.summary import summary_table
from pipeline.store import artifacts
from pipeline.store.arrays import cases
from pipeline.store.artifacts import Artifact, StageKey
from pipeline.store.columns import ANGLE, COUNT, PROFILE, RANK, RANK_UNFILTERED, REASON, TARGET, USER_IDX, VECTOR
from tests.builders import make_prepared

EPOCHS, DISTIL, TOP = 6, 3, 20
HOSTILE = "<script>alert(1)</script> | *50 %* [x](http://e.vil) `$a_b$`"


def run_config(**changes: Any) -> RunConfig:
    return RunConfig.model_validate({
        "name": "made-by-hand", "arms": ["plain", "distilled", "shuffled"], "seeds": [0, 1, 2],
        "train": {"epochs": EPOCHS, "distill_epochs": DISTIL, "batch_size": 32, "alpha": 0.5,
                  "alpha_schedule": "linear"},
        "report": {"bootstrap_samples": 200, "sample_users": 4}, **changes})


def inputs_of(storage: Storage, config: RunConfig, users: int = 150, items: int = 40, width: int = 6,
              cold: dict[int, str] | None = None) -> ReportInputs:
    """Artifacts of every stage with figures from a seeded generator; ``distilled`` ranks a little better."""
    rng = np.random.default_rng(0)
    walks = [rng.integers(1, items + 1, size=rng.integers(3, 12)).tolist() for _ in range(users)]
    prepared = make_prepared(storage, Sequences.from_lists(walks), items=items, cold=cold)
    skill = {"plain": 0.0, "distilled": 0.15, "shuffled": 0.0, "random": 0.0}
    trained, evaluated = {}, {}
    ease = rng.uniform(size=len(cases(prepared.local("test.arrow"))))
    for arm in config.arms:
        for seed in config.seeds:
            trained[arm, seed] = train_artifact(storage, config, arm, seed, rng)
            evaluated[arm, seed] = evaluate_artifact(storage, prepared, f"{arm}-{seed}", ease - skill[arm], rng, items)
    baselines = {name: evaluate_artifact(storage, prepared, name, ease + 0.2, rng, items)
                 for name in ("popularity", "transitions")}
    baselines["item_knn"] = commit(storage, "evaluate", {}, {}, {"skipped": "too many items"}, {"subject": "item_knn"})
    if config.arms == ("plain",):
        return ReportInputs(prepared, None, None, None, trained, evaluated, baselines)
    profiles = commit(storage, "profile", {
        "profiles/part-0.parquet": pa.table({
            USER_IDX: np.arange(1, users), ANGLE: ["overall"] * (users - 1),
            PROFILE: [f"Likes things number {u}.\n\nSecond paragraph {HOSTILE}" for u in range(1, users)]}),
        "rejected.parquet": pa.table({USER_IDX: [0], ANGLE: ["overall"], REASON: ["no signals"]})},
        {"num_in": users, "num_out": users - 1, "num_rejected": 1},
        {"engine": "keywords", "form": "long", "angles": ["overall"], "rejected_by_reason": {"no signals": 1}})
    encoded = commit(storage, "encode", {
        "vectors/part-0.parquet": pa.table({USER_IDX: np.arange(1, users), ANGLE: ["overall"] * (users - 1),
                                            "tokens": np.arange(1, users, dtype=np.int32),
                                            "over_length": np.arange(1, users) > 100})},
        {}, {}, {"model": "made/by-hand", "revision": None, "prefix": "query: "})
    vectors = rng.normal(size=((users - 1), width)).astype(np.float32)
    targets = commit(storage, "reduce", {
        "targets.parquet": pa.table({USER_IDX: np.arange(1, users), ANGLE: ["overall"] * (users - 1),
                                     VECTOR: pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), width)})},
        {}, {"width": width, "angles": ["overall"], "method": "pca", "whitened": False, "fit_rows": users - 1,
             "quality": {"rows": 100, "neighbors": 10, "trustworthiness": 0.91234567, "neighbor_overlap": 0.41234567,
                         "variance": [1.0] * width, "mean_variance": 1.0, "effective_dimensions": 5.5}})
    return ReportInputs(prepared, profiles, encoded, targets, trained, evaluated, baselines, {"ease": "40 items"})


def commit(storage: Storage, stage: str, tables: dict[str, pa.Table], counts: dict[str, int], info: dict[str, Any],
           config: dict[str, Any] | None = None, files: dict[str, bytes] | None = None) -> Artifact:
    key = StageKey(stage, 1, config or {"made": [*tables, *counts, str(info)]})
    out = artifacts.begin(storage, key)
    for name, table in tables.items():
        out.write_table(name, table)
    for name, data in (files or {}).items():
        storage.write_bytes(out.relative(name), data)
    return out.commit(counts, info=info)


def train_artifact(storage: Storage, config: RunConfig, arm: str, seed: int, rng: np.random.Generator) -> Artifact:
    records: list[dict[str, Any]] = [{"kind": "step", "epoch": 1, "step": 1, "ranking": 4.0}]
    for epoch in range(1, EPOCHS + 1):
        record = {"kind": "epoch", "epoch": epoch, "step": 10 * epoch, "phase": 1 if epoch <= DISTIL else 2,
                  "ranking": 4.0 / epoch, "ndcg@10": 0.02 * epoch - 0.002 * epoch**2, "gradient_norm": 1.0}
        if arm != "plain" and epoch <= DISTIL:
            record |= {"distillation": 2.0 / epoch, "beta": 1.0 + rng.uniform(), "student_variance": 0.5,
                       "teacher_variance": 0.9, "retrieval": 0.1 * epoch, "retrieval_by_chance": 0.04}
        records.append(record)
    data = b"".join(json.dumps(r).encode() + b"\n" for r in records)
    info = {"best_epoch": 5, "best_validation": 0.05, "seconds": 12.3456, "epochs": EPOCHS, "world_size": 1,
            "stopped_early": False}
    return commit(storage, "train", {}, {}, info, {"arm": arm, "seed": seed}, {"metrics.jsonl": data})


def evaluate_artifact(storage: Storage, prepared: Artifact, subject: str, hardness: np.ndarray,
                      rng: np.random.Generator, items: int) -> Artifact:
    """Ranks grow with the user's ``hardness``; rows are stored in no order."""
    test = cases(prepared.local("test.arrow"))
    rank = np.clip((hardness + 0.1 * rng.normal(size=len(test))) * items, 0, items - 1).astype(np.int32) + 1
    counts = prepared.read_table("items.parquet", [COUNT])[COUNT].to_numpy()
    top = np.stack([rng.permutation(items)[:TOP] + 1 for _ in range(len(test))]).astype(np.int32)
    order = rng.permutation(len(test))
    lists = pa.FixedSizeListArray.from_arrays(pa.array(top[order].reshape(-1)), TOP)
    return commit(storage, "evaluate", {
        "ranks.parquet": pa.table({
            USER_IDX: test.users[order], TARGET: test.targets[order], RANK: rank[order],
            RANK_UNFILTERED: np.minimum(rank + 3, items).astype(np.int32)[order],
            "history_length": test.histories.lengths[order].astype(np.int32),
            "target_count": counts[test.targets - 1].astype(np.int32)[order]}),
        "top.parquet": pa.table({USER_IDX: test.users[order], "top": lists, "top_unfiltered": lists}),
    }, {}, {}, {"subject": subject})


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], ReportInputs]:
    """A report with three arms and three seeds: its folder, the metrics and what they come from."""
    from cluster.config import StorageConfig

    storage = Storage.from_config(StorageConfig(uri=str(tmp_path_factory.mktemp("report"))))
    inputs = inputs_of(storage, run_config())
    metrics = write_report(run_config(), storage, inputs)
    return Path(storage.path("runs/made-by-hand")), metrics, inputs


def markdown_tables(text: str) -> dict[str, list[list[str]]]:
    """Heading → rows of cells, the header row first."""
    found: dict[str, list[list[str]]] = {}
    for heading, body in re.findall(r"^### (.+?)\n(.*?)(?=^#|\Z)", text, re.MULTILINE | re.DOTALL):
        lines = [line for line in body.splitlines() if line.startswith("|")]
        rows = [[re.sub(r"\\(.)", r"\1", c).strip() for c in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
        found[heading] = [row for row in rows if not all(set(cell) <= {"-"} for cell in row)]
    return found


def test_metrics_file_holds_what_was_returned(written: tuple[Path, dict[str, Any], ReportInputs]) -> None:
    folder, metrics, _ = written
    assert json.loads((folder / "metrics.json").read_text()) == json.loads(json.dumps(metrics))


def test_means_are_those_of_the_ranks(written: tuple[Path, dict[str, Any], ReportInputs]) -> None:
    _, metrics, inputs = written
    per_seed = []
    for seed in (0, 1, 2):
        rank = inputs.evaluated["distilled", seed].read_table("ranks.parquet")[RANK].to_numpy()
        per_seed.append(np.where(rank <= 10, 1 / np.log2(1 + rank), 0.0).mean())
    found = metrics["arms"]["distilled"]["seen_removed"]["ndcg@10"]
    assert found["mean"] == pytest.approx(np.mean(per_seed))
    assert found["sd"] == pytest.approx(np.std(per_seed, ddof=1))
    assert list(found["seeds"].values()) == pytest.approx(per_seed)
    unfiltered = inputs.baselines["popularity"].read_table("ranks.parquet")[RANK_UNFILTERED].to_numpy()
    assert metrics["baselines"]["popularity"]["all_items"]["recall@5"] == pytest.approx((unfiltered <= 5).mean())


def test_headline_of_the_markdown_equals_the_metrics(written: tuple[Path, dict[str, Any], ReportInputs]) -> None:
    folder, metrics, _ = written
    tables = markdown_tables((folder / "report.md").read_text())
    ranking = {f"{m}@{k}" for m in ("recall", "ndcg", "mrr") for k in (5, 10, 20)}
    for protocol, title in (("seen_removed", "seen items removed"), ("all_items", "all items ranked")):
        header, *rows = tables[f"Test metrics, {title}"]
        assert [row[0] for row in rows] == ["plain", "distilled", "shuffled", "popularity", "transitions"]
        assert set(header[1:]) == ranking | {"coverage@10", "popularity@10"}
        for who, *cells in rows:
            for name, cell in zip(header[1:], cells, strict=True):
                digits = 1 if name.startswith("popularity") else 4
                if who in metrics["arms"]:
                    mean, deviation = map(float, cell.split(" ± "))
                    figure = metrics["arms"][who][protocol][name]
                    assert deviation == round(figure["sd"], digits)
                    assert mean == round(figure["mean"], digits)
                else:
                    assert float(cell) == round(metrics["baselines"][who][protocol][name], digits)


def test_differences_of_the_markdown_equal_the_metrics(written: tuple[Path, dict[str, Any], ReportInputs]) -> None:
    folder, metrics, _ = written
    _, *rows = markdown_tables((folder / "report.md").read_text())["Paired differences, seen items removed"]
    expected = [d for d in metrics["differences"] if d["protocol"] == "seen_removed"]
    assert len(rows) == len(expected) == 3 * 9  # distilled - plain, distilled - shuffled, shuffled - plain
    for row, d in zip(rows, expected, strict=True):
        low, high = (float(v) for v in row[3].strip("[]").split(","))
        assert (row[0], row[1], row[4]) == (f"{d['first']} − {d['second']}", d["metric"], d["verdict"])
        assert (float(row[2]), low, high) == (round(d["mean"], 4), round(d["low"], 4), round(d["high"], 4))
        assert float(row[5].rstrip(" %")) == round(100 * d["share_above_zero"], 1)


def test_differences_are_paired_by_user_and_seed(written: tuple[Path, dict[str, Any], ReportInputs]) -> None:
    _, metrics, _ = written
    of = {(d["first"], d["second"]): d for d in metrics["differences"]
          if d["metric"] == "ndcg@10" and d["protocol"] == "seen_removed"}
    gain, control = of["distilled", "plain"], of["shuffled", "plain"]
    arms = {arm: f["seen_removed"]["ndcg@10"]["mean"] for arm, f in metrics["arms"].items()}
    assert gain["mean"] == pytest.approx(arms["distilled"] - arms["plain"])
    assert gain["relative"] == pytest.approx(arms["distilled"] / arms["plain"] - 1)
    assert gain["verdict"] == "above 0"
    assert control["verdict"] == "includes 0"
    assert gain["better_users"] + gain["worse_users"] <= 1.0


def test_a_real_gain_is_claimed_and_chance_is_not(written: tuple[Path, dict[str, Any], ReportInputs]) -> None:
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
        ("plain − plain, other seeds", "not shown")]


def _claims(*rows: tuple[str, str, float, bool], **baselines: float) -> dict[str, Any]:
    """A report's metrics: every arm's own figure is 0.1."""
    arms = {name: {"seen_removed": {"ndcg@10": {"mean": 0.1}}} for row in rows for name in row[:2]}
    return {"main_protocol": "seen_removed", "primary": "ndcg@10", "arms": arms,
            "baselines": {name: {"seen_removed": {"ndcg@10": value}} for name, value in baselines.items()},
            "claims": {"metric": "ndcg@10", "rows": [
        {"first": first, "second": second, "mean": mean, "low": mean - 0.001, "high": mean + 0.001, "relative": 0.1,
         "shown": shown} for first, second, mean, shown in rows]}}


def test_the_advice_says_what_to_serve_and_how_sure_that_is() -> None:
    assert advice({"claims": None}) is None
    nothing = advice(_claims(("distilled", "plain", 0.0, False), ("matched", "plain", -0.01, False)))
    assert nothing == "Serve plain: no teacher's gain is shown; matched did worse (ndcg@10)."
    best = advice(_claims(("distilled", "plain", 0.01, True), ("matched", "plain", 0.02, True),
                          ("matched", "ids", 0.01, True)))
    assert best == "Serve matched: ndcg@10 +10.0 % over plain [+0.0190, +0.0210], and shown against ids."
    unsure = advice(_claims(("matched", "plain", 0.02, True), ("matched", "ids", 0.0, False)))
    assert unsure is not None and unsure.endswith("not shown against ids, so it need not be the teacher's knowledge.")
    alone = advice(_claims(("matched", "plain", 0.02, True)))
    assert alone is not None and "no control was trained" in alone


def test_the_opening_tells_what_the_advice_rests_on_and_which_controls_gain(
        written: tuple[Path, dict[str, Any], ReportInputs]) -> None:
    _, metrics, _ = written
    first, second = opening(metrics)  # the shuffled control gains nothing
    assert first == advice(metrics)
    assert second.startswith("How sure: 2 comparisons fixed by the configuration, ") and "3 seeds; plain" in second
    gain = {"first": "longer", "second": "plain", "protocol": "seen_removed", "metric": "ndcg@10", "low": 0.001,
            "high": 0.003, "relative": 0.05, "verdict": "above 0"}
    others = [gain | {"metric": "recall@10"}, gain | {"first": "distilled"}, gain | {"verdict": "includes 0"},
              gain | {"second": "distilled"}, gain | {"protocol": "all_items"}]
    assert opening({**metrics, "differences": [gain, *others]})[2] == (
        "Controls above plain, shown and not tested: longer +5.0 % [+0.0010, +0.0030].")
    chance = {**metrics["claims"]["chance"], "shown": True}
    doubtful = opening({**metrics, "claims": {**metrics["claims"], "chance": chance}})[1]
    assert "trust no gain of this size" in doubtful
    assert "what other starts would give is open" in opening({**metrics, "claims": {
        **metrics["claims"], "chance": None}})[1]


def test_the_advice_names_the_baselines_that_do_better() -> None:
    rows = (("matched", "plain", 0.02, True), ("matched", "ids", 0.01, True))
    found = advice(_claims(*rows, popularity=0.02, item_knn=0.11, ease=0.2))
    assert found is not None and found.endswith(
        "shown against ids. Better than matched (0.1000) on this data: ease 0.2000, item_knn 0.1100.")
    plain = advice(_claims(("distilled", "plain", 0.0, False), ease=0.3))
    assert plain is not None and plain.endswith("Better than plain (0.1000) on this data: ease 0.3000.")


def test_slices_cover_every_test_user_once(written: tuple[Path, dict[str, Any], ReportInputs]) -> None:
    folder, metrics, inputs = written
    tables = markdown_tables((folder / "report.md").read_text())
    for kind, title in (("history_length", "By history length"), ("category", "By category of the target"),
                        ("item_frequency", "By training interactions of the target")):
        found = metrics["slices"][kind]
        assert sum(s["users"] for s in found) == metrics["test_users"]
        weighted = sum(s["users"] * s["ndcg@10"]["plain"] for s in found) / metrics["test_users"]
        assert weighted == pytest.approx(metrics["arms"]["plain"]["seen_removed"]["ndcg@10"]["mean"])
        header, *rows = tables[f"{title}: ndcg@10, seen items removed"]
        for row, s in zip(rows, found, strict=True):
            assert (row[0], int(row[1])) == (s["label"], s["users"])
            assert [float(c) for c in row[2:]] == [round(s["ndcg@10"][who], 4) for who in header[2:]]
    lengths = inputs.evaluated["plain", 0].read_table("ranks.parquet")["history_length"].to_numpy()
    by_label = {s["label"]: s["users"] for s in metrics["slices"]["history_length"]}
    assert by_label["3-5"] == ((lengths >= 3) & (lengths <= 5)).sum()


def test_effects_in_slices_add_up_to_the_whole(written: tuple[Path, dict[str, Any], ReportInputs]) -> None:
    _, metrics, _ = written
    whole = metrics["claims"]["rows"][0]["mean"]
    for kind in ("history_length", "item_frequency", "category"):
        rows = metrics["effects"][kind]
        assert {(row["first"], row["second"], row["metric"]) for row in rows} == {("distilled", "plain", "ndcg@10")}
        assert sum(row["users"] * row["mean"] for row in rows) / metrics["test_users"] == pytest.approx(whole)


def test_cold_targets_are_told_apart(storage: Storage) -> None:
    config = run_config(seeds=[0, 1], arms=["plain", "distilled"])
    inputs = inputs_of(storage, config, cold={3: "removed", 4: "cut", 5: "cut"})
    metrics = write_report(config, storage, inputs)
    targets = cases(inputs.prepared.local("test.arrow")).targets
    counts = {"removed from training": (targets == 3).sum(), "cut in training": np.isin(targets, [4, 5]).sum()}
    counts["all others"] = len(targets) - sum(counts.values())
    assert {row["label"]: row["users"] for row in metrics["slices"]["cold_start"]} == counts
    assert {row["label"]: row["users"] for row in metrics["effects"]["cold_start"]} == counts
    cut = next(row for row in metrics["effects"]["cold_start"]
               if (row["label"], row["metric"]) == ("cut in training", "ndcg@10"))
    means = {}
    for arm in config.arms:
        gains = []
        for seed in (0, 1):
            table = inputs.evaluated[arm, seed].read_table("ranks.parquet")
            rank = table[RANK].to_numpy()[np.isin(table[TARGET].to_numpy(), [4, 5])]
            gains.append(np.where(rank <= 10, 1 / np.log2(1 + rank), 0.0).mean())
        means[arm] = np.mean(gains)
    assert cut["mean"] == pytest.approx(means["distilled"] - means["plain"])
    assert cut["low"] <= cut["mean"] <= cut["high"]
    tables = markdown_tables(Path(storage.path("runs/made-by-hand/report.md")).read_text())
    assert len(tables["Effects, by what training kept of the target"]) == 1 + 3 * 2
    assert tables["By what training kept of the target: ndcg@10, seen items removed"][1][0] == "removed from training"


def test_loss_balance_is_that_of_eq_5(written: tuple[Path, dict[str, Any], ReportInputs]) -> None:
    _, metrics, _ = written
    run = metrics["training"]["distilled"]["1"]
    # α falls from 0.5 to 0 over 30 steps: the mean over the first ten is 0.5 · (1 - 4.5 / 30).
    assert run["alpha"][0] == pytest.approx(0.5 * (1 - 4.5 / 30), rel=1e-5)
    assert run["weighted_ranking"][0] == pytest.approx((1 - run["alpha"][0]) * 4.0, rel=1e-5)
    assert run["weighted_distillation"][1] == pytest.approx(run["alpha"][1] * run["beta"][1] * 2.0 / 2, rel=1e-5)
    assert run["weighted_distillation"][DISTIL:] == [None] * (EPOCHS - DISTIL)
    plain = metrics["training"]["plain"]["1"]["weighted_ranking"]
    assert plain == pytest.approx([4.0 / epoch for epoch in range(1, EPOCHS + 1)], rel=1e-5)
    first, last = metrics["balance"]["distilled"]
    assert (first["epoch"], last["epoch"], first["retrieval"]) == (1, DISTIL, pytest.approx(0.1))
    assert first["distillation_share"] == pytest.approx(
        first["weighted_distillation"] / (first["weighted_distillation"] + first["weighted_ranking"]))


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


def test_html_is_self_contained_and_shows_the_same_cells(written: tuple[Path, dict[str, Any], ReportInputs]) -> None:
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


def test_text_from_data_stays_text(written: tuple[Path, dict[str, Any], ReportInputs]) -> None:
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


def test_sample_users_show_history_profile_and_both_models(written: tuple[Path, dict[str, Any], ReportInputs]) -> None:
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


def test_map_has_a_point_and_a_category_per_profiled_user(written: tuple[Path, dict[str, Any], ReportInputs]) -> None:
    _, metrics, _ = written
    assert len(metrics["map"]["x"]) == len(metrics["map"]["category"]) == 149
    assert set(metrics["map"]["categories"]) == {"category 0", "category 1", "category 2"}


def test_protocol_names_every_artifact(written: tuple[Path, dict[str, Any], ReportInputs]) -> None:
    folder, metrics, inputs = written
    report = (folder / "report.md").read_text()
    assert metrics["artifacts"]["train/shuffled/seed-2"] == inputs.trained["shuffled", 2].fingerprint
    assert all(fingerprint in report for fingerprint in metrics["artifacts"].values())
    assert all(f"Not computed: {name}" in report for name in ("item\\_knn", "ease"))


def test_synthetic_data_carry_their_line_on_top(written: tuple[Path, dict[str, Any], ReportInputs]) -> None:
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


def test_report_is_rendered_from_the_metrics_file_alone(written: tuple[Path, dict[str, Any], ReportInputs]) -> None:
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


def test_the_page_of_profiles_shows_lengths_rejects_and_samples(written: tuple[Path, dict[str, Any], ReportInputs]
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
