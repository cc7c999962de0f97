"""Fit UMAP with cuML or umap-learn; both get the same settings and the same start.

Legend: N rows, E encoder width, P reduced width.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import inspect
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from configs.errors import ConfigError, DataError, MissingExtraError, ResourceError, illegal
from pipeline.reduce.config import UMAPReducer
from pipeline.reduce.linear import principal_components
from pipeline.reduce.neighbors import nearest, unit_rows
from pipeline.work.progress import Progress, waiting

Backend = Literal["cuml", "umap-learn"]
_SPREAD = 1.0
_FEW_ROWS = 10_000
_START_SCALE = 10.0
_START_NOISE = 1e-4
_EXACT_ROWS = 20_000
"""Up to so many rows an exact search for neighbours is faster than the library's approximate one, which is also
compiled anew in every process."""
_SAME = 1e-6
"""Cosine distances below this are rounding: the rows are one point."""


@dataclass(frozen=True)
class FittedUMAP:
    """An embedding and what is needed to place new rows in it."""

    embedding_NP: np.ndarray
    """fp32."""
    curve: tuple[float, float]
    """a and b of the embedding's similarity 1 / (1 + a·d^(2b))."""
    epochs: int
    backend: Backend
    version: str


def choose_backend(wanted: Literal["auto", "cuml", "umap-learn"]) -> Backend:
    """The backend to fit with here.

    Raises:
        MissingExtraError: cuML is asked for and not installed.
        ResourceError: cuML is asked for and there is no GPU.
    """
    if wanted == "umap-learn":
        return "umap-learn"
    import torch

    installed, gpu = importlib.util.find_spec("cuml") is not None, torch.cuda.is_available()
    if wanted == "auto":
        return "cuml" if installed and gpu else "umap-learn"
    if not installed:
        raise MissingExtraError("cuml", "umap-gpu")
    if not gpu:
        raise ResourceError("reduce.method.backend=cuml needs a GPU and this process sees none; set "
                            "reduce.execution.num_gpus on a cluster that has one, or use backend=auto")
    return "cuml"


def fit(config: UMAPReducer, vectors_NE: np.ndarray, seed: int) -> FittedUMAP:
    """Embed rows; the same rows, settings and seed give the same embedding.

    Raises:
        ConfigError: more components or neighbours than the rows allow, or a setting the installed backend lacks.
        DataError: the backend left a row without a place.
    """
    rows, width = vectors_NE.shape
    _check_sizes(config, rows, width)
    backend = choose_backend(config.backend)
    epochs = config.epochs or (500 if rows <= _FEW_ROWS else 200)
    settings: dict[str, Any] = {
        "n_components": config.components, "n_neighbors": config.neighbors, "min_dist": config.min_dist,
        "spread": _SPREAD, "metric": config.metric, "n_epochs": epochs, "random_state": seed,
        "init": _start(vectors_NE, config.components, seed) if config.init == "pca" else config.init,
    }
    embed = _fit_cuml if backend == "cuml" else _fit_umap_learn
    embedding_NP = embed(vectors_NE, settings)
    lost = int((~np.isfinite(embedding_NP).all(axis=1)).sum())
    if lost:
        raise DataError(f"UMAP left {lost} of {rows} rows without a place: their vectors are equally far from all "
                        "others (zero vectors?); look at the profiles, or use reduce.method.kind=pca")
    from umap.umap_ import find_ab_params

    a, b = find_ab_params(_SPREAD, config.min_dist)
    return FittedUMAP(embedding_NP, (float(a), float(b)), epochs, backend, _version(backend))


def check_settings(estimator: type, settings: dict[str, Any], name: str) -> None:
    """Refuse settings that the installed class does not take, by name.

    Raises:
        ConfigError: naming the settings and the installed version.
    """
    known = inspect.signature(estimator).parameters
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in known.values()):
        return
    unknown = sorted(settings.keys() - known.keys())
    if unknown:
        raise ConfigError(f"reduce: {name} does not take {', '.join(unknown)}; it takes {', '.join(known)}; "
                          "install another version, or choose another reduce.method.backend")


