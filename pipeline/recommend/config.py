"""Settings of `recommend`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from cluster.config import ActorExecution
from configs.base import Config


class RecommendConfig(Config):
    """Lists for all users of a run, for chosen ones, or for new sequences."""

    arm: str | None = None
    """Which recommender answers; None: of the arms that are no control, the best on validation."""
    seed: int | None = None
    """Of the arm; None: the run's first."""
    k: int = Field(default=10, ge=1, le=10_000)
    """Items per list."""
    history: Literal["all", "evaluated"] = "all"
    """Of a run's users: `all` their interactions, held-out ones too, so the lists are about what comes next;
    `evaluated`: test users alone, with the history that `evaluate` ranks from, so the lists are its own (but for a
    target that was seen before, which evaluation leaves in)."""
    filter_seen: bool = True
    """Leave out what the history holds."""
    allow: str | None = None
    """File of item ids, one per line: nothing else is recommended."""
    deny: str | None = None
    """File of item ids, one per line, that are never recommended."""
    categories: tuple[str, ...] = ()
    """Only items of these categories; empty: of any."""
    new_days: float | None = Field(default=None, gt=0)
    """Only items first had within so many days before the newest interaction of the data; None: of any age."""
    active_days: float | None = Field(default=None, gt=0)
    """Only items that somebody had within so many days before the newest interaction of the data; None: all."""
    titles: bool = False
    """Write the items' titles too."""
    execution: ActorExecution = ActorExecution(actors=0, batch_rows=16384, block_rows=16384)
    """Multiples of 4,096 rows read histories in the very groups in which `evaluate` reads them."""
