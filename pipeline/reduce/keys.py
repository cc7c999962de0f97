"""What the teacher targets depend on. Imports no torch, Ray or polars."""

from __future__ import annotations

from typing import Any

from pipeline.reduce.config import ReduceConfig
from pipeline.store.artifacts import StageKey

VERSION = 3


def key(config: ReduceConfig, encode_fp: str) -> StageKey:
    """The key of the targets made from one `encode` artifact."""
    earlier = {} if config.fitted_by is None else {"fitted_by": config.fitted_by}
    return StageKey("reduce", VERSION, fit_values(config), {"encode": encode_fp} | earlier)


def fit_values(config: ReduceConfig) -> dict[str, Any]:
    """The settings of a fit."""
    values = config.key()
    del values["fitted_by"]
    return values
