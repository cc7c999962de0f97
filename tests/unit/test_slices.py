"""Slices of test cases."""

from __future__ import annotations

import numpy as np

from pipeline.evaluate.slices import MAX_CATEGORIES, binned, by_category


def test_every_case_is_in_one_bin() -> None:
    found = dict(binned(np.array([0, 1, 4, 9]), (("0", 0), ("1-3", 1), ("4+", 4))))
    assert {label: mask.tolist() for label, mask in found.items()} == {
        "0": [True, False, False, False], "1-3": [False, True, False, False], "4+": [False, False, True, True]}


def test_categories_by_frequency_then_name_then_the_others_then_none() -> None:
    categories = [*(f"c{n:02d}" for n in range(MAX_CATEGORIES + 2)), None, ""]
    targets = np.array([2, 2, 1, *range(1, len(categories) + 1)])
    found = list(by_category(targets, categories))
    assert [label for label, _ in found] == [
        "c01", "c00", *(f"c{n:02d}" for n in range(2, MAX_CATEGORIES)), "other categories", "no category"]
    assert [int(mask.sum()) for _, mask in found[:3]] == [3, 2, 1]
    assert found[-2][1].sum() == 2 and targets[found[-1][1]].tolist() == [len(categories) - 1, len(categories)]
    assert (sum(mask.astype(int) for _, mask in found) == 1).all()


def test_items_without_any_category() -> None:
    assert [(label, int(mask.sum())) for label, mask in by_category(np.array([1, 2]), [None, None])] == [
        ("other categories", 0), ("no category", 2)]
