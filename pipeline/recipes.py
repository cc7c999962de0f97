"""Arms with settings of their own. Torch- and Ray-free."""

from __future__ import annotations

from typing import Any, get_args

from pydantic import Field

from configs.base import Config
from pipeline.train.config import Arm

BUILT_IN: tuple[str, ...] = get_args(Arm)
CONTROLS = dict.fromkeys(("shuffled", "random", "collaborative"), "distilled")
"""Built-in control → the arm that it is a control for."""


class Recipe(Config):
    """A further arm: the run's settings, some of them changed. Named in `arms`, or a member of another's ensemble."""

    teacher: Arm = "plain"
    """What the profiles do in this arm, as in the built-in arm of that name."""
    model: dict[str, Any] = Field(default_factory=dict)
    """Settings over the run's `model`; another `kind` replaces it whole."""
    train: dict[str, Any] = Field(default_factory=dict)
    """Settings over the run's `train`, for example `ensemble` or `item_init`."""
    control_for: str | None = None
    """The arm whose gain this one could explain by other means: the report tests that arm against it."""
