"""How much of a wish is waited for."""

from __future__ import annotations

from pipeline.work.nodes import lacks, reachable, total

ACTORS = [{"CPU": 0.5, "GPU": 1.0}] * 4 + [{"CPU": 1.0}]


def test_a_wish_is_the_sum_of_its_bundles() -> None:
    assert total(ACTORS) == {"CPU": 4 * 0.5 + 1, "GPU": 4.0}
    assert total([{"CPU": 1.0, "GPU": 0.0}]) == {"CPU": 1.0}


def test_nothing_is_waited_for_without_an_autoscaler() -> None:
    there = {"CPU": 2.0}
    assert not lacks(there, reachable(total(ACTORS), there, {}))


def test_what_the_autoscaler_may_bring_is_waited_for_and_no_more() -> None:
    there = {"CPU": 2.0}
    goal = reachable(total(ACTORS), there, {"CPU": 16, "GPU": 2})
    assert goal == {"CPU": 3.0, "GPU": 2.0}
    assert lacks(there, goal)
    assert lacks({"CPU": 16.0, "GPU": 1.0}, goal)
    assert not lacks({"CPU": 3.0, "GPU": 2.0}, goal)


def test_nodes_that_are_there_count_beside_those_of_the_autoscaler() -> None:
    """A node that was started by hand belongs to no group of the autoscaler."""
    assert reachable({"GPU": 4.0}, {"GPU": 4.0}, {"GPU": 2}) == {"GPU": 4.0}
