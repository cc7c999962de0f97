"""How a command ends that is told to stop."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, NoReturn

STOPPED: Final = {130: "interrupted", 143: "terminated"}
"""Exit code → what happened."""
AGAIN_S: Final = 0.05
"""Seconds until a signal that a destructor has swallowed is sent once more."""


class Terminated(BaseException):
    """SIGTERM has come; what was begun is left as after an interrupt."""


_SIGNALS: Final[dict[type[BaseException] | None, signal.Signals]] = {
    KeyboardInterrupt: signal.SIGINT, Terminated: signal.SIGTERM}


@contextmanager
def terminable() -> Iterator[None]:
    """SIGTERM unwinds the block, as Ctrl-C does, by :class:`Terminated`.

    Where either strikes in a destructor or a weak reference's callback, Python prints the exception and goes on as if
    nothing had come; the signal is then sent again instead.
    """
    main = threading.main_thread()
    if threading.current_thread() is not main:
        yield
        return

    def end(*_: Any) -> NoReturn:
        raise Terminated

    swallowed: list[type[BaseException]] = []

    def unraisable(lost: sys.UnraisableHookArgs) -> None:
        sent = _SIGNALS.get(lost.exc_type)
        if sent is None or lost.exc_type is None or main.ident is None:
            hook_before(lost)
            return
        swallowed.append(lost.exc_type)
        again = threading.Timer(AGAIN_S, _send, (swallowed, main.ident, sent))
        again.daemon = True
        again.start()

    hook_before, sys.unraisablehook = sys.unraisablehook, unraisable
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
        if swallowed:  # it was sent as the block ended
            raise swallowed.pop()
    finally:
        swallowed.clear()
        signal.signal(signal.SIGTERM, before)
        sys.unraisablehook = hook_before


def _send(swallowed: list[type[BaseException]], thread: int, sent: signal.Signals) -> None:
    """Unless the block has ended meanwhile, and with it the handler."""
    if swallowed:
        swallowed.pop()
        signal.pthread_kill(thread, sent)