def _fit_umap_learn(vectors_NE: np.ndarray, settings: dict[str, Any]) -> np.ndarray:
    from umap import UMAP

    if len(vectors_NE) <= _EXACT_ROWS:
        knn = _neighbors(vectors_NE, settings["n_neighbors"], settings["metric"])
        settings = settings | {"precomputed_knn": knn}
    with (warnings.catch_warnings(), waiting("reduce: UMAP: searching each row's neighbours") as begun,
          Progress("reduce: UMAP", settings["n_epochs"], "epochs") as progress):
        settings = {**settings, "n_jobs": 1,  # a seed means one thread; saying so spares a warning
                    "tqdm_kwds": {"file": _Epochs(progress, begun), "bar_format": "{n}", "disable": False}}
        check_settings(UMAP, settings, f"umap-learn {_version('umap-learn')}")
        warnings.filterwarnings("ignore", message="Spectral initialisation failed", category=UserWarning)
        warnings.filterwarnings("ignore", message="precomputed_knn", category=UserWarning)  # that has no transform
        embedding: np.ndarray = UMAP(**settings).fit_transform(vectors_NE)
    return np.asarray(embedding, np.float32)


class _Epochs:
    """What umap-learn's own bar writes to: numbers of epochs, that ours shows."""

    def __init__(self, progress: Progress, begun: Callable[[], None]) -> None:
        """``begun`` is called with the first of them."""
        self._progress, self._begun = progress, begun

    def write(self, text: str) -> None:
        if text.strip().isdecimal():
            self._begun()
            self._progress.update(int(text))

    def flush(self) -> None:
        pass


def _neighbors(vectors_NE: np.ndarray, count: int, metric: str) -> tuple[np.ndarray, np.ndarray]:
    """Each row's nearest rows, itself among them: indices int32 [N, count] and distances fp32 [N, count]."""
    rows_NE = unit_rows(vectors_NE) if metric == "cosine" else vectors_NE
    index_NK, distance_NK = nearest(rows_NE, rows_NE, count, metric)
    if metric == "cosine":
        distance_NK[distance_NK < _SAME] = 0.0
    return index_NK.astype(np.int32), distance_NK


def _fit_cuml(vectors_NE: np.ndarray, settings: dict[str, Any]) -> np.ndarray:
    """A seed makes cuML search neighbours by brute force and add in a fixed order; it has no ``n_jobs``."""
    from cuml.manifold import UMAP

    settings = {**settings, "output_type": "numpy"}
    check_settings(UMAP, settings, f"cuml {_version('cuml')}")
    with waiting("reduce: UMAP on the GPU"):
        return np.asarray(UMAP(**settings).fit_transform(vectors_NE), np.float32)


def _start(vectors_NE: np.ndarray, components: int, seed: int) -> np.ndarray:
    """Principal components in [-10, 10] with a little noise, so that equal rows can part: fp32 [N, P]."""
    projection, _ = principal_components(vectors_NE, components)
    start = projection.apply(vectors_NE)
    largest = float(np.abs(start).max())
    if largest > 0:
        start *= _START_SCALE / largest
    noise = np.random.default_rng(seed).normal(scale=_START_NOISE, size=start.shape)
    return (start + noise).astype(np.float32)


def _check_sizes(config: UMAPReducer, rows: int, width: int) -> None:
    if config.components > (most := config.most_components(rows, width)):
        raise ConfigError(illegal("reduce.method.components", config.components, f"1…{most}",
                                  f"the encoder gives {width} dimensions and {rows} rows are fitted"))
    if config.neighbors >= rows:
        raise ConfigError(illegal("reduce.method.neighbors", config.neighbors, f"2…{rows - 1}",
                                  f"{rows} rows are fitted"))


def _version(backend: Backend) -> str:
    if backend == "umap-learn":
        return importlib.metadata.version("umap-learn")
    import cuml

    return str(cuml.__version__)
