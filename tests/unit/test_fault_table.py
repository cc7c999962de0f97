"""The table of faults: its tests exist, and a test that failed, or did not run, fails its row."""

from __future__ import annotations

import ast
from functools import cache

import pytest

from tests.faults.rows import ROWS, Row
from tests.faults.table import merged, outcome, outcomes, page
from tests.tools import ROOT


@cache
def functions(file: str) -> set[str]:
    tree = ast.parse((ROOT / "tests" / file).read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.fault)
def test_a_row_names_tests_that_exist_or_says_why_there_is_none(row: Row) -> None:
    assert bool(row.tests) != bool(row.not_tried)
    for test in row.tests:
        file, _, name = test.partition("::")
        assert name in functions(file), test


def test_each_fault_stands_once() -> None:
    assert len({row.fault for row in ROWS}) == len(ROWS)


REPORT = b"""<testsuites><testsuite>
<testcase classname="tests.unit.test_a" name="test_x[1]"/>
<testcase classname="tests.unit.test_a" name="test_x[2]"><failure/></testcase>
<testcase classname="tests.unit.test_a" name="test_y"/>
<testcase classname="tests.unit.test_a" name="test_z"><skipped/></testcase>
</testsuite></testsuites>"""


@pytest.mark.parametrize(("tests", "was"), [
    (("test_x",), "failed"), (("test_y",), "passed"), (("test_z",), "skipped"), (("test_y", "test_z"), "skipped"),
    (("test_y", "test_gone"), "failed"), ((), "not tried")])
def test_a_row_is_as_good_as_its_worst_case(tests: tuple[str, ...], was: str) -> None:
    found = outcomes(REPORT)
    assert outcome(Row("f", "m", tuple(f"unit/test_a.py::{test}" for test in tests)), found) == was


def test_rows_that_ran_again_take_the_place_of_what_was_recorded() -> None:
    first, second, *_ = ROWS
    row = {"must": "m", "tests": ["unit/test_a.py::test_x"], "not_tried": "", "outcome": "passed", "commit": "new"}
    earlier = {"provenance": {"commit": "old"}, "minutes": 9.5, "rows": [
        {**row, "fault": first.fault, "outcome": "failed", "commit": "older"},
        {key: value for key, value in row.items() if key != "commit"} | {"fault": second.fault},
        {**row, "fault": "no longer a row"}]}
    figures = merged(earlier, {first.fault: {**row, "fault": first.fault}}, 0.5)
    assert [(each["fault"], each["outcome"], each["commit"]) for each in figures["rows"]] == [
        (first.fault, "passed", "new"), (second.fault, "passed", "old")]
    assert "9.5 minutes" in page(figures) and "`old`" in page(figures)
    assert merged(None, {first.fault: row}, 0.5) == {"rows": [row], "minutes": 0.5}
