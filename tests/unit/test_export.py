"""A run's recommender as a folder of its own: same answers, its card, its ONNX."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from cluster.config import StorageConfig
from cluster.storage import Storage
from configs.errors import ArtifactError, ConfigError, DataError, MentorecError
from models.config import SASRecConfig
from models.sequences import Sequences
from pipeline import trained
from pipeline.api import Filter, load, loading
from pipeline.api.nearest import NearestItems
from pipeline.config import RunConfig
from pipeline.evaluate.config import EvaluateConfig, EvaluateExecution
from pipeline.evaluate.keys import key as evaluate_key
from pipeline.evaluate.stage import evaluate_model
from pipeline.export.folder import export
from pipeline.store import artifacts
from pipeline.store.artifacts import Artifact
from pipeline.train.config import TrainConfig
from pipeline.train.execution_config import TrainExecution
from tests.builders import make_prepared, make_targets, train_arm
from tests.students import ALL, NUM_ITEMS, build

MODEL = SASRecConfig(hidden_dim=8, max_length=6, num_blocks=1)
TRAIN = TrainConfig(epochs=2, distill_epochs=1, batch_size=16,
                    execution=TrainExecution(num_workers=0, threads_per_worker=1))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> StorageConfig:
    """A run of two arms, the distilled one evaluated."""
    config = StorageConfig(uri=str(tmp_path_factory.mktemp("export") / "storage"))
    storage = Storage.from_config(config)
    prepared = make_prepared(storage)
    arms = {"plain": None, "distilled": make_targets(storage, prepared)}
    trained = {arm: train_arm(storage, prepared, targets, TRAIN, MODEL, arm)  # type: ignore[arg-type]
               for arm, targets in arms.items()}
    settings = EvaluateConfig(execution=EvaluateExecution(workers=0))
    for arm in arms:
        out = artifacts.begin(storage, evaluate_key(settings, prepared.fingerprint, trained[arm].fingerprint))
        evaluate_model(settings, prepared, trained[arm], out)
    small = RunConfig(name="small", arms=tuple(arms), model=MODEL, train=TRAIN)
    storage.write_json("runs/small/config.json", small.model_dump(mode="json"))
    storage.write_json("runs/small/references.json", {
        "prepare": prepared.fingerprint, **{f"train/{arm}/seed-0": trained[arm].fingerprint for arm in arms}})
    return config


def test_the_folder_answers_as_the_run_does_and_needs_nothing_else(run: StorageConfig, tmp_path: Path) -> None:
    files = export("small", str(tmp_path / "out"), run, arm="distilled", licence="CC-BY-4.0")
    assert {Path(file).name for file in files} == {"model.safetensors", "model.json", "items.parquet", "README.md"}
    moved = (tmp_path / "out").rename(tmp_path / "elsewhere")
    sequences = [["item-3", "item-5"], ["nothing"], ["item-1"] * 20]
    own, other = load(f"{run.uri}/runs/small", arm="distilled"), load(moved)
    assert other.recommend(sequences, k=9).to_polars().equals(own.recommend(sequences, k=9).to_polars())
    card = json.loads((moved / "model.json").read_text())
    assert card["licence"] == "CC-BY-4.0"
    assert card["arm"] == "distilled"
    assert card["data"]["fingerprint"] and card["num_items"] == 40
    assert card["protocol"]["main"] == "seen_removed" and 0 <= card["metrics"]["ndcg@10"] <= 1
    page = (moved / "README.md").read_text()
    head = yaml.safe_load(page.split("---")[1])
    assert head == {"library_name": "mentorec", "tags": ["recommendation", "sasrec"], "license": "CC-BY-4.0"}
    assert f"| ndcg@10 | {card['metrics']['ndcg@10']:.4f} |" in page


def test_an_index_gives_the_lists_of_all_items(run: StorageConfig, tmp_path: Path) -> None:
    """40 items: they are one inverted list."""
    pytest.importorskip("faiss", reason="the extra `ann` is not installed")
    files = export("small", str(tmp_path / "out"), run, arm="plain", ann=True)
    assert "items.faiss" in {Path(file).name for file in files}
    recommender = load(tmp_path / "out")
    assert recommender.card["ann"]["recall"] == {"lists_of": 10, "users": 60, "found": 1.0}
    sequences = [["item-3", "item-5"], ["nothing"], [f"item-{n}" for n in range(1, 12)], ["item-1"] * 20]
    for k in (1, 9, 60):
        for filter in (Filter(), Filter(seen=False), Filter(deny=["item-7"])):
            exact, near = (recommender.recommend(sequences, k, filter, approximate=way) for way in (False, True))
            np.testing.assert_array_equal(near.items_NK, exact.items_NK)
            np.testing.assert_array_equal(near.scores_NK, exact.scores_NK)
            assert near.to_polars()["item_id"].to_list() == exact.to_polars()["item_id"].to_list()
    assert recommender.recommend([], 3, approximate=True).items_NK.shape == (0, 3)
    export("small", str(tmp_path / "out"), run, arm="distilled", overwrite=True)
    with pytest.raises(DataError, match="no index of the model's items was found; legal: a folder that"):
        load(tmp_path / "out").recommend(sequences, approximate=True)


def test_an_index_looks_as_hard_as_users_lists_need() -> None:
    """20,000 items in 200 clouds, those of some clouds much longer than others, as popular items are."""
    pytest.importorskip("faiss", reason="the extra `ann` is not installed")
    rng = np.random.default_rng(0)
    clouds = rng.normal(size=(200, 16)) * rng.uniform(0.3, 3, size=(200, 1))
    items_VD = (clouds[rng.integers(0, 200, 20_000)] + 0.3 * rng.normal(size=(20_000, 16))).astype(np.float32)
    states_ND = rng.normal(size=(600, 16)).astype(np.float32)
    nearest, told = NearestItems.build(items_VD, states_ND[:300])
    exact_NK = np.argsort(-states_ND[300:] @ items_VD.T, axis=1)[:, :10] + 1
    found_NK = nearest.search(states_ND[300:], 10)
    recall = np.mean([np.isin(exact, found).mean() for exact, found in zip(exact_NK, found_NK, strict=True)])
    assert told >= 0.995 and recall >= 0.98
    assert nearest._index.nprobe < nearest._index.nlist, "it looks at everything"
    assert (nearest.search(states_ND[:3], 5000) > 0).all(), "a long list is filled"


@pytest.mark.parametrize(("damage", "message"), [
    (lambda p, other: p.write_bytes(p.read_bytes()[:100]), "items.faiss: cannot be read; export the run again"),
    (lambda p, other: other.save(p.parent), "items.faiss: 7 vectors of width 8, the model has 40 of width 8")])
def test_a_damaged_or_foreign_index_is_one_line(run: StorageConfig, tmp_path: Path, message: str,
                                                damage: Callable[[Path, NearestItems], object]) -> None:
    pytest.importorskip("faiss", reason="the extra `ann` is not installed")
    export("small", str(tmp_path / "out"), run, ann=True)
    damage(tmp_path / "out" / "items.faiss", NearestItems.build(np.eye(7, 8), np.eye(3, 8))[0])
    with pytest.raises(ArtifactError, match=message):
        load(tmp_path / "out")


def test_the_arm_is_the_best_on_validation_unless_it_is_named(run: StorageConfig) -> None:
    storage = Storage.from_config(run)
    best = {label: artifacts.open_artifact(storage, "train", fp).manifest.info["best_validation"]  # type: ignore[union-attr]
            for label, fp in storage.read_json("runs/small/references.json").items() if label.startswith("train")}
    expected = max(best, key=best.__getitem__).split("/")[1]
    chosen = load(f"{run.uri}/runs/small")
    assert chosen.card["arm"] == expected


BAD: dict[str, tuple[Callable[[StorageConfig, Path], object], str]] = {
    "no such run": (lambda s, p: export("smal", str(p / "x"), s), "run: got 'smal'; legal: one of those in"),
    "no such arm": (lambda s, p: export("small", str(p / "x"), s, arm="best"), "arm: got 'best'; legal: plain"),
    "no such seed": (lambda s, p: export("small", str(p / "x"), s, seed=7), "seed: got 7; legal: 0"),
    "another run's arm": (lambda s, p: export("small", str(p / "x"), s, arm="random"), "arm: got 'random'"),
    "a folder of something else": (lambda s, p: export("small", str(p), s, overwrite=True), "it holds own.txt"),
    "a scheme that nobody knows": (lambda s, p: export("small", "ftp://x/y", s), "storage.uri: got 'ftp://x/y'"),
    "no run but a path": (lambda s, p: export(str(p), str(p / "x"), s), "recommender: got"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line(run: StorageConfig, tmp_path: Path, name: str) -> None:
    (tmp_path / "own.txt").write_text("mine")
    call, message = BAD[name]
    with pytest.raises(MentorecError) as caught:
        call(run, tmp_path)
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["own.txt"]


def test_an_earlier_export_is_replaced_only_on_request(run: StorageConfig, tmp_path: Path) -> None:
    export("small", str(tmp_path / "out"), run, arm="plain")
    with pytest.raises(ConfigError, match="--overwrite replaces an earlier export"):
        export("small", str(tmp_path / "out"), run, arm="distilled")
    assert load(tmp_path / "out").card["arm"] == "plain"
    export("small", str(tmp_path / "out"), run, arm="distilled", overwrite=True)
    assert load(tmp_path / "out").card["arm"] == "distilled"


@pytest.mark.parametrize(("damage", "message"), [
    (lambda p: (p / "items.parquet").unlink(), "items.parquet: cannot be read"),
    (lambda p: (p / "model.json").write_text("{}"), "model.json lacks"),
    (lambda p: (p / "model.safetensors").write_bytes(b"x"), "model.safetensors: cannot be read"),
    (lambda p: (p / "model.json").unlink(), "legal: a folder that `mentorec export` has written")])
def test_a_damaged_folder_is_one_line(run: StorageConfig, tmp_path: Path, damage: Callable[[Path], object],
                                      message: str) -> None:
    export("small", str(tmp_path / "out"), run)
    damage(tmp_path / "out")
    with pytest.raises(ArtifactError) as caught:
        load(tmp_path / "out")
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["sasrec-padding-keys", "esasrec", "gru4rec-wide", "bert4rec"])
def test_onnx_gives_torchs_states_and_scores_for_any_batch_and_length(tmp_path: Path, name: str) -> None:
    runtime = pytest.importorskip("onnxruntime", reason="the extra `onnx` is not installed")
    from pipeline.export.onnx import longest_input, write_onnx

    student = build(ALL[name].model_copy(update={"num_blocks": 1}))
    write_onnx(student, tmp_path)
    encoder, scores = (runtime.InferenceSession(str(tmp_path / file)) for file in ("encoder.onnx", "scores.onnx"))
    rng = np.random.default_rng(0)
    for batch, length in ((1, 1), (2, longest_input(student)), (33, 3)):
        rows = [rng.integers(1, NUM_ITEMS + 1, rng.integers(1, length + 1)).tolist() for _ in range(batch)]
        rows[0] = rng.integers(1, NUM_ITEMS + 1, length).tolist()
        items_BL = Sequences.from_lists(rows).padded(np.arange(batch), length)
        with torch.no_grad():
            state_BD = student.user_states_BD(torch.from_numpy(items_BL))
            scores_BV = state_BD @ student.item_weights_VD().T
        found = encoder.run(None, {"items": items_BL})[0], *scores.run(None, {"items": items_BL})
        for one, other in zip(found, (state_BD, state_BD, scores_BV), strict=True):
            np.testing.assert_allclose(one, other.numpy(), atol=1e-5)


def test_an_export_with_onnx_has_its_graphs_in_files_card_and_page(run: StorageConfig, tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime", reason="the extra `onnx` is not installed")
    folder = tmp_path / "out"
    files = export("small", str(folder), run, arm="plain", onnx=True)
    graphs = {"encoder.onnx", "scores.onnx"}
    assert {Path(file).name for file in files} == {path.name for path in folder.iterdir()} >= graphs
    recommender = load(folder)
    assert recommender.card["onnx"] == {"longest_input": 6, "input": "items", "outputs": ["state", "scores"]}
    assert all(f"| {name} | ONNX: " in (folder / "README.md").read_text() for name in graphs)
    state, scores = runtime.InferenceSession(str(folder / "scores.onnx")).run(None, {"items": np.array([[3, 5, 0]])})
    assert state.shape == (1, MODEL.hidden_dim)
    found = recommender.recommend([["item-3", "item-5"]], 5, Filter(seen=False))
    np.testing.assert_array_equal(1 + np.argsort(-scores, axis=1)[:, :5], found.items_NK)
    export("small", str(folder), run, arm="plain", overwrite=True)
    assert not graphs & {path.name for path in folder.iterdir()} and "onnx" not in load(folder).card


def test_an_export_that_was_stopped_over_an_older_one_is_no_model(run: StorageConfig, tmp_path: Path) -> None:
    """Its weights would fit, and answer under the older one's name."""
    for arm in ("plain", "distilled"):
        export("small", str(tmp_path / arm), run, arm=arm)
    (tmp_path / "plain" / "model.safetensors").write_bytes((tmp_path / "distilled" / "model.safetensors").read_bytes())
    with pytest.raises(ArtifactError, match=r"model.safetensors is not the one that model.json .* export again"):
        load(tmp_path / "plain")


