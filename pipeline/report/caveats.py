"""What a run's configuration says against its own comparisons."""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.config import RunConfig
from pipeline.members import shared


def caveats(config: RunConfig) -> Iterator[str]:
    """Sentences."""
    for found in shared(config):
        yield (f"Seeds {found.seeds[0]} and {found.seeds[1]} of {found.arm} both learn from {found.member} with seed "
               f"{found.seed}: they agree more than chance does, so intervals over its seeds are too narrow (members' "
               "seeds further apart than the run's mend that: seed: 1000).")
    for arm in config.arms:
        teacher = config.control_for(arm)
        if teacher is not None and teacher not in config.arms:
            yield f"{arm} is a control for {teacher}, which is none of the arms: it is listed, not tested."
