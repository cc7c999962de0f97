"""What a person sees while a stage works: lines and bars on stderr, silenced by ``--quiet``."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")
_quiet = False


def set_quiet(quiet: bool) -> None:
    """Silence lines and bars of this process."""
    global _quiet
    _quiet = quiet


def is_quiet() -> bool:
    return _quiet


def say(message: str) -> None:
    """One line on stderr."""
    if not _quiet:
        print(message, file=sys.stderr, flush=True)


def track(items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
    """The items, with a progress bar."""
    from tqdm import tqdm

    yield from tqdm(items, desc=description, total=total, disable=_quiet, file=sys.stderr, mininterval=0.5,
                    dynamic_ncols=True)
