"""The content baseline against loops over texts."""

from __future__ import annotations

import numpy as np
import pytest

from models.sequences import Sequences
from pipeline.evaluate.config import ContentConfig
from pipeline.evaluate.content import fit_content
from pipeline.train.item_vectors import ItemVectors

VECTORS = np.random.default_rng(0).normal(3, 1, size=(6, 4)).astype(np.float32)
KNOWN = np.array([True, True, False, True, True, True])


def test_scores_are_cosines_with_the_weighted_history() -> None:
    found = fit_content(ContentConfig(recency_decay=0.7), ItemVectors(VECTORS * KNOWN[:, None], KNOWN))
    centred = VECTORS.astype(float) - VECTORS[KNOWN].mean(0)
    unit = [row / np.linalg.norm(row) if known else row * 0 for row, known in zip(centred, KNOWN, strict=True)]
    histories = Sequences.from_lists([[1, 2], [3], [6, 3, 4]])
    scores = found.scores(found.states(histories, np.array([0, 2, 1])), 1, 7).numpy()
    for row, history in zip(scores, ([1, 2], [6, 3, 4], [3]), strict=True):
        mixed = sum(np.exp(-0.7 * (len(history) - 1 - place)) * unit[item - 1] for place, item in enumerate(history))
        length = np.linalg.norm(mixed)
        for item in range(6):
            expected = mixed @ unit[item] / length if length > 0 else 0.0
            assert row[item] == pytest.approx(expected, abs=1e-5)
    part = found.scores(found.states(histories, np.array([0])), 4, 6).numpy()[0]
    assert part == pytest.approx(scores[0][3:5], abs=1e-6)


def test_a_catalogue_without_texts_scores_nothing() -> None:
    nothing = fit_content(ContentConfig(), ItemVectors(np.zeros((3, 2), np.float32), np.zeros(3, bool)))
    states = nothing.states(Sequences.from_lists([[1, 2]]), np.array([0]))
    assert nothing.scores(states, 1, 4).tolist() == [[0.0, 0.0, 0.0]]
