"""What is drawn as negatives: from which distribution, how it is weighted, what it depends on."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from configs.errors import ConfigError
from models.negatives import Negatives, NegativeSampler

ITEMS = 20
COUNTS = torch.tensor([0, 5, 1, 0, 30, 4, 10, 0, 0, 2, 3, 3, 0, 0, 40, 1, 1, 0, 0, 0])
SOURCES = ["uniform", "popularity", "in_batch"]


def sampler(source: str, draws: int = 50) -> NegativeSampler:
    return NegativeSampler(source, draws, ITEMS, COUNTS)  # type: ignore[arg-type]


def targets(seed: int = 0, count: int = 80) -> Tensor:
    """Targets as often as they stand in the training data."""
    return 1 + torch.multinomial(COUNTS.double(), count, True, generator=torch.Generator().manual_seed(seed))


def frequencies(source: str, steps: int = 400) -> tuple[Tensor, Tensor]:
    """How often each item was drawn, and how often it was expected to be (where it was drawn), per step."""
    drawn, expected = torch.zeros(ITEMS), torch.zeros(ITEMS)
    for step in range(steps):
        got = sampler(source)(targets(step), step)
        drawn[got.items_K - 1] += got.counts_K
        expected[got.items_K - 1] = got.expected_K
    return drawn / steps, expected


@pytest.mark.parametrize("source", SOURCES)
def test_draws_follow_their_distribution(source: str) -> None:
    drawn, expected = frequencies(source)
    share = torch.full((ITEMS,), 1 / ITEMS) if source == "uniform" else COUNTS / COUNTS.sum()
    torch.testing.assert_close(drawn, 50 * share, rtol=0.15, atol=0.15)
    own = 79 / 80 if source == "in_batch" else 1.0  # a position's own target is not among the others'
    torch.testing.assert_close(expected, 50 * share.float() * own, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("source", SOURCES)
def test_negatives_are_distinct_ascending_items(source: str) -> None:
    got = sampler(source)(targets(), 3)
    assert got.items_K.diff().gt(0).all() and got.items_K.min() >= 1 and got.items_K.max() <= ITEMS
    assert float(got.counts_K.sum()) == 50


def same(a: Negatives, b: Negatives) -> bool:
    return torch.equal(a.items_K, b.items_K) and torch.equal(a.counts_K, b.counts_K)


@pytest.mark.parametrize("source", SOURCES)
def test_draws_are_a_function_of_the_seed(source: str) -> None:
    assert same(sampler(source)(targets(), 3), sampler(source)(targets(), 3))
    assert not same(sampler(source)(targets(), 3), sampler(source)(targets(), 4))


@pytest.mark.parametrize("source", SOURCES)
def test_the_order_of_the_targets_does_not_matter(source: str) -> None:
    assert same(sampler(source)(targets(), 3), sampler(source)(targets().flip(0), 3))


def test_in_batch_takes_every_target_when_there_are_few() -> None:
    got = sampler("in_batch", draws=500)(targets(count=10), 0)
    items, counts = targets(count=10).unique(return_counts=True)
    assert torch.equal(got.items_K, items) and got.counts_K.tolist() == counts.tolist()


def test_the_estimate_of_the_normaliser_is_unbiased() -> None:
    """E[Σ count / expected · e^s] = Σ_v e^s over all items, for the sources that can draw every item."""
    scores_V = torch.linspace(-1, 2, ITEMS)
    for source in ("uniform", "popularity"):
        known = torch.ones(ITEMS, dtype=torch.bool) if source == "uniform" else COUNTS > 0
        total = 0.0
        for step in range(2000):
            got = sampler(source)(targets(), step)
            total += float((got.counts_K / got.expected_K * scores_V[got.items_K - 1].exp()).sum())
        assert total / 2000 == pytest.approx(float(scores_V[known].exp().sum()), rel=0.02)


def test_without_positions_there_are_no_negatives_in_batch() -> None:
    assert len(sampler("in_batch")(torch.zeros(0, dtype=torch.long), 0).items_K) == 0


def test_sources_that_follow_counts_need_them() -> None:
    with pytest.raises(ConfigError, match="popularity.*uniform"):
        NegativeSampler("popularity", 5, ITEMS, None)


def test_nothing_of_the_sampler_is_saved() -> None:
    assert sampler("popularity").state_dict() == {}
