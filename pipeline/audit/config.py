"""Settings of `audit`."""

from __future__ import annotations

from pydantic import Field

from configs.base import Config


class AuditExecution(Config):
    """Never part of a fingerprint."""

    batch_users: int = Field(default=256, ge=1)
    item_chunk: int = Field(default=4096, ge=1)
    """Items scored at once."""


class AuditConfig(Config):
    """How well profiles rank the validation items that they never saw, by their texts' vectors alone."""

    cutoff: int = Field(default=10, ge=1)
    """K of NDCG@K and Recall@K."""
    users: int | None = Field(default=None, ge=2)
    """Only a seeded sample of so many validation users; None: all."""
    bootstrap_samples: int = Field(default=2000, ge=100)
    """Resamples of users behind every interval."""
    confidence: float = Field(default=0.95, gt=0.5, lt=1)
    seed: int = Field(default=0, ge=0)
    """Of the sample, the shuffled profiles, the resamples and the order of items of equal score."""
    execution: AuditExecution = AuditExecution()
