"""The prompts of one form: instructions that are the same for all users, then one user's data, fenced."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from configs.errors import ConfigError, illegal
from pipeline.profile.prompts import record
from pipeline.profile.prompts.cleaning import Cleaner
from pipeline.profile.prompts.config import Form, PromptConfig
from pipeline.profile.prompts.domains import fields_of, signal_of
from pipeline.profile.prompts.fences import fenced, fenced_text, part_label
from pipeline.profile.prompts.item_lines import VERSION
from pipeline.profile.prompts.templates import ANGLES, Task, instructions
from pipeline.profile.prompts.user_facts import UserFacts

Messages = list[dict[str, str]]
"""OpenAI-style: role and content. One user message, for some models know no other."""

_UNKNOWN = "nothing is known"
_TAGS = ("<facts>", "</facts>", "<history>", "</history>", "<profile>", "</profile>")
_PROBE = UserFacts((("a", "b"),))


@dataclass(frozen=True)
class PromptSet:
    """Writes the messages. Picklable; holds rendered instructions only, so actors need no templates."""

    config: PromptConfig
    form: Form
    instructions: Mapping[tuple[Task, str], str]
    cleaner: Cleaner
    schema: dict[str, Any] | None
    """JSON schema for structured output; None where the answer is free text."""
    digest: str = field(init=False)
    """Of every instruction as rendered, the schema, what is told of an item, in which order, and how data is laid out:
    the same digest, settings and data give the same prompts. A comment in a template changes nothing."""

    def __post_init__(self) -> None:
        probes = [message for angle in ANGLES for message in (
            self.leaf(["a"], _PROBE, angle, None), self.leaf(["a"], _PROBE, angle, (1, 2)),
            self.merge(["a", "b"], _PROBE, angle), self.update("a", ["b"], _PROBE, angle, (2, 2)))]
        told = [list((fields_of(self.config) or {}).items()), signal_of(self.config).model_dump(mode="json")]
        text = json.dumps([VERSION, probes, told, self.schema, sorted(self.cleaner.special_tokens)], sort_keys=True)
        object.__setattr__(self, "digest", hashlib.blake2b(text.encode(), digest_size=16).hexdigest())

    @classmethod
    def of(cls, config: PromptConfig, form: Form, special_tokens: Sequence[str] = ()) -> PromptSet:
        """The prompts of a config.

        Args:
            config: what is told and asked.
            form: `long` or `short`.
            special_tokens: of the model's tokenizer, where it is known.

        Raises:
            ConfigError: a template of the user's own is not sound.
        """
        written = instructions(config, form)
        for token in filter(str.strip, special_tokens):
            if len(token) > 1 and any(token in text for text in (*written.values(), *_TAGS)):
                raise ConfigError(f"prompt: the instructions hold {token!r}, which the model's tokenizer reads as a "
                                  "control token; word the templates otherwise (prompt.templates)")
        schema = record.json_schema() if form == "short" else None
        return cls(config, form, written, Cleaner(tuple(special_tokens)), schema)

    def leaf(self, lines: Sequence[str], facts: UserFacts, angle: str, part: tuple[int, int] | None = None) -> Messages:
        """Write a profile from a history.

        Args:
            lines: of :class:`ItemLines`, the oldest first.
            facts: of the user.
            angle: which of the user's profiles.
            part: (number from 1, of how many) when the history is divided.
        """
        return self._messages("leaf", angle, facts, fenced("history", lines, self.cleaner, part_label(part)))

    def merge(self, texts: Sequence[str], facts: UserFacts, angle: str) -> Messages:
        """Merge profiles of consecutive parts, the oldest first, into one."""
        return self._messages("merge", angle, facts, *(
            fenced_text("profile", text, self.cleaner, part_label((number, len(texts))))
            for number, text in enumerate(texts, 1)))

    def update(self, text: str, lines: Sequence[str], facts: UserFacts, angle: str, part: tuple[int, int]) -> Messages:
        """Go on from the profile of the parts before with the next part of the history."""
        return self._messages("update", angle, facts, fenced_text("profile", text, self.cleaner),
                              fenced("history", lines, self.cleaner, part_label(part)))

    def prefix(self, task: Task, angle: str) -> str:
        """What every user's message of a task and angle begins with."""
        try:
            return self.instructions[task, angle]
        except KeyError as exc:
            raise ConfigError(illegal("profile.angles", angle, ANGLES)) from exc

    def _messages(self, task: Task, angle: str, facts: UserFacts, *blocks: str) -> Messages:
        known = []
        if self.config.attributes:
            told = facts.lines(self.cleaner, self.config.attribute_chars)
            known = [fenced("facts", told or [_UNKNOWN], self.cleaner)]
        return [{"role": "user", "content": "\n\n".join([self.prefix(task, angle), *known, *blocks])}]
