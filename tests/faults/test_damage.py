"""Damage of any kind ends in one line or in rows that add up."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings

from tests.damage import Case, cases, outcome


@settings(max_examples=1000, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(cases())
def test_every_damaged_file_is_refused_in_one_line_or_read_without_losing_a_row(case: Case) -> None:
    outcome(case)
