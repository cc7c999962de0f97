"""What a person reads while requests are under way: how far, how fast, how long still, and what failed."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Sequence
from typing import Final

from pipeline.work.progress import Figures, closed, duration, opened, say

_FIRST_LINE_S: Final = 15.0
_LONGEST_PAUSE_S: Final = 300.0
_PAUSE_SHARE: Final = 0.1
"""The next line comes after this share of the time so far: a run of days prints no book."""
_SHOWN_ERRORS, _SHOWN_CHARS = 3, 80
_ENOUGH_ANSWERS = 20
"""Fewer say little about the speed."""


class AnswerProgress:
    """Counts answers and tells of them: at the first, then now and then, and also while none comes."""

    def __init__(self, label: str, total: int) -> None:
        """
        Args:
            total: requests that are to be answered.
        """
        self._label, self._total = label, total
        self._answered = self._failed = 0
        self._prompt_tokens = self._output_tokens = 0
        self._errors: Counter[str] = Counter()
        self._started = time.monotonic()
        self._asked: float | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._tell, daemon=True)

    def __enter__(self) -> AnswerProgress:
        self._thread.start()
        opened(self)
        return self

    def __exit__(self, *_: object) -> None:
        closed(self)
        self._over.set()
        self._thread.join()

    def add(self, answered: int, prompt_tokens: int, output_tokens: int, errors: Sequence[str],
            started_at: float | None) -> None:
        """A batch is saved.

        Args:
            started_at: the earliest that one of its answers was asked for, in seconds since 1970; None: no answers.
        """
        self._answered += answered
        self._failed += len(errors)
        self._prompt_tokens += prompt_tokens
        self._output_tokens += output_tokens
        self._errors.update(error[:_SHOWN_CHARS] for error in errors)
        if started_at is None:
            return
        now = time.monotonic()
        asked = max(self._started, now - max(0.0, time.time() - started_at))
        if self._asked is None:
            say(f"{self._label}: first answer after {now - self._started:.0f} s")
        self._asked = asked if self._asked is None else min(self._asked, asked)

    def line(self) -> str:
        """How far it is."""
        now = time.monotonic()
        if self._asked is None:
            return f"{self._label}: no answer yet after {duration(now - self._started)}{self._failures()}"
        done, rate = self._answered + self._failed, self._per_second(now)
        left = f", {duration((self._total - done) / rate)} to go" if rate else ""
        return (f"{self._label}: {self._answered:,} of {self._total:,} answered, {self._speed(now)}{left}"
                f"{self._failures()}")

    def figures(self) -> Figures:
        """How far it is."""
        now = time.monotonic()
        seconds = max(now - self._started, 1e-3)
        return Figures(self._label, "requests", self._answered + self._failed, self._total, self._per_second(now),
                       {"prompt_tokens": self._prompt_tokens / seconds, "output_tokens": self._output_tokens / seconds})

    def summary(self) -> str:
        """What became of it."""
        now = time.monotonic()
        return (f"{self._label}: {self._answered:,} answers in {now - self._started:.1f} s, {self._speed(now)}"
                f"{self._failures()}")

    @property
    def tokens_per_second(self) -> float | None:
        """Prompt and output tokens since the first answer was asked for, without the engine's start; None: too few
        answers to tell."""
        if self._asked is None or self._answered + self._failed < _ENOUGH_ANSWERS:
            return None
        return (self._prompt_tokens + self._output_tokens) / max(time.monotonic() - self._asked, 1e-3)

    def _per_second(self, now: float) -> float:
        """Requests that are done since the first answer was asked for."""
        return 0.0 if self._asked is None else (self._answered + self._failed) / max(now - self._asked, 1e-3)

    def _speed(self, now: float) -> str:
        """Since the start, the engine's own start included."""
        seconds = max(now - self._started, 1e-3)
        return (f"{self._prompt_tokens / seconds:,.0f} prompt and {self._output_tokens / seconds:,.0f} output "
                "tokens/s")

    def _failures(self) -> str:
        errors = Counter(dict(self._errors))  # another thread asks, while answers come in
        return f"; {self._failed:,} without an answer ({commonest(errors)})" if self._failed else ""

    def _tell(self) -> None:
        pause = _FIRST_LINE_S
        while not self._over.wait(pause):
            say(self.line())
            pause = min(max(_FIRST_LINE_S, _PAUSE_SHARE * (time.monotonic() - self._started)), _LONGEST_PAUSE_S)


def commonest(reasons: Counter[str], most: int = _SHOWN_ERRORS) -> str:
    """``reason: count, …``, the commonest first, and how many kinds more."""
    shown = [f"{reason}: {count:,}" for reason, count in reasons.most_common(most)]
    more = len(reasons) - len(shown)
    return ", ".join(shown) + (f", and {more:,} other reasons" if more > 0 else "")

