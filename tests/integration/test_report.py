"""The figures of a report: means of the ranks, paired differences, slices, the balance of the losses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from cluster.storage import Storage
from pipeline.report.stage import write_report
from pipeline.store.arrays import cases
from pipeline.store.columns import COUNT, RANK, RANK_UNFILTERED, TARGET
from tests.made_report import (
    DISTIL,
    EPOCHS,
    Written,
    inputs_of,
    markdown_tables,
    run_config,
)


def test_metrics_file_holds_what_was_returned(written: Written) -> None:
    folder, metrics, _ = written
    assert json.loads((folder / "metrics.json").read_text()) == json.loads(json.dumps(metrics))


def test_means_are_those_of_the_ranks(written: Written) -> None:
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


def test_headline_of_the_markdown_equals_the_metrics(written: Written) -> None:
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


def test_differences_of_the_markdown_equal_the_metrics(written: Written) -> None:
    folder, metrics, _ = written
    _, *rows = markdown_tables((folder / "report.md").read_text())["Paired differences, seen items removed"]
    expected = [d for d in metrics["differences"] if d["protocol"] == "seen_removed"]
    assert len(rows) == len(expected) == 3 * 9  # distilled - plain, distilled - shuffled, shuffled - plain
    for row, d in zip(rows, expected, strict=True):
        low, high = (float(v) for v in row[3].strip("[]").split(","))
        assert (row[0], row[1], row[4]) == (f"{d['first']} − {d['second']}", d["metric"], d["verdict"])
        assert (float(row[2]), low, high) == (round(d["mean"], 4), round(d["low"], 4), round(d["high"], 4))
        assert float(row[5].rstrip(" %")) == round(100 * d["share_above_zero"], 1)


def test_differences_are_paired_by_user_and_seed(written: Written) -> None:
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


def test_slices_cover_every_test_user_once(written: Written) -> None:
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


def test_effects_in_slices_add_up_to_the_whole(written: Written) -> None:
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
    known = inputs.prepared.read_table("items.parquet")[COUNT].to_numpy()
    most = int(known[[3, 4]].max())  # of the items that were drawn to be cut; item 5 had no more before
    of_target, others = known[targets - 1], ~np.isin(targets, [3, 4])
    counts = {"removed from training": (targets == 3).sum(),
              f"cut to {most} in training or fewer": (targets == 4).sum(),
              f"as few without being cut (1 to {most})": (others & (of_target > 0) & (of_target <= most)).sum(),
              f"more than {most} in training": (others & (of_target > most)).sum(),
              "never in training": (others & (of_target == 0)).sum()}
    counts = {label: count for label, count in counts.items() if count}
    assert len(counts) >= 4 and sum(counts.values()) == len(targets)
    assert {row["label"]: row["users"] for row in metrics["slices"]["cold_start"]} == counts
    assert {row["label"]: row["users"] for row in metrics["effects"]["cold_start"]} == counts
    cut = next(row for row in metrics["effects"]["cold_start"]
               if (row["label"], row["metric"]) == (f"cut to {most} in training or fewer", "ndcg@10"))
    means = {}
    for arm in config.arms:
        gains = []
        for seed in (0, 1):
            table = inputs.evaluated[arm, seed].read_table("ranks.parquet")
            rank = table[RANK].to_numpy()[table[TARGET].to_numpy() == 4]
            gains.append(np.where(rank <= 10, 1 / np.log2(1 + rank), 0.0).mean())
        means[arm] = np.mean(gains)
    assert cut["mean"] == pytest.approx(means["distilled"] - means["plain"])
    assert cut["low"] <= cut["mean"] <= cut["high"]
    tables = markdown_tables(Path(storage.path("runs/made-by-hand/report.md")).read_text())
    assert len(tables["Effects, by what training kept of the target"]) == 1 + len(counts) * 2
    assert tables["By what training kept of the target: ndcg@10, seen items removed"][1][0] == "removed from training"


def test_loss_balance_is_that_of_eq_5(written: Written) -> None:
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
