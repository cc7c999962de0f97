"""What a set of profiles depends on."""

from __future__ import annotations

from pipeline.profile.config import ProfileConfig
from pipeline.profile.engines import engine_of
from pipeline.store.artifacts import StageKey
from pipeline.store.digests import DigestCache

VERSION = 1


def key(config: ProfileConfig, prepare_fp: str, digests: DigestCache | None = None) -> StageKey:
    """The key of the profiles of a prepared data set.

    ``max_rejected_fraction``, ``max_unanswered_fraction`` and ``max_cost_without_confirm`` stay out: they decide
    whether profiles are good enough or too dear, never what they say.
    """
    values = config.key()
    if config.users is None:
        values.pop("users")
    for name in ("max_rejected_fraction", "max_unanswered_fraction", "max_cost_without_confirm"):
        values.pop(name)
    return StageKey("profile", VERSION, values, {"prepare": prepare_fp}, engine_of(config).digests(digests))
