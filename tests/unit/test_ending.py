"""A command that is told to stop ends, wherever the signal strikes."""

from __future__ import annotations

import gc
import signal
import sys
import time
import weakref
from collections.abc import Iterator

import pytest

from pipeline.commands.ending import Terminated, terminable

SIGNALS = [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Terminated)]


@pytest.fixture(autouse=True)
def _interruptible() -> Iterator[None]:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored, where a shell began us behind it
    yield
    signal.signal(signal.SIGINT, before)


class StruckInDestructor:
    """Its destructor is where the signal comes."""

    def __init__(self, sent: signal.Signals) -> None:
        self.sent = sent

    def __del__(self) -> None:
        signal.raise_signal(self.sent)


@pytest.mark.parametrize(("sent", "raised"), SIGNALS)
def test_a_signal_unwinds_the_block(sent: signal.Signals, raised: type[BaseException]) -> None:
    before = signal.getsignal(signal.SIGTERM), sys.unraisablehook
    with pytest.raises(raised), terminable():
        signal.raise_signal(sent)
    assert (signal.getsignal(signal.SIGTERM), sys.unraisablehook) == before


@pytest.mark.parametrize(("sent", "raised"), SIGNALS)
def test_a_signal_in_a_destructor_comes_again(sent: signal.Signals, raised: type[BaseException],
                                              capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(raised), terminable():
        StruckInDestructor(sent)
        time.sleep(20)  # where the main thread waits in the kernel, it is woken
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(("sent", "raised"), SIGNALS)
def test_a_signal_in_a_callback_of_the_collector_comes_again(sent: signal.Signals, raised: type[BaseException]) -> None:
    class Kept:
        pass

    kept = Kept()
    reference = weakref.ref(kept, lambda _: signal.raise_signal(sent))
    with pytest.raises(raised), terminable():
        del kept
        gc.collect()
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:  # where it computes, too
            pass
    assert reference() is None


@pytest.mark.parametrize(("sent", "raised"), SIGNALS)
def test_a_signal_in_the_last_destructor_is_not_lost(sent: signal.Signals, raised: type[BaseException]) -> None:
    with pytest.raises(raised), terminable():
        StruckInDestructor(sent)
    time.sleep(0.2)  # nothing comes afterwards


def test_other_exceptions_of_destructors_are_told_as_before() -> None:
    told: list[object] = []
    before, sys.unraisablehook = sys.unraisablehook, lambda lost: told.append(lost.exc_type)
    try:
        with terminable():
            class Broken:
                def __del__(self) -> None:
                    raise ValueError
            Broken()
    finally:
        sys.unraisablehook = before
    assert told == [ValueError]
