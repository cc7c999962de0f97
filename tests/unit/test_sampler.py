"""Batch order: every row once, the same for any number of workers, little padding."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.train.config import TrainConfig
from pipeline.train.sampler import Sampler

LENGTHS = np.random.default_rng(0).integers(1, 51, 1003)


@settings(max_examples=60, deadline=None)
@given(rows=st.integers(1, 300), batch_size=st.integers(1, 64), world_size=st.integers(1, 5), epoch=st.integers(0, 9))
def test_every_row_once_whatever_the_number_of_workers(rows: int, batch_size: int, world_size: int, epoch: int) -> None:
    sampler = Sampler(LENGTHS[:rows], batch_size, seed=3)
    order = sampler.epoch(epoch)
    assert len(order) == len(sampler) == -(-rows // batch_size)
    seen = [order.part(step, rank, world_size) for step in range(len(order)) for rank in range(world_size)]
    assert sorted(np.concatenate(seen).tolist()) == list(range(rows))
    for step in range(len(order)):
        parts = [order.part(step, rank, world_size) for rank in range(world_size)]
        assert max(map(len, parts)) - min(map(len, parts)) <= 1
        assert set(np.concatenate(parts)) == set(order.batch(step))


def test_only_the_last_batch_is_smaller() -> None:
    order = Sampler(LENGTHS, 64, seed=0).epoch(0)
    assert [len(order.batch(step)) for step in range(len(order))] == [64] * (1003 // 64) + [1003 % 64]


def test_a_rank_may_have_no_row() -> None:
    order = Sampler(np.array([4, 5, 6]), 2, seed=0).epoch(0)
    assert len(order.part(1, 0, 2)) == 1
    assert len(order.part(1, 1, 2)) == 0


def test_order_is_a_function_of_seed_and_epoch() -> None:
    first = Sampler(LENGTHS, 32, seed=7).epoch(2).rows_N
    assert np.array_equal(first, Sampler(LENGTHS, 32, seed=7).epoch(2).rows_N)
    assert not np.array_equal(first, Sampler(LENGTHS, 32, seed=7).epoch(3).rows_N)
    assert not np.array_equal(first, Sampler(LENGTHS, 32, seed=8).epoch(2).rows_N)


def test_any_step_can_be_asked_for_at_once() -> None:
    sampler = Sampler(LENGTHS, 32, seed=7)
    walked = [sampler.epoch(4).batch(step) for step in range(len(sampler))]
    assert np.array_equal(sampler.epoch(4).batch(20), walked[20])


def test_batches_are_random_samples_sorted_by_length() -> None:
    lengths = np.random.default_rng(1).integers(1, 51, 3200)
    order = Sampler(lengths, 16, seed=0).epoch(0)
    batches = [lengths[order.batch(step)] for step in range(len(order))]
    assert all((np.diff(batch) >= 0).all() for batch in batches)
    # The mean of 16 random lengths spreads four times less than the lengths themselves.
    assert np.std([batch.mean() for batch in batches]) == pytest.approx(lengths.std() / 4, rel=0.2)


def test_two_workers_get_the_same_mix_of_lengths() -> None:
    lengths = np.random.default_rng(1).integers(1, 51, 640)
    order = Sampler(lengths, 64, seed=0).epoch(0)
    for step in range(len(order)):
        one, two = (int(lengths[order.part(step, rank, 2)].sum()) for rank in (0, 1))
        assert 0 <= two - one <= 50


def test_rows_that_fill_no_batch_are_not_chosen_by_length() -> None:
    lengths = np.arange(1, 18)
    rests = [int(lengths[Sampler(lengths, 16, seed=0).epoch(epoch).batch(1)][0]) for epoch in range(40)]
    assert len(set(rests)) > 8


@pytest.mark.parametrize("batch_size", [16, 1000])
def test_a_batch_may_be_larger_than_the_data(batch_size: int) -> None:
    order = Sampler(LENGTHS[:10], batch_size, seed=0).epoch(0)
    assert len(order) == 1
    assert sorted(order.batch(0).tolist()) == list(range(10))


@settings(max_examples=60, deadline=None)
@given(rows=st.integers(1, 300), tokens=st.integers(1, 700), most=st.integers(1, 64), epoch=st.integers(0, 9))
def test_a_token_budget_bounds_every_batch(rows: int, tokens: int, most: int, epoch: int) -> None:
    sampler = Sampler(LENGTHS[:rows], most, seed=3, batch_tokens=tokens)
    order = sampler.epoch(epoch)
    assert len(order) == len(sampler) == len(sampler.epoch(epoch + 1))
    batches = [order.batch(step) for step in range(len(order))]
    assert sorted(np.concatenate(batches).tolist()) == list(range(rows))
    for batch in batches:
        lengths = LENGTHS[batch]
        assert (np.diff(lengths) >= 0).all()
        assert len(batch) == 1 or (len(batch) <= most and len(batch) * lengths.max() <= tokens)


def test_a_token_budget_is_used_and_its_batches_are_shuffled() -> None:
    sampler = Sampler(LENGTHS, 10**6, seed=3, batch_tokens=1000)
    first, second = sampler.epoch(0), sampler.epoch(1)
    used = [len(first.batch(s)) * LENGTHS[first.batch(s)].max() for s in range(len(first))]
    assert np.mean(used) > 900
    longest = [int(LENGTHS[first.batch(s)].max()) for s in range(len(first))]
    assert longest != sorted(longest)
    assert {tuple(first.batch(s)) for s in range(len(first))} != {tuple(second.batch(s)) for s in range(len(second))}


@pytest.mark.parametrize(("users", "expected"), [
    (0, 16), (1, 16), (610, 16), (1_000, 32), (5_000, 128), (8_074, 256), (22_363, 512), (616_000, 512)])
def test_a_batch_whose_size_is_not_set_is_a_fortieth_of_the_users(users: int, expected: int) -> None:
    assert TrainConfig().users_per_batch(users) == expected
    assert TrainConfig(batch_size=7).users_per_batch(users) == 7
