"""Settings of `report`."""

from __future__ import annotations

from pydantic import Field

from configs.base import Config


class ReportConfig(Config):
    """What `report.md` and `report.html` show beside the metrics."""

    bootstrap_samples: int = Field(default=2000, ge=100)
    """Resamples behind every interval."""
    confidence: float = Field(default=0.95, gt=0.5, lt=1)
    permutations: int = Field(default=2000, ge=100)
    """Random flips of signs behind every p value, at least; the smallest p is 1 / (permutations + 1). Where Holm's
    correction over many comparisons, or a high `confidence`, would let no gain be shown, as many more as it takes."""
    sample_users: int = Field(default=10, ge=0)
    sample_profiles: int = Field(default=12, ge=0)
    """Users on the page of profiles, beside a few whose profile was rejected."""
    seed: int = Field(default=0, ge=0, lt=2**32)
