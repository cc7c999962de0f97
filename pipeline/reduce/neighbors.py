"""Exact nearest neighbours by matrix products, on the GPU where there is one.

Legend: B queries, N base rows, E width, K neighbours.
"""

from __future__ import annotations

import numpy as np
import torch

_QUERY_ROWS = {"cpu": 256, "cuda": 4096}
"""Queries searched at once: few keep the scores in cache, many spare copies of the base to the GPU."""
_BASE_ROWS = 65_536
_EXACT_ROWS = 256
"""Queries whose candidates are gathered at once."""
_SPARE = 16
"""Candidates beyond K: the fp32 search may misplace near ties, the fp64 distances of the candidates then decide."""


def unit_rows(vectors_NE: np.ndarray) -> np.ndarray:
    """Rows scaled to length 1; zero rows stay zero."""
    lengths = np.linalg.norm(vectors_NE, axis=1, keepdims=True)
    scaled: np.ndarray = vectors_NE / np.where(lengths > 0, lengths, 1.0)
    return scaled


def nearest(queries_BE: np.ndarray, base_NE: np.ndarray, k: int, metric: str) -> tuple[np.ndarray, np.ndarray]:
    """The K nearest base rows of every query: indices int64 [B, K] and distances fp32 [B, K], ascending.

    A query's result does not depend on the other queries. For ``cosine`` all rows must have length 1.
    """
    found_BC = _candidates(queries_BE, base_NE, min(k + _SPARE, len(base_NE)))
    indices = np.empty((len(queries_BE), k), np.int64)
    distances = np.empty((len(queries_BE), k), np.float32)
    for start in range(0, len(queries_BE), _EXACT_ROWS):
        rows = slice(start, start + _EXACT_ROWS)
        exact_BC = _distances(queries_BE[rows], base_NE[found_BC[rows]], metric)
        order = np.lexsort((found_BC[rows], exact_BC), axis=1)[:, :k]
        indices[rows] = np.take_along_axis(found_BC[rows], order, axis=1)
        distances[rows] = np.take_along_axis(exact_BC, order, axis=1)
    return indices, distances


def _candidates(queries_BE: np.ndarray, base_NE: np.ndarray, count: int) -> np.ndarray:
    """Indices [B, count] of the largest ``q·x - |x|²/2``, which orders like both metrics."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    step = _QUERY_ROWS[device.type]
    found = []
    for start in range(0, len(queries_BE), step):
        queries = torch.from_numpy(np.ascontiguousarray(queries_BE[start : start + step], np.float32)).to(device)
        found.append(_largest(queries, base_NE, count).cpu().numpy())
    return np.concatenate(found)


def _largest(queries_BE: torch.Tensor, base_NE: np.ndarray, count: int) -> torch.Tensor:
    value = torch.empty((len(queries_BE), 0), device=queries_BE.device)
    index = torch.empty((len(queries_BE), 0), dtype=torch.int64, device=queries_BE.device)
    for start in range(0, len(base_NE), _BASE_ROWS):
        base = torch.from_numpy(np.asarray(base_NE[start : start + _BASE_ROWS], np.float32)).to(queries_BE.device)
        here, place = (queries_BE @ base.T - base.square().sum(1) / 2).topk(min(count, len(base)), dim=1)
        value, index = torch.cat([value, here], 1), torch.cat([index, place + start], 1)
        value, kept = value.topk(min(count, value.shape[1]), dim=1)
        index = index.gather(1, kept)
    return index


def _distances(queries_BE: np.ndarray, candidates_BCE: np.ndarray, metric: str) -> np.ndarray:
    """fp32 [B, C], each computed in fp64 from its own two rows alone."""
    queries, candidates = queries_BE.astype(np.float64)[:, None, :], candidates_BCE.astype(np.float64)
    if metric == "cosine":
        exact = 1.0 - np.einsum("bce,bce->bc", np.broadcast_to(queries, candidates.shape), candidates)
    else:
        exact = np.sqrt(np.square(queries - candidates).sum(axis=2))
    rounded: np.ndarray = np.maximum(exact, 0.0).astype(np.float32)
    return rounded
