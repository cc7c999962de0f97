"""Bootstrap intervals against hand-made cases, and how often they hold the truth."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from pipeline.report.statistics import Interval, intervals, mean_and_deviation, resampled_means


def test_mean_and_deviation_over_seeds() -> None:
    mean, deviation = mean_and_deviation([0.1, 0.2, 0.6])
    assert mean == pytest.approx((0.1 + 0.2 + 0.6) / 3)
    assert deviation == pytest.approx((((0.1 - 0.3) ** 2 + (0.2 - 0.3) ** 2 + (0.6 - 0.3) ** 2) / 2) ** 0.5)
    assert mean_and_deviation([0.4]) == (0.4, None)


def test_constant_differences_have_no_width() -> None:
    values = np.full((3, 50, 2), 0.25)
    values[..., 1] = -0.5
    assert intervals(values, 200, 0.95, 0) == [Interval(0.25, 0.25, 0.25, 1.0), Interval(-0.5, -0.5, -0.5, 0.0)]


def test_no_difference_is_not_above_zero() -> None:
    (found,) = intervals(np.zeros((1, 20, 1)), 100, 0.95, 0)
    assert (found, found.verdict) == (Interval(0.0, 0.0, 0.0, 0.0), "includes 0")


@pytest.mark.parametrize(("low", "high", "verdict"), [(0.1, 0.3, "above 0"), (-0.3, -0.1, "below 0"),
                                                      (-0.1, 0.1, "includes 0"), (0.0, 0.2, "includes 0")])
def test_verdict(low: float, high: float, verdict: str) -> None:
    assert Interval((low + high) / 2, low, high, 0.5).verdict == verdict


def test_two_users_are_drawn_as_by_hand() -> None:
    means = resampled_means(np.array([[[0.0], [1.0]]]), 20_000, 3)[:, 0]
    values, counts = np.unique(means, return_counts=True)
    assert values.tolist() == [0.0, 0.5, 1.0]
    assert counts / 20_000 == pytest.approx([1 / 4, 1 / 2, 1 / 4], abs=0.02)


def test_spread_over_users_is_the_standard_error() -> None:
    values = np.random.default_rng(0).normal(size=(1, 400, 1))
    expected = values.std() / 400**0.5
    assert resampled_means(values, 4000, 1).std() == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("seeds", [2, 3, 6])
def test_spread_over_seeds_is_the_standard_error_also_for_few_seeds(seeds: int) -> None:
    per_seed = np.random.default_rng(seeds).normal(size=seeds)
    values = np.repeat(per_seed[:, None, None], 10, axis=1)  # users agree: all variance is the seeds'
    expected = per_seed.std(ddof=1) / seeds**0.5
    assert resampled_means(values, 20_000, 1).std() == pytest.approx(expected, rel=0.03)


def test_quantities_share_resamples_and_the_seed_decides_them() -> None:
    values = np.random.default_rng(4).normal(size=(2, 30, 1))
    both = resampled_means(np.concatenate([values, 3.0 * values], axis=2), 50, 9)
    assert both[:, 1] == pytest.approx(3.0 * both[:, 0], rel=1e-5, abs=1e-6)
    again = resampled_means(values, 50, 9)
    assert again[:, 0] == pytest.approx(both[:, 0], abs=1e-7)
    assert not np.allclose(resampled_means(values, 50, 10), again)


def test_chunks_do_not_change_the_number_of_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.report.statistics._CHUNK_CELLS", 70)
    assert resampled_means(np.random.default_rng(0).normal(size=(2, 30, 3)), 11, 0).shape == (11, 3)


@pytest.mark.parametrize(("seeds", "least"), [(1, 0.90), (5, 0.84)])
def test_interval_holds_the_true_mean_about_as_often_as_it_says(seeds: int, least: float) -> None:
    """Skewed user effects, and seed effects where there are several; the true mean is 0.1.

    Percentiles of few seeds are known to be a little narrow: five seeds hold about 0.9.
    """
    rng, trials, held = np.random.default_rng(11), 150, 0
    for trial in range(trials):
        users = rng.exponential(0.5, size=(1, 120, 1)) - 0.5
        noise = rng.normal(scale=0.3, size=(seeds, 120, 1))
        seed_effects = rng.normal(scale=0.05, size=(seeds, 1, 1)) if seeds > 1 else 0.0
        (found,) = intervals(0.1 + users + noise + seed_effects, 400, 0.95, trial)
        held += found.low <= 0.1 <= found.high
    assert least <= held / trials <= 0.99


def test_with_one_seed_it_is_scipys_bootstrap_of_users() -> None:
    values_N = np.random.default_rng(5).exponential(size=300) - 0.8
    (found,) = intervals(values_N[None, :, None], 5000, 0.95, 0)
    theirs = stats.bootstrap((values_N,), np.mean, n_resamples=5000, method="percentile", batch=1000,
                             rng=np.random.default_rng(1)).confidence_interval
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high), abs=0.012)


def test_users_and_seeds_are_drawn_as_by_a_plain_loop() -> None:
    """Users are crossed with seeds: a drawn user brings its value under every drawn seed."""
    rng = np.random.default_rng(6)
    values_SN = rng.normal(size=(4, 1)) + rng.normal(size=(1, 25)) + 0.3 * rng.normal(size=(4, 25))
    found = resampled_means(values_SN[:, :, None], 2000, 0)[:, 0]
    by_hand = [values_SN[np.ix_(rng.integers(0, 4, 3), rng.integers(0, 25, 25))].mean() for _ in range(2000)]
    assert stats.ks_2samp(found, by_hand).pvalue > 0.001
    assert found.std() > 1.5 * resampled_means(values_SN.mean(0)[None, :, None], 2000, 0).std()  # of users alone
