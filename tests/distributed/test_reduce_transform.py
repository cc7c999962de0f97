"""UMAP with umap-learn: a seeded fit, its saved state, and new rows placed alone, in company or on Ray actors alike."""

from __future__ import annotations

import os
import signal

import numpy as np
import pytest

from cluster.storage import Storage
from pipeline.reduce import keys, umap_fit
from pipeline.reduce.config import PCAReducer, ReduceConfig, UMAPReducer
from pipeline.reduce.neighbors import nearest, unit_rows
from pipeline.reduce.quality import neighborhoods, overlap
from pipeline.reduce.reducer import load_reducer
from pipeline.reduce.stage import reduce
from pipeline.reduce.umap_map import UMAPMap
from pipeline.reduce.vectors import VectorTable
from pipeline.store import artifacts
from pipeline.store.artifacts import Artifact
from tests.unit.test_reduce import encoded, targets

UMAP = UMAPReducer(components=3, neighbors=8, epochs=60, backend="umap-learn")


def clusters(rows: int, seed: int = 0) -> np.ndarray:
    """Unit vectors around six centres in 12 dimensions."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(6, 12))
    return unit_rows(centres[rng.integers(6, size=rows)] + 0.4 * rng.normal(size=(rows, 12))).astype(np.float32)


def source(storage: Storage, rows: int = 260) -> Artifact:
    order = np.random.default_rng(1).permutation(rows)
    vectors = clusters(rows)
    return encoded(storage, [(part.tolist(), ["overall"] * len(part), vectors[part])
                             for part in np.array_split(order, 3)])


def built(storage: Storage, config: ReduceConfig, encode: Artifact) -> Artifact:
    artifact = reduce(config, encode, artifacts.begin(storage, keys.key(config, encode.fingerprint)))
    assert isinstance(artifact, Artifact)
    return artifact


@pytest.fixture(scope="module")
def fitted() -> tuple[UMAPMap, np.ndarray]:
    vectors = clusters(260)
    return UMAPMap.of(UMAP, vectors, umap_fit.fit(UMAP, vectors, seed=0)), vectors


def test_same_seed_same_embedding(fitted: tuple[UMAPMap, np.ndarray]) -> None:
    first, vectors = fitted
    again = umap_fit.fit(UMAP, vectors, seed=0)
    assert again.embedding_NP.tobytes() == first.embedding_NP.tobytes()
    assert (again.backend, again.epochs) == ("umap-learn", 60)
    assert umap_fit.fit(UMAP, vectors, seed=1).embedding_NP.tobytes() != first.embedding_NP.tobytes()


def test_a_new_row_lands_at_the_same_place_alone_and_in_any_company(fitted: tuple[UMAPMap, np.ndarray]) -> None:
    place, _ = fitted
    new = clusters(150, seed=7)
    together = place.apply(new)
    order = np.random.default_rng(3).permutation(150)
    assert place.apply(new[order]).tobytes() == together[order].tobytes()
    assert place.apply(new[[41]]).tobytes() == together[[41]].tobytes()


def test_new_rows_keep_as_many_neighbours_as_the_librarys_own_transform(fitted: tuple[UMAPMap, np.ndarray]) -> None:
    from umap import UMAP as Reference

    place, vectors = fitted
    reference = Reference(n_components=3, n_neighbors=8, n_epochs=60, metric="cosine", random_state=0, n_jobs=1,
                          min_dist=0.1, init=umap_fit._start(vectors, 3, 0)).fit(vectors)
    fits = [neighborhoods(vectors, np.asarray(embedding, np.float32), "cosine")["neighbor_overlap"]
            for embedding in (place.embedding_NP, reference.embedding_)]
    assert fits[0] > fits[1] - 0.02, "a fit from exact neighbours is as good as the library's own"
    new = clusters(150, seed=7)
    wanted, _ = nearest(new, vectors, 10, "cosine")

    def kept(placed: np.ndarray) -> float:
        found, _ = nearest(np.asarray(placed, np.float32), place.embedding_NP, 10, "euclidean")
        return float(overlap(wanted, found).mean())

    ours, theirs = kept(place.apply(new)), kept(reference.transform(new))
    assert ours > theirs - 0.05
    assert ours > 5 * 10 / 260  # far above chance


def test_saved_umap_places_rows_as_the_fitted_one(storage: Storage) -> None:
    encode = source(storage)
    artifact = built(storage, ReduceConfig(method=UMAP, whiten=True, quality_rows=100), encode)
    reducer, vectors = load_reducer(artifact), VectorTable.open(encode).gather(np.arange(260))
    fresh = umap_fit.fit(UMAP, vectors, seed=0)
    new = clusters(30, seed=5)
    expected = reducer.maps[1].apply(UMAPMap.of(UMAP, vectors, fresh).apply(new))
    assert reducer.transform(new).tobytes() == expected.tobytes()
    info = artifact.manifest.info
    assert (info["backend"], info["init"], info["epochs"], info["width"]) == ("umap-learn", "pca", 60, 3)
    assert info["version"].startswith("0.")
    assert info["quality"]["trustworthiness"] > 0.7


@pytest.mark.parametrize("method", [PCAReducer(components=3), UMAP], ids=["pca", "umap"])
def test_rows_outside_the_sample_are_the_same_on_ray_actors_as_in_this_process(
        storage: Storage, ray_cluster: None, monkeypatch: pytest.MonkeyPatch, method: PCAReducer | UMAPReducer) -> None:
    import ray
    from ray.util import ActorPool

    config = ReduceConfig(method=method, fit_rows=150, transform_rows=4, quality_rows=50,
                          execution={"actors": 2, "num_cpus": 0.5})
    encode, pools = source(storage), list[int]()

    class Watched(ActorPool):  # type: ignore[misc]
        def __init__(self, actors: list[object]) -> None:
            pools.append(len(actors))
            super().__init__(actors)

    monkeypatch.setattr("ray.util.ActorPool", Watched)
    on_ray = built(storage, config, encode)
    assert pools == [2], "the rows went to actors"
    users, _, vectors = targets(on_ray)
    assert users == list(range(260))
    storage.delete(f"artifacts/reduce/{on_ray.fingerprint}")
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    assert targets(built(storage, config, encode))[2].tobytes() == vectors.tobytes()
    assert pools == [2]


class Deadly(VectorTable):
    """Ends the first process that reads of it, but for the one that is named."""

    def gather(self, rows: np.ndarray) -> np.ndarray:
        if os.getpid() != self.storage.read_json("driver.json") and not self.storage.exists("ended.json"):
            self.storage.write_json("ended.json", os.getpid())
            os.kill(os.getpid(), signal.SIGKILL)
        return super().gather(rows)


def test_an_actor_that_dies_is_made_again_and_its_span_done_again(storage: Storage, ray_cluster: None,
                                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    config = ReduceConfig(method=PCAReducer(components=3), fit_rows=150, transform_rows=4,
                          execution={"actors": 2, "num_cpus": 0.5})
    encode = source(storage)
    whole = built(storage, config, encode)
    vectors = targets(whole)[2]
    storage.delete(f"artifacts/reduce/{whole.fingerprint}")
    storage.write_json("driver.json", os.getpid())
    monkeypatch.setattr("pipeline.reduce.stage.VectorTable", Deadly)
    assert targets(built(storage, config, encode))[2].tobytes() == vectors.tobytes()
    assert storage.exists("ended.json")
