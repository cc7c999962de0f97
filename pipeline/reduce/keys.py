"""What the teacher targets depend on. Imports no torch, Ray or polars."""

from __future__ import annotations

from pipeline.artifacts import StageKey
from pipeline.reduce.config import ReduceConfig

VERSION = 1


def key(config: ReduceConfig, encode_fp: str) -> StageKey:
    """The key of the targets made from one `encode` artifact."""
    return StageKey("reduce", VERSION, config.key(), {"encode": encode_fp})
