"""What is asked of a model, and what an answer depends on: the same key, the same answer."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa

from pipeline.profile.llm.config import SamplingConfig
from pipeline.profile.prompts.prompt_set import Messages

Kind = Literal["leaf", "merge", "update"]

REQUEST = "request"
"""Column: the request's key, 32 hexadecimal digits."""
SEED = "seed"
MESSAGES = "messages"
"""Column: the messages as JSON; null where the engine takes tokens."""
TOKENS = "tokens"
"""Column: the prompt as the model's tokenizer reads it, list<int32>; null where the engine takes messages."""
LENGTH = "length"
"""Column: tokens of the prompt."""
REQUEST_TYPE = pa.struct([(REQUEST, pa.string()), (SEED, pa.int64()), (LENGTH, pa.int32()), (MESSAGES, pa.string()),
                          (TOKENS, pa.list_(pa.int32()))])


@dataclass(frozen=True)
class Prompt:
    """What a model reads."""

    messages: Messages
    tokens: list[int]
    kind: Kind


@dataclass(frozen=True)
class Request:
    """A prompt and a seed, to be answered once."""

    key: str
    seed: int
    prompt: Prompt

    def row(self, as_tokens: bool) -> dict[str, Any]:
        """As a value of REQUEST_TYPE."""
        messages, tokens = self.prompt.messages, self.prompt.tokens
        return {REQUEST: self.key, SEED: self.seed, LENGTH: len(tokens),
                MESSAGES: None if as_tokens else json.dumps(messages, ensure_ascii=False),
                TOKENS: tokens if as_tokens else None}


@dataclass(frozen=True)
class Answer:
    """What the model wrote."""

    text: str
    finish_reason: str | None
    prompt_tokens: int
    output_tokens: int
    attempt: str
    """Of the artifact that asked."""


@dataclass(frozen=True)
class Failure:
    """Why there is no answer: the engine's or server's own words. Never kept beyond the command that met it."""

    error: str


@dataclass(frozen=True)
class Author:
    """Who answers: model, content of its files, sampling and schema; whatever changes an answer beside the prompt."""

    values: Mapping[str, Any]

    @property
    def digest(self) -> str:
        """16 hexadecimal digits; the name of the author's ledger."""
        canonical = json.dumps(self.values, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.blake2b(canonical.encode(), digest_size=8).hexdigest()

    def key(self, messages: Messages, seed: int) -> str:
        """The request's key."""
        canonical = json.dumps([self.digest, seed, messages], separators=(",", ":"), ensure_ascii=False)
        return hashlib.blake2b(canonical.encode(), digest_size=16).hexdigest()


def sampling_values(sampling: SamplingConfig) -> dict[str, Any]:
    """The sampling as part of an :class:`Author`; the seed is each request's own."""
    return sampling.model_dump(mode="json", exclude={"seed"})
