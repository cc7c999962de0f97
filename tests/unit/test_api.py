"""A trained recommender from Python: lists, filters, unknown items, scores, vectors; without Ray."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
import torch

from cluster.config import StorageConfig
from cluster.storage import Storage
from configs.errors import ArtifactError, DataError, MentorecError, ResourceError
from models.config import SASRecConfig
from pipeline.api import Filter, load, recommender
from pipeline.api.items import NEVER, Items
from pipeline.api.loading import prepared_of
from pipeline.api.recommender import Recommender
from pipeline.evaluate import sharding
from pipeline.evaluate.config import EvaluateConfig, EvaluateExecution
from pipeline.evaluate.keys import key as evaluate_key
from pipeline.evaluate.stage import evaluate_model
from pipeline.store import arrays, artifacts
from pipeline.store.artifacts import Artifact
from pipeline.train.config import TrainConfig
from pipeline.train.execution_config import TrainExecution
from tests.builders import make_prepared, train_arm
from tests.students import ALL, NUM_ITEMS, build
from tests.tools import ROOT
from tests.unit.test_foreign_student import DistilledNextItNet

MODEL = SASRecConfig(hidden_dim=8, max_length=6, num_blocks=1)
CATEGORY_OF = {f"item-{i + 1}": f"category {i % 3}" for i in range(40)}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    storage = Storage.from_config(StorageConfig(uri=str(tmp_path_factory.mktemp("api") / "storage")))
    config = TrainConfig(epochs=3, distill_epochs=1, batch_size=16,
                         execution=TrainExecution(num_workers=0, threads_per_worker=1))
    return train_arm(storage, make_prepared(storage), None, config, MODEL, "plain")


@pytest.fixture(scope="module")
def served(trained: Artifact) -> Recommender:
    return load(trained)


def catalogue(count: int = NUM_ITEMS) -> Items:
    """Ids that are numbers, the last item the most popular."""
    return Items([str(i) for i in range(1, count + 1)], [None] * count, ["c"] * count, np.arange(count),
                 *[np.full(count, NEVER)] * 2)


def test_lists_are_those_of_evaluate_for_every_test_user(trained: Artifact, served: Recommender,
                                                         monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen items removed and kept; in several shards as in one. A seen target alone stays in evaluation's lists."""
    monkeypatch.setattr(sharding, "SHARD_USERS", 16)
    monkeypatch.setattr(recommender, "SHARD_USERS", 16)
    storage, config = trained.storage, EvaluateConfig(execution=EvaluateExecution(workers=0))
    prepared = artifacts.open_artifact(storage, "prepare", trained.manifest.key["inputs"]["prepare"])
    assert prepared is not None
    out = artifacts.begin(storage, evaluate_key(config, prepared.fingerprint, trained.fingerprint))
    top = evaluate_model(config, prepared, trained, out).read_table("top.parquet")
    cases = arrays.cases(prepared.local("test.arrow"))
    raw = [[f"item-{item}" for item in history] for history in cases.histories]
    own = np.array([target not in history for target, history in zip(cases.targets, cases.histories, strict=True)])
    assert own.sum() > 30
    for seen, column in ((True, "top"), (False, "top_unfiltered")):
        expected = np.array(top[column].to_pylist())
        found = served.recommend(raw, k=20, filter=Filter(seen=seen))
        rows = own if seen else np.ones_like(own)
        assert found.items_NK[rows].tolist() == expected[rows].tolist()
        assert not found.popular_N.any() and not found.unknown_N.any()


def test_scores_order_the_list_and_are_those_of_score(served: Recommender) -> None:
    found = served.recommend([["item-3", "item-5"]], k=6)
    assert found.scores[0] == sorted(found.scores[0], reverse=True)
    assert served.score(["item-3", "item-5"], found.ids[0]).tolist() == found.scores[0]
    vector_D = served.user_vectors([["item-3", "item-5"]])[0]
    torch.testing.assert_close(torch.tensor(found.scores[0]), torch.tensor(
        [float(vector_D @ served._scorer.items_VD[i - 1].numpy()) for i in found.items_NK[0]]))


