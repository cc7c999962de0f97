"""Reduction of profile vectors: linear maps, neighbours, weights, quality, saved state, the stage itself with PCA."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from cluster.storage import Storage
from configs.errors import ArtifactError, ConfigError, DataError, MissingExtraError, ResourceError
from pipeline.reduce import keys, umap_fit
from pipeline.reduce.config import NoReducer, PCAReducer, ReduceConfig, ReducerConfig, UMAPReducer
from pipeline.reduce.linear import principal_components, whitening
from pipeline.reduce.neighbors import nearest, unit_rows
from pipeline.reduce.quality import Spread, neighborhoods, overlap
from pipeline.reduce.reducer import Reducer, load_reducer
from pipeline.reduce.stage import reduce, reduce_items
from pipeline.reduce.umap_map import memberships
from pipeline.reduce.vectors import VectorTable
from pipeline.store import artifacts
from pipeline.store.artifacts import Artifact, StageKey
from pipeline.store.columns import ANGLE, ITEM_IDX, USER_IDX, VECTOR
from tests.vectors import read_targets

RNG = np.random.default_rng(5)


def encoded(storage: Storage, files: list[tuple[list[int], list[str], np.ndarray]]) -> Artifact:
    """A hand-made `encode` artifact: one Parquet file per (users, angles, vectors)."""
    out = artifacts.begin(storage, StageKey("encode", 1, {"made": "by hand"}))
    rows = 0
    for number, (users, angles, vectors) in enumerate(files):
        column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.astype(np.float32).reshape(-1)), vectors.shape[1])
        out.write_table(f"vectors/{number}.parquet", pa.table({
            USER_IDX: pa.array(users, pa.int64()), ANGLE: pa.array(angles), VECTOR: column}))
        rows += len(users)
    return out.commit({"num_in": rows, "num_out": rows, "num_rejected": 0})


def built(storage: Storage, config: ReduceConfig, source: Artifact) -> Artifact:
    return reduce(config, source, artifacts.begin(storage, keys.key(config, source.fingerprint)))


def targets(artifact: Artifact) -> tuple[list[int], list[str], np.ndarray]:
    rows = read_targets(artifact)
    return rows.owners_N.tolist(), [artifact.manifest.info["angles"][a] for a in rows.angle_N], rows.vectors_NP


@pytest.fixture
def source(storage: Storage) -> Artifact:
    """60 users, their rows scattered over three files in no order; user u's vector starts with u."""
    vectors = RNG.normal(size=(60, 6))
    vectors[:, 0] = np.arange(60) * 2.0
    order = np.random.default_rng(0).permutation(60)
    return encoded(storage, [(part.tolist(), ["overall"] * 20, vectors[part]) for part in np.split(order, 3)])


def test_principal_components_are_the_singular_vectors_with_positive_largest_loading() -> None:
    x = RNG.normal(size=(500, 5)) * np.array([5.0, 3.0, 2.0, 1.0, 0.5]) + 7.0
    projection, explained = principal_components(x.astype(np.float32), 2)
    centred = x - x.mean(axis=0)
    _, singular, right = np.linalg.svd(centred, full_matrices=False)
    signs = np.sign(right[[0, 1], np.abs(right[:2]).argmax(axis=1)])
    assert projection.apply(x.astype(np.float32)) == pytest.approx(centred @ (right[:2].T * signs), abs=1e-3)
    assert explained == pytest.approx((singular[0] ** 2 + singular[1] ** 2) / (singular**2).sum(), abs=1e-5)


def test_whitened_rows_have_unit_covariance_and_keep_their_axes() -> None:
    x = (RNG.normal(size=(4000, 3)) @ np.array([[3.0, 0, 0], [1.0, 2.0, 0], [0, 0.5, 1.0]])).astype(np.float32)
    white = whitening(x).apply(x)
    assert np.cov(white.T, bias=True) == pytest.approx(np.eye(3), abs=1e-4)
    assert all(np.corrcoef(white[:, d], x[:, d])[0, 1] > 0.85 for d in range(3))


def test_whitening_does_not_blow_up_a_flat_direction() -> None:
    x = RNG.normal(size=(1000, 2)).astype(np.float32) * np.array([1.0, 1e-5], np.float32)
    assert whitening(x).apply(x)[:, 1].std() == pytest.approx(1e-5 / np.sqrt(1e-4), rel=0.1)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("chunk", [65_536, 37])
