"""Batches for the device. A GPU gets them from a thread that works ahead, through pinned memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import torch

from models.sequences import Batch

AHEAD = 2
"""Batches that are ready before a GPU asks for them."""


def feed(make: Callable[[int], Batch], count: int, device: torch.device) -> Iterator[Batch]:
    """Batches 0…count-1 on the device, in order. On a CPU each is made when it is asked for: no core is idle there."""
    if device.type == "cpu":
        yield from map(make, range(count))
        return
    for batch in in_advance(lambda place: make(place).pin_memory(), count, AHEAD):
        yield batch.to(device, non_blocking=True)


def in_advance(make: Callable[[int], Batch], count: int, ahead: int) -> Iterator[Batch]:
    """The same batches in the same order, made in one thread up to ``ahead`` before they are asked for."""
    with ThreadPoolExecutor(1) as pool:
        waiting: deque[Future[Batch]] = deque()
        try:
            for place in range(count):
                waiting.append(pool.submit(make, place))
                if len(waiting) > ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