FILTERS: dict[str, tuple[Filter, Any]] = {
    "seen": (Filter(), lambda i: i not in ("item-3", "item-5")),
    "all": (Filter(seen=False), lambda i: True),
    "deny": (Filter(deny=["item-7", "item-8", "nothing"]), lambda i: i not in ("item-3", "item-5", "item-7", "item-8")),
    "allow": (Filter(allow=["item-5", "item-9", "item-11"]), lambda i: i in ("item-9", "item-11")),
    "category": (Filter(categories=["category 1"]),
                 lambda i: CATEGORY_OF[i] == "category 1" and i not in ("item-3", "item-5")),
    "several": (Filter(seen=False, allow=[f"item-{i}" for i in range(1, 20)], deny=("item-2",),
                       categories={"category 1", "category 2"}),
                lambda i: int(i[5:]) < 20 and i != "item-2" and CATEGORY_OF[i] != "category 0"),
}


@pytest.mark.parametrize("name", FILTERS)
def test_a_filter_leaves_the_order_and_takes_out_the_rest(served: Recommender, name: str) -> None:
    chosen, kept = FILTERS[name]
    everything = served.recommend([["item-3", "item-5"]], k=40, filter=Filter(seen=False)).ids[0]
    assert len(everything) == 40
    for _ in range(2):  # made, and found again
        assert served.recommend([["item-3", "item-5"]], k=40, filter=chosen).ids[0] == list(filter(kept, everything))


def test_an_item_that_nobody_has_had_is_new_and_not_active() -> None:
    times_V = np.array([0, 86_400 * 40, NEVER])
    items = Items(["a", "b", "c"], [None] * 3, [None] * 3, np.array([1, 1, 0]), times_V, times_V)
    assert items.among(Filter(new_days=30))[0].tolist() == [2, 3]
    assert items.among(Filter(active_days=30))[0].tolist() == [2]


@pytest.mark.parametrize(("name", "column"), [("new_days", "first"), ("active_days", "last")])
def test_days_are_counted_back_from_the_newest_interaction(trained: Artifact, served: Recommender, name: str,
                                                           column: str) -> None:
    rows = pl.DataFrame(prepared_of(trained).read_table("interactions.parquet", ["item_idx", "timestamp"]))
    times = rows.group_by("item_idx").agg(first=pl.col("timestamp").min(), last=pl.col("timestamp").max())
    newest = int(rows["timestamp"].to_numpy().max())
    sizes = set()
    for edge in times[column].unique().to_list():
        kept = {f"item-{i}" for i in times.filter(pl.col(column) >= edge)["item_idx"]}
        days: Any = {name: (newest - edge + 0.5) / 86_400}
        assert set(served.recommend([["item-3"]], 40, Filter(seen=False, **days)).ids[0]) == kept
        sizes.add(len(kept))
    assert len(sizes) > 1, "the days make a difference here"
    found = served.recommend([[]], 40, Filter(allow=["item-1"], deny=["item-1"], new_days=1))
    assert found.ids == [[]], "a filter that leaves nothing leaves an empty list"


def test_unknown_items_are_counted_and_left_out(served: Recommender) -> None:
    found = served.recommend([["item-3", "nothing", "item-5", 77], ["item-3", "item-5"]], k=5)
    assert found.ids[0] == found.ids[1]
    assert found.unknown_N.tolist() == [2, 0]
    assert found.remarks() == ["2 items of 1 sequences are unknown to the model and were left out"]


