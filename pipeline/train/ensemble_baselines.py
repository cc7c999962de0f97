"""The baselines of an ensemble: fitted once on the training part, kept as arrays that every worker reads.

Legend: V items 1…n, E width of the items' texts, K links between items.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from scipy import sparse

from models.history_scores import Links, LinkScores, TextScores
from models.sequences import Sequences
from pipeline.evaluate.baselines import fit_item_knn, following
from pipeline.evaluate.config import ContentConfig, ItemKNNConfig
from pipeline.evaluate.content import fit_content
from pipeline.store.tensors import save_file
from pipeline.train.collaborative import TrainingMatrix
from pipeline.train.item_vectors import ItemVectors
from pipeline.train.teaching_config import BaselineScores, ContentScores, ItemKNNScores, TransitionScores


def baseline_file(place: int) -> str:
    """The name of the file of the baseline at a place of ``ensemble.baselines``."""
    return f"baseline-{place}.safetensors"


def write_baselines(baselines: Sequence[BaselineScores], train: Sequences, texts: ItemVectors | None, seed: int,
                    matrix: TrainingMatrix, work: Path) -> None:
    """Fit each and write it to ``work``.

    Args:
        train: all training sequences.
        texts: the items' own; for the content baseline.
        seed: of the controls.
        matrix: what a collaborative control knows.
    """
    for place, config in enumerate(baselines):
        path = work / baseline_file(place)
        if isinstance(config, ContentScores):
            assert texts is not None, "the step names the items' texts among its inputs"
            own = ContentConfig(recency_decay=config.recency_decay)
            told = texts.controlled(config.control, seed, matrix)
            known_V = told.known_V & told.vectors_VE.any(1)  # to a collaborative control what nobody has is unknown
            vectors_VE = fit_content(own, replace(told, known_V=known_V)).vectors_VE
            save_file({"vectors": _leading(vectors_VE, config.components)}, path)
        else:
            links_VV = _links(config, train, matrix.num_items)
            save_file({"offsets": links_VV.indptr.astype(np.int64), "items": links_VV.indices.astype(np.int32),
                       "scores": links_VV.data.astype(np.float32)}, path)


def _links(config: ItemKNNScores | TransitionScores, train: Sequences, num_items: int) -> sparse.csr_matrix:
    """Without the baselines' share of popularity, which the members know."""
    if isinstance(config, TransitionScores):
        return following(train, num_items, config.window, config.shrinkage)
    own = ItemKNNConfig(neighbors=config.neighbors, shrinkage=config.shrinkage, recency_decay=config.recency_decay,
                        popularity_backoff=0.0)
    return fit_item_knn(own, train, num_items).links_VV


def _leading(vectors_VE: np.ndarray, components: int | None) -> np.ndarray:
    """The same in the directions of the largest second moments, again of length 1."""
    if components is None or components >= vectors_VE.shape[1]:
        return vectors_VE
    gram_EE = (vectors_VE.T @ vectors_VE).astype(np.float64)
    found_VE = vectors_VE @ np.linalg.eigh(gram_EE)[1][:, ::-1][:, :components].astype(np.float32)
    lengths_V1 = np.linalg.norm(found_VE, axis=1, keepdims=True)
    return np.ascontiguousarray(found_VE / np.where(lengths_V1 > 0, lengths_V1, 1.0))


def load_baseline(config: BaselineScores, path: Path) -> TextScores | LinkScores:
    """What :func:`write_baselines` wrote."""
    tensors: dict[str, torch.Tensor] = load_file(path)
    if isinstance(config, ContentScores):
        return TextScores(tensors["vectors"], config.recency_decay, config.scale)
    decay = config.recency_decay if isinstance(config, ItemKNNScores) else 0.0
    links = Links.of(tensors["offsets"], tensors["items"], tensors["scores"])
    return LinkScores(links, decay, last_alone=config.kind == "transitions", scale=config.scale)
