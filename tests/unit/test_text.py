"""Tables and shortened lines for the terminal."""

from __future__ import annotations

from pipeline.work.text import shorten, table


def test_columns_are_aligned_under_a_rule() -> None:
    assert table(("a", "long"), [("x", 1), ("yyy", 22)]).splitlines() == [
        "a    long", "───  ────", "x    1", "yyy  22"]


def test_a_table_without_rows_keeps_its_header() -> None:
    assert table(("a", "b"), []).splitlines() == ["a  b", "─  ─"]


def test_shortened_text_is_one_line_of_that_width() -> None:
    assert shorten("one\n two", 20) == "one two"
    assert shorten("abcdefgh", 5) == "abcd…"
