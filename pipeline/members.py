"""What is trained behind an arm: itself and all members of its ensemble. Torch- and Ray-free."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pipeline.config import RunConfig


@dataclass(frozen=True)
class Shared:
    """One training behind two seeds of an arm."""

    arm: str
    seeds: tuple[int, int]
    member: str
    seed: int
    """The member's own."""


def trainings(config: RunConfig, arm: str, seed: int = 0) -> dict[tuple[str, int], int]:
    """(arm, seed) → epochs at most, of an arm and of all members behind it; each once."""
    found = {(arm, seed): config.for_arm(arm).train.epochs}
    for member in config.members(arm):
        found |= trainings(config, member.arm, seed + member.seed)
    return found


def shared(config: RunConfig) -> Iterator[Shared]:
    """The first training of each arm that two of the run's seeds share: such seeds agree more than chance does, and
    intervals over them are too narrow."""
    for arm in config.arms:
        seen: dict[tuple[str, int], int] = {}
        found = (Shared(arm, (seen[training], seed), *training) for seed in config.seeds
                 for training in trainings(config, arm, seed) if seen.setdefault(training, seed) != seed)
        yield from list(found)[:1]
