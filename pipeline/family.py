"""Which arms of a run are compared: it follows from the configuration alone, before any figure is seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def compared(arms: Sequence[str], control_for: Mapping[str, str | None]) -> list[tuple[str, str]]:
    """The tested family: every arm with a teacher against the plain one and against each of its controls.

    Args:
        arms: of the run, in order.
        control_for: arm → the arm that it is a control for; None: it has a teacher of its own.
    """
    teachers = [arm for arm in arms if arm != "plain" and control_for[arm] is None]
    return [(teacher, other) for teacher in teachers for other in arms
            if other == "plain" or control_for[other] == teacher]


def beside(arms: Sequence[str], control_for: Mapping[str, str | None]) -> list[tuple[str, str]]:
    """Pairs that are shown and not tested: controls against the plain arm."""
    return [(arm, "plain") for arm in arms if "plain" in arms and control_for[arm] is not None]
