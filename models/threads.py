"""Independent parts of a computation at once, each on one of torch's threads.

Many small operations gain little from a second thread each; whole parts side by side gain nearly all of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

Part = TypeVar("Part")
Found = TypeVar("Found")


def on_threads(work: Callable[[Part], Found], parts: Sequence[Part]) -> list[Found]:
    """``work`` of each part, in order, as many at once as torch has threads in this one.

    What a thread sets for itself (``torch.inference_mode``) does not reach the others: ``work`` sets it. The first
    error is raised, after the parts that have begun.
    """
    threads = torch.get_num_threads()
    if min(threads, len(parts)) < 2:
        return [work(part) for part in parts]
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            return list(pool.map(work, parts))
    finally:
        torch.set_num_threads(threads)  # what a thread sets is also the default of MKL and of threads to come