def test_what_earlier_settings_have_trained_is_not_the_run_s(run: StorageConfig, tmp_path: Path) -> None:
    storage = Storage.from_config(run)
    references = storage.read_json("runs/small/references.json")
    planned = {label: [fingerprint] for label, fingerprint in references.items()}
    storage.write_json("runs/small/steps.json", {"needed": planned | {"train/distilled/seed-0": ["0" * 16]}})
    try:
        assert load(f"{run.uri}/runs/small").card["arm"] == "plain"
        with pytest.raises(ArtifactError, match="not trained under these settings"):
            export("small", str(tmp_path / "out"), run, arm="distilled")
    finally:
        storage.delete("runs/small/steps.json")


def test_arms_validated_otherwise_are_not_compared(run: StorageConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = trained.choose

    def few(config: RunConfig, found: Mapping[str, Artifact], *chosen: object) -> trained.Trained:
        found["train/plain/seed-0"].manifest.key["config"]["train"]["validation_users"] = 5
        return whole(config, found, *chosen)  # type: ignore[arg-type]

    monkeypatch.setattr(loading, "choose", few)
    with pytest.raises(ConfigError, match=r"validated on other users or other lists .* name one: arm="):
        load(f"{run.uri}/runs/small")
    assert load(f"{run.uri}/runs/small", arm="plain").card["arm"] == "plain"


def test_one_trained_model_has_one_arm(run: StorageConfig, tmp_path: Path) -> None:
    fingerprint = Storage.from_config(run).read_json("runs/small/references.json")["train/plain/seed-0"]
    with pytest.raises(ConfigError, match="is one trained model, plain of seed 0; leave arm and seed out"):
        export(f"{run.uri}/artifacts/train/{fingerprint}", str(tmp_path / "out"), run, seed=4)
