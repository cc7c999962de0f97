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
    assert intervals(values, 200, 0.95, 0) == [
        Interval(0.25, 0.25, 0.25, 1.0, 50, 0.0), Interval(-0.5, -0.5, -0.5, 0.0, 50, 0.0)]


def test_no_difference_is_not_above_zero() -> None:
    (found,) = intervals(np.zeros((1, 20, 1)), 100, 0.95, 0)
    assert (found, found.verdict) == (Interval(0.0, 0.0, 0.0, 0.0, 20, 1.0), "includes 0")


@pytest.mark.parametrize(("low", "high", "verdict"), [(0.1, 0.3, "above 0"), (-0.3, -0.1, "below 0"),
                                                      (-0.1, 0.1, "includes 0"), (0.0, 0.2, "includes 0")])
def test_verdict(low: float, high: float, verdict: str) -> None:
    assert Interval((low + high) / 2, low, high, 0.5, 10, 0.5).verdict == verdict


def test_a_few_users_get_no_verdict() -> None:
    """One user's interval has no width, and would always lie beside 0."""
    for users, verdict in ((1, "too few to tell"), (9, "too few to tell"), (10, "above 0")):
        (found,) = intervals(np.full((1, users, 1), 0.25), 100, 0.95, 0)
        assert (found.low, found.verdict) == (0.25, verdict)


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


@pytest.mark.parametrize("seeds", [1, 2, 5])
def test_interval_holds_the_true_mean_about_as_often_as_it_says(seeds: int) -> None:
    """Skewed user effects, and seed effects where there are several; the true mean is 0.1."""
    rng, trials, held = np.random.default_rng(11), 150, 0
    for trial in range(trials):
        users = rng.exponential(0.5, size=(1, 120, 1)) - 0.5
        noise = rng.normal(scale=0.3, size=(seeds, 120, 1))
        seed_effects = rng.normal(scale=0.05, size=(seeds, 1, 1)) if seeds > 1 else 0.0
        (found,) = intervals(0.1 + users + noise + seed_effects, 400, 0.95, trial)
        held += found.low <= 0.1 <= found.high
    assert 0.90 <= held / trials <= 0.99


@pytest.mark.parametrize("seeds", [2, 3])
@pytest.mark.parametrize("spread", [0.3, 10.0])
def test_seeds_that_differ_by_chance_rarely_lie_above_zero(seeds: int, spread: float) -> None:
    """The seeds' noise dominates, or the users' does; nothing differs. 2.5 % would be exact; draws of seeds gave 22 %
    with two, 13 % with three. Of 400 trials 5 % are at most 33 with probability 0.998."""
    rng, above = np.random.default_rng(seeds), 0
    for trial in range(400):
        values = rng.normal(size=(seeds, 30, 1)) + rng.normal(size=(1, 30, 1))
        (found,) = intervals(values + rng.normal(scale=spread, size=(seeds, 1, 1)), 200, 0.95, trial)
        above += found.low > 0
    assert above <= 33


def test_where_users_agree_it_is_the_t_interval_of_the_seeds() -> None:
    per_seed = np.random.default_rng(3).normal(size=3)
    (found,) = intervals(np.repeat(per_seed[:, None, None], 40, axis=1), 50_000, 0.95, 0)
    expected = stats.t.interval(0.95, 2, per_seed.mean(), stats.sem(per_seed))
    assert (found.low, found.high) == pytest.approx(expected, rel=0.03)


def test_with_one_seed_it_is_scipys_bootstrap_of_users() -> None:
    values_N = np.random.default_rng(5).exponential(size=300) - 0.8
    (found,) = intervals(values_N[None, :, None], 5000, 0.95, 0)
    theirs = stats.bootstrap((values_N,), np.mean, n_resamples=5000, method="percentile", batch=1000,
                             rng=np.random.default_rng(1)).confidence_interval
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high), abs=0.012)


def test_the_parts_of_users_and_seeds_add_up() -> None:
    """The variance of a resampled mean is that of the users' averages over N and that of the seeds' means over S."""
    rng = np.random.default_rng(6)
    values_SN = rng.normal(size=(4, 1)) + rng.normal(size=(1, 25)) + 0.3 * rng.normal(size=(4, 25))
    found = resampled_means(values_SN[:, :, None], 20_000, 0)[:, 0]
    expected = values_SN.mean(axis=0).var() / 25 + values_SN.mean(axis=1).var(ddof=1) / 4
    assert found.var() == pytest.approx(expected, rel=0.05)


def test_p_is_that_of_a_t_test_where_seeds_or_users_alone_matter() -> None:
    """One seed: users alone, many of them. Users that all agree: a t test of the seeds' means."""
    users_N = np.random.default_rng(3).normal(0.02, 1, 5000)
    (found,) = intervals(users_N[None, :, None], 100, 0.95, 0)
    assert found.p == pytest.approx(stats.ttest_1samp(users_N, 0).pvalue, rel=5e-3)
    seeds_S = np.array([0.1, 0.4, 0.2, 0.3])
    (found,) = intervals(np.tile(seeds_S[:, None, None], (1, 50, 1)), 100, 0.95, 0)
    assert found.p == pytest.approx(stats.ttest_1samp(seeds_S, 0).pvalue)


def test_users_of_a_cluster_are_drawn_whole() -> None:
    """Users that agree within their cluster are worth one each; clusters of one user are users."""
    rng = np.random.default_rng(7)
    of_cluster = rng.normal(0.1, 1, 60)
    cluster_N = np.repeat(np.arange(60), rng.integers(1, 9, 60))
    values = of_cluster[cluster_N][None, :, None]
    (alone,), (whole,) = (intervals(values, 4000, 0.95, 0, clusters) for clusters in (None, cluster_N))
    assert whole.units == 60 and whole.mean == pytest.approx(alone.mean)
    sizes = np.bincount(cluster_N)
    error = np.sqrt((((of_cluster - whole.mean) * sizes) ** 2).sum()) / sizes.sum()
    assert whole.high - whole.low == pytest.approx(2 * 1.96 * error, rel=0.15)
    assert whole.high - whole.low > 1.5 * (alone.high - alone.low)
    assert whole.p == pytest.approx(2 * stats.t.sf(abs(whole.mean) / error / np.sqrt(60 / 59), 59))
    single = intervals(values, 500, 0.95, 0, np.arange(len(cluster_N))[::-1])[0]
    assert (single.units, single.p) == (alone.units, pytest.approx(alone.p, rel=0.05))  # t of 300 units
    few = intervals(values, 200, 0.95, 0, cluster_N % 9)[0]
    assert few.verdict == "too few to tell"


def test_few_clusters_miss_the_truth_as_often_as_many() -> None:
    rng = np.random.default_rng(11)
    missed, drawn = 0, 300
    for _ in range(drawn):
        cluster_N = np.repeat(np.arange(12), rng.integers(5, 15, 12))
        values = rng.normal(size=12)[cluster_N][None, :, None]
        (found,) = intervals(values, 300, 0.95, 0, cluster_N)
        missed += not found.low <= 0 <= found.high
    assert 0.02 < missed / drawn < 0.085  # users alone would miss it in three of four
