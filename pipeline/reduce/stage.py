"""`reduce`: the encoder's vectors → low-dimensional teacher targets, fitted on training users; likewise of item texts.

Legend: N rows (one per user and angle, or one per item), F fitted rows, K known targets, E encoder
width, P reduced width.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from configs.errors import ConfigError, DataError, illegal
from pipeline.reduce import umap_fit
from pipeline.reduce.config import NoReducer, PCAReducer, ReduceConfig, UMAPReducer
from pipeline.reduce.definition import COLUMNS, ITEM_VECTORS, TARGETS
from pipeline.reduce.linear import principal_components, whitening
from pipeline.reduce.parallel import transform_spans
from pipeline.reduce.quality import Spread, neighborhoods
from pipeline.reduce.reducer import FOLDER, Map, Reducer
from pipeline.reduce.refresh import fitted_before
from pipeline.reduce.umap_map import UMAPMap
from pipeline.reduce.vectors import VectorTable
from pipeline.store.artifacts import Artifact, ArtifactDir, digest_ids
from pipeline.store.columns import ITEM_IDX
from pipeline.store.vectors import vector_writer
from pipeline.work.nodes import actor_resources
from pipeline.work.progress import say, took, waiting
from pipeline.work.tasks import result

QUALITY = "quality.json"
_LEAST_ROWS = {"umap": 3, "pca": 2, "none": 0}
_SPAN_BATCHES = 8
"""Batches per task."""


@dataclass(frozen=True)
class Fit:
    """A fitted reducer, the fitted rows' own targets, and how it came about."""

    reducer: Reducer
    targets_KP: np.ndarray
    """fp32, the fitted rows' among others."""
    place_F: np.ndarray
    """int64: where each fitted row's stands."""
    info: dict[str, Any] = field(default_factory=dict)


def reduce(config: ReduceConfig, vectors: Artifact, out: ArtifactDir) -> Artifact:
    """Fit on the training users' vectors (a seeded sample of them above ``fit_rows``) and reduce them all.

    Raises:
        ConfigError: more components or neighbours than the data allow.
        DataError: no vectors, a row twice, NaN or Inf.
    """
    return _reduce(config, VectorTable.open(vectors), vectors, TARGETS, out)


def reduce_items(config: ReduceConfig, vectors: Artifact, out: ArtifactDir) -> Artifact:
    """The same of a catalogue's item texts.

    Raises:
        ConfigError: more components or neighbours than the data allow.
        DataError: no vectors, an item twice, NaN or Inf.
    """
    table, method = VectorTable.open(vectors, ITEM_IDX), config.method
    if not isinstance(method, NoReducer) and method.components > (
            most := method.most_components(len(table), int(vectors.manifest.info["width"]))):
        # Nobody set the components: they are the student's width.
        raise ConfigError(illegal("model.hidden_dim", method.components, f"1…{most}",
                                  f"the start from texts wants as many dimensions of {len(table)} items' texts; or "
                                  "leave out what needs texts: arms=[plain]"))
    return _reduce(config, table, vectors, ITEM_VECTORS, out)


def _reduce(config: ReduceConfig, table: VectorTable, vectors: Artifact, file: str, out: ArtifactDir) -> Artifact:
    started = time.perf_counter()
    rng = np.random.default_rng(config.seed)
    if config.fitted_by is None:
        everything = np.arange(len(table))
        sampled = len(table) > config.fit_rows
        fit_rows = np.sort(rng.choice(everything, config.fit_rows, replace=False)) if sampled else everything
        say(f"reduce: fitting {config.method.kind} on {len(fit_rows)} of {len(table)} rows")
        fitted = _fit_where_the_gpu_is(config, table, fit_rows)
    else:
        reducer, fit_rows, targets_KP, place_F = fitted_before(config, table, vectors, file)
        fitted = Fit(reducer, targets_KP, place_F, {"fitted_by": config.fitted_by, "kept_rows": len(fit_rows)})
        say(f"reduce: {len(fit_rows)} of {len(table)} vectors are as {config.fitted_by} has them and keep their "
            f"targets; {len(table) - len(fit_rows)} are transformed")
    fitted.reducer.save(out.storage, out.relative(FOLDER))
    quality = _quality(config, table, fit_rows, fitted, rng)
    quality |= _write_targets(config, table, fit_rows, fitted, file, out).summary()
    out.write_json(QUALITY, quality)
    seconds = time.perf_counter() - started
    say(f"reduce: {took(len(table), 'vectors', seconds)}")
    info = {"width": fitted.reducer.width, "angles": [a for a in table.angles if a], "method": config.method.kind,
            **fitted.info, "whitened": config.whiten, "seed": config.seed, "fit_rows": len(fit_rows),
            "quality": quality, "seconds": round(seconds, 2)}
    return out.commit({"num_in": len(table), "num_out": len(table), "num_rejected": 0,
                       table.owner.partition("_")[0] + "s": len(np.unique(table.owners_N))},
                      {file: COLUMNS[file]}, digest_ids(table.owners_N), info)


