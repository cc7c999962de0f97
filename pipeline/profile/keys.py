"""What a set of profiles depends on."""

from __future__ import annotations

from pipeline.artifacts import StageKey
from pipeline.profile.config import ProfileConfig
from pipeline.profile.engines import engine_of

VERSION = 1


def key(config: ProfileConfig, prepare_fp: str) -> StageKey:
    """The key of the profiles of a prepared data set.

    ``max_rejected_fraction`` stays out: it decides whether profiles are good enough, never what they say.
    """
    values = config.key()
    values.pop("max_rejected_fraction")
    return StageKey("profile", VERSION, values, {"prepare": prepare_fp}, engine_of(config).digests())
