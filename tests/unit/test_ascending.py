"""Membership in ascending arrays is numpy's, and what was met is met whatever the parts."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.work.ascending import Met, held, places


@pytest.mark.parametrize(("known", "values"), [
    ([], [1, 2]), ([3], []), ([3, 5, 9], [9, 4, 3, 10, -1, 5, 5]), ([0, 2**63 + 1, 2**64 - 1], [2**64 - 1, 2**63, 0])])
def test_as_numpy_finds_them(known: list[int], values: list[int]) -> None:
    dtype = np.uint64 if max(known, default=0) > 2**62 else np.int64
    known_K, values_N = np.array(known, dtype), np.array(values, dtype)
    found = places(known_K, values_N)
    assert held(known_K, values_N).tolist() == np.isin(values_N, known_K).tolist() == (found >= 0).tolist()
    assert known_K[found[found >= 0]].tolist() == [value for value in values if value in known]


def test_places_keep_the_shape_of_what_is_looked_up() -> None:
    assert places(np.array([2, 4]), np.array([[4, 3], [2, 2]])).tolist() == [[1, -1], [0, 0]]
    assert places(np.array([], np.int64), np.array([[4], [3]])).tolist() == [[-1], [-1]]


def test_the_first_of_each_value_is_new_whatever_the_parts() -> None:
    rng = np.random.default_rng(0)
    met, seen = Met(np.uint64), set()
    for _ in range(200):
        part = rng.integers(0, 3000, rng.integers(0, 90)).astype(np.uint64)
        expected = []
        for place, value in enumerate(part.tolist()):
            if value not in seen:
                seen.add(value)
                expected.append(place)
        assert met.new(part).tolist() == expected
        assert len(met) == len(seen)
    lengths = [len(run) for run in met._runs]
    assert all(before >= 2 * after for before, after in zip(lengths, lengths[1:], strict=False))
