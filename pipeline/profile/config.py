"""Settings of `profile`. The engines are variants of one tagged union."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from cluster.config import ActorExecution
from configs.base import Config, each_once
from pipeline.profile.llm.config import OpenAIEngine, VLLMEngine

Angle = Literal["overall", "recent", "favourites"]
"""overall: the whole training history; recent: its latest third; favourites: what got the user's highest signal."""


class KeywordsEngine(Config):
    """No LLM: a deterministic text from item metadata and signals. The embedded default and the control."""

    kind: Literal["keywords"] = "keywords"
    max_terms: int = Field(default=24, ge=1)
    """Words or phrases told per profile."""

    def demand(self, readers: ActorExecution) -> ActorExecution:
        """Actors that run at once: those that read the histories also write."""
        return readers


EngineConfig = Annotated[KeywordsEngine | VLLMEngine | OpenAIEngine, Field(discriminator="kind")]


class ProfileConfig(Config):
    """Training histories → one text per user and angle."""

    engine: EngineConfig = KeywordsEngine()
    form: Literal["long", "short"] = "long"
    """`long`: free paragraphs; `short`: fixed fields."""
    angles: Annotated[tuple[Angle, ...], each_once("angle")] = Field(default=("overall",), min_length=1)
    """Several profiles per user, kept apart."""
    users: int | None = Field(default=None, ge=2)
    """Only a drawn sample of so many users gets a profile: a trial before all are paid for. A larger sample holds the
    smaller ones, and answers once given are not asked for again. None: all."""
    recent_items: int | None = Field(default=None, ge=1)
    """Only the last so many training items; None: all."""
    liked_signal: float | None = None
    """Signal from which an item counts as liked; None: at or above the user's own mean."""
    max_rejected_fraction: float = Field(default=0.2, ge=0, le=1)
    """More rejected profiles than this fail the stage; it changes no profile and is no part of the fingerprint."""
    max_unanswered_fraction: float = Field(default=0.01, ge=0, le=1)
    """More profiles than this that got no answer at all (a server that was down, a rate limit) fail the stage, and the
    same command asks again what was not answered. No part of the fingerprint."""
    max_cost_without_confirm: float | None = Field(default=None, ge=0)
    """A planned price above this, or one that is not known, needs `--yes`; None: never asked. No part of the
    fingerprint."""
    execution: ActorExecution = ActorExecution(actors=2, num_cpus=0.5, batch_rows=500, block_rows=5000)
    """Of the actors that read histories: the keywords engine's, and those that write an LLM's prompts."""
