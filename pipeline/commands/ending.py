"""How a command ends that is told to stop."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, NoReturn

STOPPED: Final = {130: "interrupted", 143: "terminated"}
"""Exit code → what happened."""


class Terminated(BaseException):
    """SIGTERM has come; what was begun is left as after an interrupt."""


@contextmanager
def terminable() -> Iterator[None]:
    """SIGTERM unwinds the block, as Ctrl-C does, by :class:`Terminated`."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(*_: Any) -> NoReturn:
        raise Terminated

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
