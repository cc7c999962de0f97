"""What a set of vectors depends on."""

from __future__ import annotations

from pipeline.artifacts import StageKey
from pipeline.digests import DigestCache
from pipeline.encode.config import EncodeConfig
from pipeline.encode.sources import identity

VERSION = 1


def key(config: EncodeConfig, profile_fp: str, digests: DigestCache | None = None) -> StageKey:
    """The key of the vectors of a set of profiles. Raises as :func:`pipeline.encode.sources.identity` does."""
    return StageKey("encode", VERSION, config.key(), {"profile": profile_fp}, {"model": identity(config, digests)})
