"""What an audit depends on. Imports no torch or Ray."""

from __future__ import annotations

from pipeline.audit.config import AuditConfig
from pipeline.store.artifacts import StageKey

VERSION = 1


def key(config: AuditConfig, prepare_fp: str, encode_fp: str, items_fp: str) -> StageKey:
    """The key of one audit.

    Args:
        encode_fp: of the profiles' vectors.
        items_fp: of the item texts' vectors, by the same encoder.
    """
    return StageKey("audit", VERSION, config.key(), {"prepare": prepare_fp, "encode": encode_fp,
                                                     "encode/items": items_fp})
