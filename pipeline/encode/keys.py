"""What a set of vectors depends on."""

from __future__ import annotations

from typing import Any

from pipeline.encode.config import EncodeConfig
from pipeline.encode.sources import identity
from pipeline.store.artifacts import StageKey
from pipeline.store.digests import DigestCache

VERSION = 3
ITEM_TEXT_VERSION = 2
"""Raised when the same item gives another text."""


def key(config: EncodeConfig, profile_fp: str, digests: DigestCache | None = None) -> StageKey:
    """The key of the vectors of a set of profiles. Raises as :func:`pipeline.encode.sources.identity` does."""
    return StageKey("encode", VERSION, _values(config.for_profiles()), {"profile": profile_fp},
                    {"model": identity(config, digests)})


def items_key(config: EncodeConfig, prepare_fp: str, digests: DigestCache | None = None) -> StageKey:
    """The key of the vectors of a catalogue's item texts; the profiles' prefix is no part of it."""
    return StageKey("encode", VERSION, _values(config.for_items()) | {"item_texts": ITEM_TEXT_VERSION},
                    {"prepare": prepare_fp}, {"model": identity(config, digests)})


def _values(config: EncodeConfig) -> dict[str, Any]:
    values = config.key()
    del values["item_prefix"]  # each side's own prefix stands in `prefix`
    return values