def test_nearest_equals_the_full_distance_matrix(metric: str, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.reduce.neighbors._BASE_ROWS", chunk)
    monkeypatch.setattr("pipeline.reduce.neighbors._EXACT_ROWS", 7)
    base, queries = RNG.normal(size=(300, 8)), RNG.normal(size=(40, 8))
    if metric == "cosine":
        base, queries = unit_rows(base), unit_rows(queries)
        full = 1.0 - queries @ base.T
    else:
        full = np.sqrt(((queries[:, None] - base[None]) ** 2).sum(-1))
    index, distance = nearest(queries.astype(np.float32), base.astype(np.float32), 5, metric)
    expected = np.argsort(full, axis=1)[:, :5]
    assert index.tolist() == expected.tolist()
    assert distance == pytest.approx(np.take_along_axis(full, expected, axis=1), abs=1e-5)


def test_memberships_beyond_the_first_neighbour_sum_to_log2_of_their_number() -> None:
    distance = np.sort(RNG.uniform(0.1, 2.0, size=(30, 8)), axis=1).astype(np.float32)
    weight = memberships(distance)
    assert weight[:, 1:].sum(axis=1) == pytest.approx(np.full(30, 3.0), abs=1e-4)  # log2(8)
    assert (np.diff(weight, axis=1) <= 0).all()


def test_memberships_of_equal_rows_are_one() -> None:
    assert memberships(np.zeros((1, 4), np.float32)).tolist() == [[1.0, 1.0, 1.0, 1.0]]


def test_overlap_counts_the_shared_entries() -> None:
    assert overlap(np.array([[1, 2, 3, 4], [5, 6, 7, 8]]), np.array([[4, 3, 9, 10], [5, 6, 7, 8]])).tolist() == [
        2 / 4, 4 / 4]


def test_quality_of_a_copy_is_perfect_and_of_noise_is_chance() -> None:
    x = RNG.normal(size=(200, 4)).astype(np.float32)
    kept = neighborhoods(x, 3.0 * x, "euclidean")
    assert (kept["trustworthiness"], kept["neighbor_overlap"]) == (pytest.approx(1.0), pytest.approx(1.0))
    lost = neighborhoods(x, RNG.normal(size=(200, 4)), "euclidean")
    assert lost["neighbor_overlap"] == pytest.approx(10 / 199, abs=0.03)
    assert lost["trustworthiness"] == pytest.approx(0.5, abs=0.05)


def test_spread_is_that_of_all_parts_together() -> None:
    x = RNG.normal(size=(900, 3)) * np.array([2.0, 1.0, 0.0]) + 4.0
    spread = Spread(3)
    for part in np.array_split(x, 4):
        spread.add(part)
    summary = spread.summary()
    assert summary["variance"] == pytest.approx(x.var(axis=0).tolist())
    eigenvalues = np.linalg.eigvalsh(np.cov(x.T, bias=True))
    assert summary["effective_dimensions"] == pytest.approx(eigenvalues.sum() ** 2 / (eigenvalues**2).sum())


def test_rows_are_gathered_in_user_and_angle_order_from_any_files(storage: Storage) -> None:
    table = VectorTable.open(encoded(storage, [
        ([3, 1], ["b", "b"], np.array([[30.0, 1.0], [10.0, 1.0]])),
        ([1, 2], ["a", "a"], np.array([[10.0, 0.0], [20.0, 0.0]]))]))
    assert (table.owners_N.tolist(), [table.angles[a] for a in table.angle_N]) == ([1, 1, 2, 3], ["a", "b", "a", "b"])
    assert table.gather(np.array([3, 0, 1])).tolist() == [[30.0, 1.0], [10.0, 0.0], [10.0, 1.0]]


def test_a_repeated_row_and_a_broken_vector_are_errors(storage: Storage) -> None:
    with pytest.raises(DataError, match=r"user_idx 4 \(angle 'a'\) has two vectors"):
        VectorTable.open(encoded(storage, [([4, 4], ["a", "a"], np.ones((2, 2)))]))
    storage.delete("artifacts")
    broken = VectorTable.open(encoded(storage, [([4, 5], ["a", "a"], np.array([[1.0, 2.0], [np.nan, 1.0]]))]))
    with pytest.raises(DataError, match="user_idx 5 .* NaN or Inf"):
        broken.gather(np.arange(2))


def test_no_vectors_is_an_error(storage: Storage) -> None:
    with pytest.raises(DataError, match="no profile vector"):
        VectorTable.open(encoded(storage, []))


def test_pca_stage_writes_sorted_targets_quality_and_its_state(storage: Storage, source: Artifact) -> None:
    artifact = built(storage, ReduceConfig(method=PCAReducer(components=3), quality_rows=40), source)
    users, angles, vectors = targets(artifact)
    assert (users, set(angles), vectors.shape) == (list(range(60)), {"overall"}, (60, 3))
    assert np.abs(np.corrcoef(vectors[:, 0], np.arange(60))[0, 1]) > 0.99  # the widest direction is the first column
    info = artifact.manifest.info
    assert (info["width"], info["angles"], info["fit_rows"]) == (3, ["overall"], 60)
    assert info["quality"] == artifact.read_json("quality.json")
    assert info["quality"]["variance"] == pytest.approx(vectors.astype(np.float64).var(axis=0).tolist(), rel=1e-6)
    assert artifact.manifest.counts == {"num_in": 60, "num_out": 60, "num_rejected": 0, "users": 60}


@pytest.mark.parametrize("whiten", [False, True])
def test_loaded_reducer_gives_the_stored_targets_whatever_the_batches(storage: Storage, source: Artifact, whiten: bool
                                                                      ) -> None:
    config = ReduceConfig(method=PCAReducer(components=4), whiten=whiten, transform_rows=7)
    artifact = built(storage, config, source)
    reducer, inputs = load_reducer(artifact), VectorTable.open(source).gather(np.arange(60))
    stored = targets(artifact)[2]
    assert (reducer.width, reducer.batch_rows) == (4, 7)
    assert reducer.transform(inputs).tobytes() == stored.tobytes()
    assert reducer.transform(inputs[[33]]).tobytes() == stored[[33]].tobytes()
    if whiten:
        assert np.cov(stored.T, bias=True) == pytest.approx(np.eye(4), abs=1e-4)


def test_fit_on_a_sample_transforms_the_rest_and_keeps_every_row(storage: Storage, source: Artifact) -> None:
    config = ReduceConfig(method=PCAReducer(components=2), fit_rows=25, transform_rows=4)
    artifact = built(storage, config, source)
    users, _, vectors = targets(artifact)
    assert users == list(range(60))
    assert artifact.manifest.info["fit_rows"] == 25
    expected = load_reducer(artifact).transform(VectorTable.open(source).gather(np.arange(60)))
    assert vectors.tobytes() == expected.tobytes()


def test_no_reduction_passes_the_vectors_through(storage: Storage, source: Artifact) -> None:
    artifact = built(storage, ReduceConfig(method=NoReducer()), source)
    assert targets(artifact)[2].tolist() == VectorTable.open(source).gather(np.arange(60)).tolist()
    assert load_reducer(artifact).width == 6


def test_artifact_holds_no_pickle(storage: Storage, source: Artifact) -> None:
    artifact = built(storage, ReduceConfig(method=PCAReducer(components=2), whiten=True), source)
    assert sorted({Path(name).suffix for name in artifact.manifest.files}) == [".json", ".safetensors"]


def test_vectors_of_another_width_are_refused(storage: Storage, source: Artifact) -> None:
    reducer = load_reducer(built(storage, ReduceConfig(method=PCAReducer(components=2)), source))
    with pytest.raises(DataError, match=r"got \[3, 5\]; legal: \[rows, 6\]"):
        reducer.transform(np.zeros((3, 5), np.float32))


@pytest.mark.parametrize(("method", "message"), [
    (PCAReducer(components=7), r"components: got 7; legal: 1…6"),
    (UMAPReducer(components=7), r"components: got 7; legal: 1…6"),
    (UMAPReducer(components=2, neighbors=60), r"neighbors: got 60; legal: 2…59")])
def test_sizes_the_data_do_not_allow_name_the_legal_range(storage: Storage, source: Artifact,
                                                          method: PCAReducer | UMAPReducer, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        built(storage, ReduceConfig(method=method), source)


def test_too_few_items_with_text_name_the_students_width(storage: Storage) -> None:
    """Which is how many dimensions their texts are brought to: `reduce.method` is not read."""
    out = artifacts.begin(storage, StageKey("encode", 1, {"items": "by hand"}))
    column = pa.FixedSizeListArray.from_arrays(pa.array(RNG.normal(size=40 * 6).astype(np.float32)), 6)
    out.write_table("vectors/0.parquet", pa.table({ITEM_IDX: pa.array(range(40), pa.int32()), VECTOR: column}))
    items = out.commit({"num_in": 40, "num_out": 40, "num_rejected": 0}, info={"width": 6})
    config = ReduceConfig(method=PCAReducer(components=7))
    with pytest.raises(ConfigError, match=r"model\.hidden_dim: got 7; legal: 1…6; .* 40 items'.*arms=\[plain\]"):
        reduce_items(config, items, artifacts.begin(storage, StageKey("reduce", 1, {"items": "by hand"})))


def test_setting_that_the_installed_class_lacks_is_named() -> None:
    class Old:
        def __init__(self, n_neighbors: int) -> None: ...

    with pytest.raises(ConfigError, match="umap 0.1 does not take init, spread; it takes n_neighbors"):
        umap_fit.check_settings(Old, {"n_neighbors": 5, "init": "pca", "spread": 1.0}, "umap 0.1")


def test_umaps_neighbours_are_exact_and_equal_rows_are_one_point() -> None:
    vectors_NE = RNG.normal(size=(40, 6)).astype(np.float32)
    vectors_NE[7] = 3 * vectors_NE[3]  # one direction
    index_NK, distance_NK = umap_fit._neighbors(vectors_NE, 5, "cosine")
    rows_NE = unit_rows(vectors_NE.astype(np.float64))
    exact_NN = np.sort(1.0 - rows_NE @ rows_NE.T, axis=1)
    np.testing.assert_allclose(distance_NK, exact_NN[:, :5], atol=2e-6)
    assert (distance_NK[:, 0] == 0).all() and distance_NK[7, 1] == distance_NK[3, 1] == 0
    assert set(index_NK[7, :2]) == {3, 7} and all(row in found for row, found in enumerate(index_NK))


def test_backend_choice_follows_what_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    def there(installed: bool, gpu: bool) -> None:
        monkeypatch.setattr("importlib.util.find_spec", lambda name: object() if installed else None)
        monkeypatch.setattr("torch.cuda.is_available", lambda: gpu)

    there(installed=True, gpu=True)
    assert (umap_fit.choose_backend("auto"), umap_fit.choose_backend("umap-learn")) == ("cuml", "umap-learn")
    there(installed=True, gpu=False)
    assert umap_fit.choose_backend("auto") == "umap-learn"
    with pytest.raises(ResourceError, match="needs a GPU"):
        umap_fit.choose_backend("cuml")
    there(installed=False, gpu=True)
    with pytest.raises(MissingExtraError, match=r"mentorec\[umap-gpu\]"):
        umap_fit.choose_backend("cuml")


def test_execution_settings_stay_out_of_the_key() -> None:
    config = ReduceConfig()
    busy = config.model_copy(update={"execution": config.execution.model_copy(update={"actors": 9})})
    assert keys.key(config, "f").fingerprint == keys.key(busy, "f").fingerprint
    assert keys.key(config, "f").fingerprint != keys.key(config, "g").fingerprint


def test_reducer_of_another_format_is_refused(storage: Storage) -> None:
    Reducer((), 3, 10).save(storage, "reducer")
    described = storage.read_json("reducer/reducer.json")
    described["steps"] = [{"kind": "pickle", "file": "x", "settings": {}}]
    storage.write_json("reducer/reducer.json", described)
    with pytest.raises(ArtifactError, match="another version of mentorec"):
        Reducer.load(storage, "reducer")


@pytest.mark.parametrize("method", [UMAPReducer(components=2, neighbors=3), PCAReducer(components=2), NoReducer()])
@pytest.mark.parametrize("vector", [[0.0, 0.0, 0.0, 0.0], [0.1, -0.7, 3.0, 1e-3]])
def test_vectors_that_are_all_alike_are_refused(storage: Storage, method: ReducerConfig, vector: list[float]) -> None:
    alike = encoded(storage, [(list(range(30)), ["overall"] * 30, np.tile(vector, (30, 1)))])
    with pytest.raises(DataError, match="all 30 vectors are alike"):
        built(storage, ReduceConfig(method=method), alike)


@pytest.mark.parametrize(("method", "rows", "legal"), [
    (UMAPReducer(components=1, neighbors=2), 2, "umap is fitted on 3 vectors or more, there are 2"),
    (PCAReducer(components=1), 1, "pca is fitted on 2 vectors or more, there is 1")])
def test_too_few_vectors_are_refused(storage: Storage, method: ReducerConfig, rows: int, legal: str) -> None:
    few = encoded(storage, [(list(range(rows)), ["overall"] * rows, RNG.normal(size=(rows, 4)))])
    with pytest.raises(DataError, match=legal):
        built(storage, ReduceConfig(method=method), few)


def test_directions_without_variance_stay_at_rest(storage: Storage) -> None:
    """Two distinct vectors among thirty: three of four components are flat, whitened or not."""
    vectors = np.tile(RNG.normal(size=4), (30, 1))
    vectors[15:, 0] += 1.0
    for whiten in (False, True):
        found = targets(built(storage, ReduceConfig(method=PCAReducer(components=3), whiten=whiten),
                              encoded(storage, [(list(range(30)), ["overall"] * 30, vectors)])))[2]
        assert np.isfinite(found).all()
        assert found.std(axis=0) == pytest.approx([1.0 if whiten else 0.5, 0.0, 0.0], abs=1e-5)


def test_whitening_fewer_rows_than_dimensions_is_finite() -> None:
    x = RNG.normal(size=(3, 8)).astype(np.float32)
    white = whitening(x).apply(x)
    assert np.abs(white).max() < 10
    assert np.linalg.matrix_rank(white - white.mean(axis=0), tol=1e-3) == 2
