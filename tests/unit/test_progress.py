"""What a person sees of work that takes its time."""

from __future__ import annotations

import io
import re
import sys
import threading
from collections.abc import Iterator

import pytest

from pipeline.work import progress
from pipeline.work.progress import Progress, duration, say, set_quiet, speed, took, track, waiting


class Clock:
    """Time that moves when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def loud() -> Iterator[None]:
    set_quiet(False)
    yield
    set_quiet(False)


def shown(total: int, seconds_each: float, done: int = 0, start_s: float = 0.0) -> Clock:
    """The clock after ``total`` things, one after the other."""
    clock = Clock()
    with Progress("encode", total, "texts", done, clock) as bar:
        clock.now = start_s
        for number in range(done + 1, total + 1):
            clock.now += seconds_each
            bar.update(number)
    return clock


def test_a_file_gets_a_line_per_tenth(capsys: pytest.CaptureFixture[str]) -> None:
    shown(200, 1.0)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[1] for line in lines] == [f"{tenth}0" for tenth in range(1, 10)]
    assert lines[0] == "encode: 10 % (20 of 200 texts), 1.0 texts/s, about 3 min 0 s left"
    assert lines[-1] == "encode: 90 % (180 of 200 texts), 1.0 texts/s, about 20 s left"


def test_short_work_tells_nothing_on_its_way(capsys: pytest.CaptureFixture[str]) -> None:
    shown(1000, 0.009)
    assert capsys.readouterr().err == ""


def test_speed_counts_neither_what_was_done_before_nor_the_start(capsys: pytest.CaptureFixture[str]) -> None:
    shown(100, 1.0, done=50, start_s=60.0)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [f"encode: {done} % ({done} of 100 texts), 1.0 texts/s, about {left} left"
                     for done, left in ((60, "40 s"), (70, "30 s"), (80, "20 s"), (90, "10 s"))]


def test_a_first_block_after_a_long_start_has_a_speed(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    bar = Progress("encode", 4, "texts", clock=clock)
    clock.now = 100.0
    bar.update(1)
    assert capsys.readouterr().err == "encode: 25 % (1 of 4 texts), 1 min 40 s per text, about 5 min 0 s left\n"


def test_a_note_stands_at_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    bar = Progress("train", 10, "epochs", clock=clock)
    clock.now = 25.0
    bar.update(5, "loss 1.5000")
    assert capsys.readouterr().err == "train: 50 % (5 of 10 epochs), 5.0 s per epoch, about 25 s left; loss 1.5000\n"


def test_nothing_to_do_and_more_than_all(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    bar = Progress("empty", 0, "users", clock=clock)
    clock.now = 60.0
    bar.update(0)
    bar.update(7)
    assert capsys.readouterr().err == ""


def test_quiet_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    set_quiet(True)
    shown(200, 1.0)
    say("a line")
    assert list(track([1, 2], "x", "items")) == [1, 2]
    assert capsys.readouterr().err == ""


def test_a_terminal_shows_a_bar_that_goes_away(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    shown(3, 1.0)
    assert "encode:" in terminal.getvalue() and "/3" in terminal.getvalue()
    assert "\n" not in terminal.getvalue()


def test_items_of_different_size(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_FIRST_LINE_S", 0.0)
    assert list(track(["ab", "c", ""], "letters", "letters", 3, len)) == ["ab", "c", ""]
    assert capsys.readouterr().err.startswith("letters: 66 % (2 of 3 letters), ")


def test_work_of_unknown_length_says_how_long_it_takes_until_it_is_told_to_stop(
        capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_WAITING_S", 0.01)
    told, before = "", set(threading.enumerate())
    with waiting("reduce: searching") as known:
        [teller] = set(threading.enumerate()) - before
        while not told:
            told = capsys.readouterr().err
        known()
        teller.join(20)
        assert not teller.is_alive(), "nobody is there to say more"
    assert re.fullmatch(r"reduce: searching: \d+\.\d s so far", told.splitlines()[0])


def test_words() -> None:
    assert [duration(s) for s in (0.04, 9.96, 59.4, 59.7, 3599, 7500)] == [
        "0.0 s", "10.0 s", "59 s", "1 min 0 s", "59 min 59 s", "2 h 5 min"]
    assert took(1500, "texts", 12.0) == "1,500 texts in 12 s (125 texts/s)"
    assert speed(5, 2.0, "users") == "2.5 users/s"
    assert speed(2, 5.0, "epochs") == "2.5 s per epoch"
    assert speed(0, 5.0, "users") == "0.0 users/s"