def test_who_has_no_known_item_gets_the_most_popular(served: Recommender, trained: Artifact) -> None:
    found = served.recommend([["x", "y"], [], ["item-1"]], k=4, filter=Filter(deny=["item-1"]))
    counts = served.items.counts_V.copy()
    counts[0] = -1
    best = np.sort(counts)[::-1][:4]
    for row in (0, 1):
        assert found.scores[row] == best.tolist()
        assert served.items.counts_V[found.items_NK[row] - 1].tolist() == best.tolist()
    assert found.popular_N.tolist() == [True, True, False]
    assert "2 of 3 sequences hold no item that the model knows; the most popular items answer them" in found.remarks()
    frame = found.to_polars()
    assert frame.columns == ["sequence", "rank", "item_id", "score", "title", "by"]
    assert frame.filter(sequence=0)["by"].to_list() == ["popularity"] * 4
    assert frame.filter(sequence=2)["by"].to_list() == ["model"] * 4
    assert frame["title"][0] == f"Title {frame['item_id'][0][5:]}"


@pytest.mark.parametrize("sequences", [
    [["1", "2"], ["3"]], [[1, 2.0], (3,)], [np.array([1, 2]), np.array(["3"])], pl.Series([[1, 2], [3]]),
    pl.DataFrame({"items": [["1", "2"], ["3"]]})["items"], pa.array([[1, 2], [3]]),
    pa.chunked_array([[["1", "2"]], [["3"]]]), iter([["1", "2"], ["3"]])], ids=lambda value: type(value).__name__)
def test_sequences_of_every_form_are_the_same(sequences: Any) -> None:
    indexed = catalogue().indexed(sequences)
    assert [row.tolist() for row in indexed.sequences] == [[1, 2], [3]]
    assert indexed.unknown_N.tolist() == [0, 0]


