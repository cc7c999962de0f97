"""What a run's configuration says against its own comparisons."""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.config import RunConfig
from pipeline.members import shared


def caveats(config: RunConfig) -> Iterator[str]:
    """Sentences."""
    cold = config.prepare.cold_start
    if cold is not None:
        yield (f"Test targets were made cold (prepare.cold_start, share {cold.share:g}): models lack interactions that "
               "there are. What is served is trained without that setting.")
    placed = [arm for arm in config.arms if config.for_arm(arm).train.place_untrained]
    if placed:
        yield (f"{', '.join(placed)}: items that training never asked for, where there are any, are placed at export "
               "(train.place_untrained); validation, which chose the epoch, has not seen them there.")
    for found in shared(config):
        yield (f"Seeds {found.seeds[0]} and {found.seeds[1]} of {found.arm} both learn from {found.member} with seed "
               f"{found.seed}: they agree more than chance does, so intervals over its seeds are too narrow (members' "
               f"seeds {max(config.seeds) - min(config.seeds) + 1} apart or more mend that).")
    for arm in config.arms:
        teacher = config.control_for(arm)
        if teacher is not None and teacher not in config.arms:
            yield f"{arm} is a control for {teacher}, which is none of the arms: it is listed, not tested."
