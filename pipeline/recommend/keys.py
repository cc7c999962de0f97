"""What recommended lists depend on. Imports no torch or Ray."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

from pipeline.recommend.config import RecommendConfig
from pipeline.store.artifacts import StageKey

VERSION = 1
_BY_CONTENT = ("arm", "seed", "allow", "deny", "titles")
"""Settings that name something whose content counts, or that only the output has."""


def key(config: RecommendConfig, model: Mapping[str, str], source: Mapping[str, str]) -> StageKey:
    """The key of one set of lists.

    Args:
        model: fingerprint of the `train` artifact, or digest of the exported folder.
        source: what the sequences, chosen users and lists of ids come to.
    """
    values = {name: value for name, value in config.key().items() if name not in _BY_CONTENT}
    return StageKey("recommend", VERSION, values, dict(model), dict(source))


def digest_texts(texts: Iterable[str]) -> str:
    """Of ordered texts."""
    hasher = hashlib.blake2b(digest_size=8)
    for text in texts:
        data = text.encode()
        hasher.update(len(data).to_bytes(4, "little") + data)
    return hasher.hexdigest()