BAD: dict[str, tuple[Any, str]] = {
    "one sequence": (lambda r: r.recommend(["item-1", "item-2"]), "there is one per user: write [['a', 'b']]"),
    "a word": (lambda r: r.recommend("item-1"), "one sequence of item ids per user"),
    "a frame": (lambda r: r.recommend(pl.DataFrame({"items": [["a"]]})), "one of its columns, of lists"),
    "no text": (lambda r: r.recommend([["item-1"], [None]]), "sequence 1: item id: got None"),
    "half an id": (lambda r: r.recommend([[1.5]]), "sequence 0: item id: got 1.5; legal: text, or a whole number"),
    "not a number": (lambda r: r.recommend([[float("nan")]]), "item id: got nan"),
    "k": (lambda r: r.recommend([["item-1"]], k=0), "k: got 0; legal: a whole number, 1…10,000"),
    "k of truth": (lambda r: r.recommend([["item-1"]], k=True), "k: got True"),
    "category": (lambda r: r.recommend([["item-1"]], filter=Filter(categories=["Category 1"])),
                 "filter.categories: got 'Category 1'; legal: one of the catalogue's 3, such as category 1"),
    "allow": (lambda r: r.recommend([["item-1"]], filter=Filter(allow=["a", "b"])), "filter.allow: got '2 ids'"),
    "a word as a list": (lambda r: Filter(deny="item-1"), "filter.deny: got 'item-1'; legal: a list"),
    "days that are none": (lambda r: Filter(new_days=0), "filter.new_days: got 0; legal: a number of days above 0"),
    "days in words": (lambda r: Filter(active_days="30"), "filter.active_days: got '30'; legal: a number of days"),
    "days without times": (
        lambda r: Recommender(DistilledNextItNet(NUM_ITEMS, 8).eval(), catalogue()).recommend(
            [["1"]], filter=Filter(new_days=30)),
        "filter.new_days: got 30, and no interaction of the model's data has a time; leave it out"),
    "similar to nothing": (lambda r: r.similar_items("item-400"), "item: got 'item-400'; legal: one of the 40 items"),
    "score of nothing": (lambda r: r.score(["x"], ["item-1"]), "the model knows no item of the sequence"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line(served: Recommender, name: str) -> None:
    call, message = BAD[name]
    with pytest.raises(DataError) as caught:
        call(served)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_scores_of_unknown_items_are_nan_and_vectors_of_unknown_users(served: Recommender) -> None:
    scores = served.score(["item-1", "nothing"], ["item-2", "nothing"])
    assert np.isfinite(scores[0]) and np.isnan(scores[1])
    vectors_ND = served.user_vectors([["item-1"], ["nothing"]])
    assert vectors_ND.shape == (2, 8)
    assert np.isfinite(vectors_ND[0]).all() and np.isnan(vectors_ND[1]).all()


def test_similar_items_are_the_nearest_by_cosine(served: Recommender) -> None:
    vectors_VD = served._scorer.items_VD.numpy()
    units_VD = vectors_VD / np.linalg.norm(vectors_VD, axis=1, keepdims=True)
    cosine_V = units_VD @ units_VD[6]
    cosine_V[6] = -2
    found = served.similar_items("item-7", k=3)
    assert found["item_id"].to_list() == [f"item-{i + 1}" for i in np.argsort(-cosine_V)[:3]]
    assert len(served.similar_items("item-7", k=500)) == 39


@pytest.mark.parametrize("name", ALL)
def test_every_student_answers(name: str) -> None:
    found = Recommender(build(ALL[name]), catalogue()).recommend([[1, 2, 3], [4] * 50], k=NUM_ITEMS)
    assert sorted(map(int, found.ids[0])) == list(range(4, NUM_ITEMS + 1))
    assert sorted(map(int, found.ids[1])) == [i for i in range(1, NUM_ITEMS + 1) if i != 4]


def test_a_foreign_module_answers() -> None:
    encoder = DistilledNextItNet(NUM_ITEMS, 8).eval()
    found = Recommender(encoder, catalogue()).recommend([[3, 1]], k=1, filter=Filter(seen=False))
    with torch.no_grad():
        best = int((encoder.user_states_BD(torch.tensor([[3, 1]])) @ encoder.item_weights_VD().T).argmax()) + 1
    assert found.ids == [[str(best)]]


def test_an_encoder_of_another_catalogue_and_a_missing_gpu_are_refused() -> None:
    with pytest.raises(DataError, match=f"items: got 5; legal: {NUM_ITEMS}, as many as the encoder scores"):
        Recommender(build(ALL["sasrec"]), catalogue(5))
    if not torch.cuda.is_available():
        with pytest.raises(ResourceError, match="device: got 'cuda', and torch sees no GPU here; legal: cpu"):
            Recommender(build(ALL["sasrec"]), catalogue(), device="cuda")


def test_a_path_of_the_artifact_opens_it_too(trained: Artifact, served: Recommender) -> None:
    folder = Path(trained.storage.path(f"artifacts/train/{trained.fingerprint}"))
    for place in (folder, f"{folder}/", trained.local("model")):
        assert load(place).recommend([["item-1"]]).ids == served.recommend([["item-1"]]).ids


def test_a_place_without_a_model_is_one_line(tmp_path: Path, trained: Artifact) -> None:
    cases: tuple[tuple[Any, str], ...] = (
        (tmp_path / "nowhere", "a folder that `mentorec export` has written, a run's folder such as results/runs/demo"),
        (tmp_path / "runs" / "demo", "run: got 'demo'; legal: one of those in"),
        (trained.storage.path(f"artifacts/train/{'0' * 16}"), "unfinished"))
    for source, message in cases:
        with pytest.raises(MentorecError) as caught:
            load(source)
        assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_model_without_its_data_says_what_is_gone(storage: Storage, trained: Artifact) -> None:
    import shutil

    shutil.copytree(trained.storage.path("artifacts/train"), storage.path("artifacts/train"))
    with pytest.raises(ArtifactError, match=r"its data, artifacts/prepare/\w+, are gone; run `mentorec prepare`"):
        load(storage.path(f"artifacts/train/{trained.fingerprint}"))


def test_it_works_without_ray(trained: Artifact) -> None:
    code = f"""
import sys
class NoRay:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "ray":
            raise ImportError("ray is blocked")
sys.meta_path.insert(0, NoRay())
from pipeline.api import load
print(load({trained.storage.path(f"artifacts/train/{trained.fingerprint}")!r}).recommend([["item-1"]], k=2).ids)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("[['item-")
