"""Batches made ahead of their use are those made on demand, in the same order."""

from __future__ import annotations

import threading

import pytest
import torch

from models.sequences import Batch
from pipeline.train.feed import feed, in_advance


def make(place: int) -> Batch:
    return Batch(torch.tensor([place]), torch.full((1, 2), place))


def test_a_cpu_gets_each_batch_on_demand() -> None:
    asked: list[int] = []

    def note(place: int) -> Batch:
        asked.append(place)
        return make(place)

    batches = feed(note, 3, torch.device("cpu"))
    assert int(next(batches).users_B) == 0 and asked == [0]
    assert [int(batch.users_B) for batch in batches] == [1, 2]


@pytest.mark.parametrize("ahead", [1, 2, 50])
def test_batches_in_advance_keep_their_order(ahead: int) -> None:
    assert [int(batch.users_B) for batch in in_advance(make, 20, ahead)] == list(range(20))


def test_the_next_batches_are_made_while_one_is_in_use() -> None:
    made = [threading.Event() for _ in range(5)]

    def note(place: int) -> Batch:
        made[place].set()
        return make(place)

    batches = in_advance(note, 5, 2)
    next(batches)
    assert made[1].wait(10) and made[2].wait(10)
    assert not made[4].is_set()
    batches.close()


def test_an_error_reaches_the_loop() -> None:
    def fail(place: int) -> Batch:
        if place == 2:
            raise ValueError("place 2")
        return make(place)

    batches = in_advance(fail, 5, 1)
    assert [int(next(batches).users_B) for _ in range(2)] == [0, 1]
    with pytest.raises(ValueError, match="place 2"):
        next(batches)
