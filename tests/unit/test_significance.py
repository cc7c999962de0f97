"""Permutation test and Holm's correction against scipy and arithmetic; which arms are compared."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from pipeline.family import beside, compared
from pipeline.report.significance import halves, holm, sign_flip_p


def test_few_users_are_tested_exactly() -> None:
    """Of 2^4 flips of (1, 2, 3, 4) two are as extreme as the sum 10."""
    assert sign_flip_p(np.array([1.0, 2, 3, 4]), 1000, 0) == pytest.approx(2 / 16)


def test_one_user_or_none_that_differs_is_no_evidence() -> None:
    assert sign_flip_p(np.array([0.5]), 1000, 0) == sign_flip_p(np.array([0.0, 0.5, 0.0]), 1000, 0) == 1.0


def test_it_is_scipys_permutation_test() -> None:
    """Exactly where all flips are made; users without a difference change nothing, ties count as extreme."""
    rng = np.random.default_rng(5)
    for values in (rng.normal(0.4, 1, 9), np.round(rng.normal(0.5, 1, 8), 1), np.append(rng.normal(size=7), [0.0] * 3)):
        theirs = stats.permutation_test((values,), lambda x, axis: x.mean(axis=axis), permutation_type="samples",
                                        vectorized=True, n_resamples=10_000)
        assert sign_flip_p(values, 1024, 0) == pytest.approx(theirs.pvalue)


def test_users_that_are_looked_at_in_turn_are_summed(monkeypatch: pytest.MonkeyPatch) -> None:
    few_N, many_N = np.random.default_rng(1).normal(0.5, 1, 8), np.random.default_rng(2).normal(0.02, 1, 3000)
    exact, drawn = sign_flip_p(few_N, 999, 0), sign_flip_p(many_N, 999, 0)
    monkeypatch.setattr("pipeline.report.significance._CELLS", 2000)  # 7 of the few users at a time, 2 of the many
    assert sign_flip_p(few_N, 999, 0) == exact
    assert sign_flip_p(many_N, 999, 0) == pytest.approx(drawn, abs=4 * (2 * drawn * (1 - drawn) / 999) ** 0.5)


def test_the_p_value_of_many_users_is_near_that_of_a_t_test() -> None:
    change_N = np.random.default_rng(3).normal(0.05, 1, 2000)
    p = stats.ttest_1samp(change_N, 0).pvalue
    assert sign_flip_p(change_N, 20_000, 1) == pytest.approx(p, abs=4 * (p * (1 - p) / 20_000) ** 0.5)


def test_p_is_uniform_where_nothing_differs() -> None:
    rng = np.random.default_rng(0)
    p = [sign_flip_p(rng.normal(size=60), 199, 1) for _ in range(200)]
    assert stats.kstest(p, "uniform").pvalue > 0.001


def test_no_difference_is_no_evidence_and_nan_free() -> None:
    assert sign_flip_p(np.zeros(50), 100, 0) == 1.0


def test_holm_by_hand() -> None:
    """Sorted .01 .02 .03 .04 times 4 3 2 1: .04 .06 .06 .04, made monotone."""
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_holm_equals_statsmodels() -> None:
    multitest = pytest.importorskip("statsmodels.stats.multitest", reason="statsmodels is not installed")
    p = np.random.default_rng(1).uniform(size=12) ** 3
    assert holm(list(p)) == pytest.approx(multitest.multipletests(p, method="holm")[1])


def test_the_family_is_each_teacher_against_plain_and_its_own_controls() -> None:
    control_for = {"plain": None, "distilled": None, "shuffled": "distilled", "matched": None, "ids": "matched"}
    arms = list(control_for)
    assert compared(arms, control_for) == [("distilled", "plain"), ("distilled", "shuffled"), ("matched", "plain"),
                                           ("matched", "ids")]
    assert beside(arms, control_for) == [("shuffled", "plain"), ("ids", "plain")]
    assert compared(["plain"], control_for) == [] and beside(["shuffled"], control_for) == []


def test_halves_of_the_seeds_are_compared_with_each_other() -> None:
    values_SN = np.arange(10.0).reshape(5, 2)
    assert np.array_equal(halves(values_SN), values_SN[:2] - values_SN[2:4])
    assert halves(values_SN[:1]) is None
