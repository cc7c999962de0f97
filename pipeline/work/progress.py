"""What a person sees while a stage works, on stderr: lines, and how far the work is. ``--quiet`` silences both."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Figures:
    """How far counted work is."""

    label: str
    unit: str
    done: int
    total: int
    per_second: float
    rates: Mapping[str, float] = field(default_factory=dict)
    """Other things per second, by name: ``prompt_tokens``."""


class Work(Protocol):
    """Something that takes a while; asked at any time and in any thread."""

    def line(self) -> str:
        """How far it is."""

    def figures(self) -> Figures | None:
        """The same as figures; None where nothing is counted."""


_FIRST_LINE_S = 10.0
"""Work that is done sooner tells nothing on its way."""
_BETWEEN_LINES_S = 5.0
_MEASURED_S = 2.0
"""Less time than this gives no speed."""
_WAITING_S = 30.0
_quiet = False
_open: list[Work] = []
"""What is being done, the newest last."""


def set_quiet(quiet: bool) -> None:
    """Silence lines and bars of this process."""
    global _quiet
    _quiet = quiet


def say(message: str) -> None:
    """One line on stderr; a bar that stands there moves down."""
    if not _quiet:
        complain(message)


def complain(message: str) -> None:
    """The same under ``--quiet`` too: of a failure that does not end the command."""
    if "tqdm" not in sys.modules:
        print(message, file=sys.stderr, flush=True)
        return
    from tqdm import tqdm

    with tqdm.external_write_mode(file=sys.stderr):
        print(message, file=sys.stderr, flush=True)


def opened(work: Work) -> None:
    """Work has begun."""
    _open.append(work)


def closed(work: Work) -> None:
    """It is over."""
    if work in _open:
        _open.remove(work)


def under_way() -> Work | None:
    """What this process began last, with ``--quiet`` too; None: nothing that is counted."""
    newest = _open[-1:]
    return newest[0] if newest else None


def news() -> str | None:
    """The line of what is under way."""
    work = under_way()
    return None if work is None else work.line()


class Progress:
    """How far a piece of work is: a bar on a terminal; elsewhere at most a line per 10 %, from the tenth second on.

    Both tell the speed and the time that is left. Use it as a context, or :meth:`close` it.
    """

    def __init__(self, label: str, total: int, unit: str, done: int = 0,
                 clock: Callable[[], float] = time.monotonic) -> None:
        """
        Args:
            total: things to do.
            unit: their name in the plural: ``users``, ``texts``, ``epochs``.
            done: those that an earlier call has done; no part of the speed.
        """
        self._label, self._total, self._unit = label, total, unit
        self._before, self._clock, self._started = done, clock, clock()
        self._silent_until = self._started + _FIRST_LINE_S
        self._first: tuple[int, float] | None = None
        self._done, self._note = done, ""
        self._tenth = self._tenth_of(done)
        self._bar: Any = None
        if not _quiet and sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(desc=label, total=total, initial=done, unit=f" {unit}", file=sys.stderr, mininterval=0.5,
                             dynamic_ncols=True, leave=False)
        opened(self)

    def update(self, done: int, note: str = "") -> None:
        """So many are done, all in all; ``note`` is shown with them."""
        self._done, self._note, now = done, note, self._clock()
        if self._first is None and done > self._before:
            self._first = done, now
        if self._bar is not None:
            self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(done - self._bar.n)
            return
        if _quiet or now < self._silent_until or not self._tenth < self._tenth_of(done) < 10:
            return
        self._tenth, self._silent_until = self._tenth_of(done), now + _BETWEEN_LINES_S
        say(self.line())

    def line(self) -> str:
        """How far it is: ``encode: 40 % (800 of 2,000 texts), 125 texts/s, about 9.6 s left``."""
        done = self._done
        count, seconds = self._measured(done, self._clock())
        said = f"{self._label}: {100 * done // max(self._total, 1)} % ({done:,} of {self._total:,} {self._unit})"
        if count > 0:
            left = duration((self._total - done) * seconds / count)
            said += f", {speed(count, seconds, self._unit)}, about {left} left"
        return f"{said}; {self._note}" if self._note else said

    def figures(self) -> Figures:
        """How far it is."""
        count, seconds = self._measured(self._done, self._clock())
        return Figures(self._label, self._unit, self._done, self._total, max(count, 0) / max(seconds, 1e-9))

    def begin_at(self, done: int) -> None:
        """So many were done before: no part of the speed."""
        self._before, self._done, self._tenth = done, done, self._tenth_of(done)
        if self._bar is not None:
            self._bar.initial = self._bar.n = done

    def close(self) -> None:
        """Remove the bar."""
        closed(self)
        if self._bar is not None:
            self._bar.close()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
                 ) -> None:
        self.close()

    def _measured(self, done: int, now: float) -> tuple[int, float]:
        """Things and the seconds they took; without the start (models are loaded, code is compiled) once that is known.
        """
        first, since = self._first or (done, now)
        if done > first and now - since >= _MEASURED_S:
            return done - first, now - since
        return done - self._before, now - self._started

    def _tenth_of(self, done: int) -> int:
        return 10 * done // max(self._total, 1)


def track(items: Iterable[T], label: str, unit: str, total: int | None = None,
          size: Callable[[T], int] = lambda _: 1) -> Iterator[T]:
    """The items, with their :class:`Progress`; one counts as done when the next is asked for.

    Args:
        total: things in all items; None: the items are counted.
        size: things in an item.
    """
    if total is None:
        assert isinstance(items, Sized)
        total = len(items)
    done = 0
    with Progress(label, total, unit) as progress:
        for item in items:
            yield item
            done += size(item)
            progress.update(done)


class _Uncounted:
    """Work whose length nobody knows."""

    def __init__(self, label: str) -> None:
        self._label, self._started = label, time.monotonic()

    def line(self) -> str:
        return f"{self._label}: {duration(time.monotonic() - self._started)} so far"

    def figures(self) -> None:
        return None


@contextmanager
def waiting(label: str) -> Iterator[Callable[[], None]]:
    """A line each half minute of work whose length nobody knows: ``reduce: searching neighbours: 30 s so far``.

    What is yielded ends the lines before the work ends.
    """
    work, over = _Uncounted(label), threading.Event()

    def tell() -> None:
        while not over.wait(_WAITING_S):
            say(work.line())

    thread = threading.Thread(target=tell, daemon=True)
    thread.start()
    opened(work)
    try:
        yield over.set
    finally:
        closed(work)
        over.set()
        thread.join()


def took(done: int, unit: str, seconds: float) -> str:
    """``1,500 texts in 12.0 s (125 texts/s)``."""
    return f"{done:,} {unit} in {duration(seconds)} ({speed(done, seconds, unit)})"


def speed(done: int, seconds: float, unit: str) -> str:
    """``125 texts/s``, or ``2.5 s per text`` of slow work."""
    rate = done / max(seconds, 1e-9)
    if rate >= 1 or not done:
        return f"{rate:,.{0 if rate >= 10 else 1}f} {unit}/s"
    return f"{duration(1 / rate)} per {unit.removesuffix('s')}"


def duration(seconds: float) -> str:
    """``4.2 s``, ``47 s``, ``3 min 5 s``, ``2 h 5 min``."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600:,} h {whole % 3600 // 60} min"