def fit(config: ReduceConfig, table: VectorTable, rows: np.ndarray) -> Fit:
    """Fit the configured method, then whitening if asked for, on some rows.

    Raises:
        ConfigError: more components or neighbours than the rows allow.
        DataError: too few rows, or all are alike.
    """
    vectors_FE = table.gather(rows)
    width = vectors_FE.shape[1]
    _check_rows(config, vectors_FE)
    maps: list[Map] = []
    info: dict[str, Any] = {}
    targets_FP = vectors_FE
    method = config.method
    if isinstance(method, PCAReducer):
        if method.components > (most := method.most_components(len(rows), width)):
            raise ConfigError(illegal("reduce.method.components", method.components, f"1…{most}",
                                      f"the encoder gives {width} dimensions and {len(rows)} rows are fitted"))
        projection, info["explained_variance"] = principal_components(vectors_FE, method.components)
        maps.append(projection)
        targets_FP = projection.apply(vectors_FE)
    elif isinstance(method, UMAPReducer):
        embedded = umap_fit.fit(method, vectors_FE, config.seed)
        maps.append(UMAPMap.of(method, vectors_FE, embedded))
        targets_FP = embedded.embedding_NP
        info = {"backend": embedded.backend, "version": embedded.version, "init": method.init,
                "epochs": embedded.epochs}
    if config.whiten:
        scaling = whitening(targets_FP)
        maps.append(scaling)
        targets_FP = scaling.apply(targets_FP)
    return Fit(Reducer(tuple(maps), width, config.transform_rows), targets_FP, np.arange(len(rows)), info)


def _check_rows(config: ReduceConfig, vectors_FE: np.ndarray) -> None:
    count, least = len(vectors_FE), _LEAST_ROWS[config.method.kind]
    if count < least:
        raise DataError(f"reduce: {config.method.kind} is fitted on {least} vectors or more, there {_are(count)}; use "
                        "reduce.method.kind=none, or a weaker prepare.filter")
    if count > 1 and (vectors_FE == vectors_FE[:1]).all():
        raise DataError(f"reduce: all {count:,} vectors are alike, so they tell nobody from another; look at the texts "
                        "(`mentorec show profile`, `show item`), or train without them (arms=[plain], "
                        "train.item_init=null)")


def _are(count: int) -> str:
    return "is 1" if count == 1 else f"are {count}"


def _fit_where_the_gpu_is(config: ReduceConfig, table: VectorTable, rows: np.ndarray) -> Fit:
    """:func:`fit` in a Ray task when a GPU is asked for and Ray runs, else here."""
    if config.execution.num_gpus > 0 and config.execution.actors:
        import ray

        if ray.is_initialized():
            one = config.execution.model_copy(update={"actors": 1})
            task = ray.remote(**actor_resources(one, "reduce"))(fit)
            with waiting("reduce: fitting where the GPU is"):
                fitted: Fit = result(task.remote(config, table, rows), "reduce", "lower reduce.fit_rows")
            return fitted
    return fit(config, table, rows)


def _quality(config: ReduceConfig, table: VectorTable, fit_rows: np.ndarray, fitted: Fit, rng: np.random.Generator
             ) -> dict[str, Any]:
    chosen = np.sort(rng.choice(len(fit_rows), min(config.quality_rows, len(fit_rows)), replace=False))
    metric = config.method.metric if isinstance(config.method, UMAPReducer) else "cosine"
    vectors_SE = table.gather(fit_rows[chosen]) if len(chosen) else np.empty((0, 0), np.float32)
    return {"metric": metric, **neighborhoods(vectors_SE, fitted.targets_KP[fitted.place_F[chosen]], metric)}


def _write_targets(config: ReduceConfig, table: VectorTable, fit_rows: np.ndarray, fitted: Fit, file: str,
                   out: ArtifactDir) -> Spread:
    """Write every row's target in the table's order; rows outside the fit are transformed."""
    width = fitted.reducer.width
    spread = Spread(width)
    with (out.storage.upload_folder(out.folder) as folder, out.storage.writing(out.relative(file)),
          vector_writer(folder / file, table.owner, table.owners_N, table.angle_N, width) as write):
        for targets_BP in _targets(config, table, fit_rows, fitted, out):
            spread.add(targets_BP)
            write(targets_BP)
    return spread


def _targets(config: ReduceConfig, table: VectorTable, fit_rows: np.ndarray, fitted: Fit, out: ArtifactDir
             ) -> Iterator[np.ndarray]:
    step = config.transform_rows * _SPAN_BATCHES
    place_N = np.full(len(table), -1, np.int64)
    place_N[fit_rows] = fitted.place_F
    rest = np.flatnonzero(place_N < 0)
    spans = [rest[start : start + step] for start in range(0, len(rest), step)]
    transformed = transform_spans(out.storage, out.relative(FOLDER), table, spans, config.execution)
    ready = np.empty((0, fitted.reducer.width), np.float32)
    for start in range(0, len(table), step):
        rows = np.arange(start, min(start + step, len(table)))
        known = place_N[rows] >= 0
        while len(ready) < (~known).sum():
            ready = np.concatenate([ready, next(transformed)])
        targets_BP = np.empty((len(rows), fitted.reducer.width), np.float32)
        targets_BP[known] = fitted.targets_KP[place_N[rows][known]]
        targets_BP[~known] = ready[: (~known).sum()]
        ready = ready[(~known).sum() :]
        yield targets_BP
