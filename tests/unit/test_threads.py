"""Parts of a computation on threads of torch's."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch

from models.threads import on_threads


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_parts_are_worked_on_at_once_each_with_one_thread() -> None:
    together = threading.Barrier(2, timeout=60)

    def work(part: int) -> tuple[int, int]:
        together.wait()
        return part, torch.get_num_threads()

    assert on_threads(work, [3, 1, 4, 1]) == [(3, 1), (1, 1), (4, 1), (1, 1)]
    assert torch.get_num_threads() == 2


def test_one_part_keeps_all_threads() -> None:
    assert on_threads(lambda part: (part, torch.get_num_threads()), ["whole"]) == [("whole", 2)]


def test_an_error_of_a_part_is_raised_and_the_threads_come_back() -> None:
    def work(part: int) -> float:
        return 1 / part

    with pytest.raises(ZeroDivisionError):
        on_threads(work, [2, 0, 1])
    assert torch.get_num_threads() == 2
