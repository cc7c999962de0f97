"""What is known of a user beside the history."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pipeline.profile.prompts.cleaning import Cleaner
from pipeline.profile.prompts.config import PromptConfig


@dataclass(frozen=True)
class UserFacts:
    """Attributes by name, in the order they are told. Raw values: prompts clean them."""

    attributes: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(cls, values: Mapping[str, str] | Iterable[tuple[str, str]] | None, config: PromptConfig) -> UserFacts:
        """The attributes of ``users.parquet`` (a map column's entries) that the config tells."""
        known = dict(values or ())
        return cls(tuple((name, known[name]) for name in config.attributes if known.get(name)))

    def lines(self, cleaner: Cleaner, limit: int) -> list[str]:
        """One clean line per attribute."""
        told = ((cleaner.line(name.replace("_", " "), limit), cleaner.line(value, limit))
                for name, value in self.attributes)
        return [f"{name}: {value}" for name, value in told if name and value]
