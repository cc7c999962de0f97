"""Settings of `evaluate`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from cluster.config import Placement
from configs.base import Config, each_once

Baseline = Literal["popularity", "transitions", "item_knn", "ease", "content"]
"""`content` reads the items' texts through the run's encoder, and is computed where it is asked for."""


class EvaluateExecution(Placement):
    """Never part of a fingerprint."""

    workers: int = Field(default=1, ge=0)
    """Ray tasks that share the users; 0 ranks in the driver's own process."""
    use_gpu: bool = False
    """Models only; baselines are scored on the CPU."""
    batch_users: int = Field(default=256, ge=1)
    item_chunk: int = Field(default=4096, ge=1)
    """Items scored at once."""


class TransitionsConfig(Config):
    """Which item follows the last one: counts of consecutive training items, normalised per item."""

    popularity_backoff: float = Field(default=1e-3, ge=0)
    """Weight of an item's share of the most popular item's count, added to every score: it orders ties."""


class ItemKNNConfig(Config):
    """Cosine similarity of items by the users who had them; the nearest neighbours of each history item vote."""

    neighbors: int = Field(default=300, ge=1)
    """Neighbours kept per item."""
    shrinkage: float = Field(default=50.0, ge=0)
    """Added to the denominator of the cosine: distrusts pairs of rare items."""
    recency_decay: float = Field(default=0.5, ge=0)
    """A history item's vote weighs exp(-decay · steps back); 0 = all alike."""
    popularity_backoff: float = Field(default=1e-3, ge=0)
    """As for transitions."""


class EASEConfig(Config):
    """Linear item-to-item model in closed form (Steck, WWW'19)."""

    l2: float = Field(default=100.0, gt=0)
    """λ on the diagonal of the item-item matrix."""
    recency_decay: float = Field(default=0.4, ge=0)
    """A history item weighs exp(-decay · steps back) when scoring; 0 = all alike."""
    train_decay: float = Field(default=0.0, ge=0)
    """The same for the training sequences that the model is fitted on."""
    max_items: int = Field(default=20_000, ge=1)
    """An items × items matrix is inverted: above this EASE is skipped, and the report says so."""


class ContentConfig(Config):
    """Cosine between an item's text and the mean of the history's texts; nothing is learnt."""

    recency_decay: float = Field(default=0.5, ge=0)
    """A history item weighs exp(-decay · steps back); 0 = all alike."""


class EvaluateConfig(Config):
    """Full ranking over the whole catalogue on the test users."""

    cutoffs: tuple[int, ...] = Field(default=(5, 10, 20), min_length=1)
    """Values of K, ascending."""
    filter_seen: bool = True
    """Protocol of the main table: the user's history is removed from the ranking (the target never is).
    The other protocol is computed as well."""
    top_k: int = Field(default=20, ge=1)
    """Recommendations stored per user, for coverage, popularity and the report; at least the largest cutoff."""
    baselines: Annotated[tuple[Baseline, ...], each_once("baseline")] = (
        "popularity", "transitions", "item_knn", "ease")
    transitions: TransitionsConfig = TransitionsConfig()
    item_knn: ItemKNNConfig = ItemKNNConfig()
    ease: EASEConfig = EASEConfig()
    content: ContentConfig = ContentConfig()
    tie_seed: int = 0
    """Orders items of exactly equal score."""
    execution: EvaluateExecution = EvaluateExecution()

    @field_validator("cutoffs")
    @classmethod
    def _ascending(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if value[0] < 1 or any(a >= b for a, b in zip(value, value[1:], strict=False)):
            raise ValueError("cutoffs are whole numbers from 1, ascending, each once")
        return value

    @model_validator(mode="after")
    def _lists_reach_cutoffs(self) -> EvaluateConfig:
        if self.top_k < self.cutoffs[-1]:
            raise ValueError(f"top_k={self.top_k} must reach the largest cutoff, {self.cutoffs[-1]}")
        return self
