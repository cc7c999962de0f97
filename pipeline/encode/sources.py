"""Where an encoder's files come from, and what identifies their content. Imports no torch."""

from __future__ import annotations

from pipeline.encode.config import EncodeConfig
from pipeline.store.digests import DigestCache
from pipeline.work import hub

_SETTING = "encode.model"


def identity(config: EncodeConfig, digests: DigestCache | None = None) -> str:
    """For the fingerprint; raises as :func:`pipeline.work.hub.identity` does."""
    return hub.identity(_SETTING, config.model, config.revision, digests)


def locate(config: EncodeConfig, known: str) -> hub.ModelFiles:
    """The files to load, given what :func:`identity` returned when the stage was planned."""
    return hub.locate(_SETTING, config.model, config.revision, known)
