"""cuML's UMAP against umap-learn's: the neighbourhoods that both keep."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import torch

from pipeline.reduce import umap_fit
from pipeline.reduce.config import UMAPReducer
from pipeline.reduce.neighbors import unit_rows
from pipeline.reduce.quality import neighborhoods

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
    pytest.mark.skipif(importlib.util.find_spec("cuml") is None, reason="cuML is not installed"),
]


def test_cuml_keeps_as_many_neighbours_as_umap_learn() -> None:
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(20, 64))
    vectors = unit_rows(centres[rng.integers(20, size=3000)] + 0.5 * rng.normal(size=(3000, 64))).astype(np.float32)
    kept = {}
    for backend in ("cuml", "umap-learn"):
        config = UMAPReducer.model_validate({"components": 16, "backend": backend})
        fitted = umap_fit.fit(config, vectors, seed=0)
        assert fitted.backend == backend
        kept[backend] = neighborhoods(vectors[:1000], fitted.embedding_NP[:1000], "cosine")
    assert kept["cuml"]["neighbor_overlap"] > kept["umap-learn"]["neighbor_overlap"] - 0.05
    assert kept["cuml"]["trustworthiness"] > kept["umap-learn"]["trustworthiness"] - 0.02


def test_cuml_with_a_seed_repeats_itself() -> None:
    vectors = unit_rows(np.random.default_rng(1).normal(size=(1000, 32))).astype(np.float32)
    config = UMAPReducer(components=8, backend="cuml")
    first, second = (umap_fit.fit(config, vectors, seed=3).embedding_NP for _ in range(2))
    assert first == pytest.approx(second, abs=1e-5)
