"""The typed record of the ``short`` form: its schema, how an answer is read, and the text that is encoded."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

Words = Annotated[str, StringConstraints(strip_whitespace=True, max_length=100)]
Phrase = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=60)]
Sentence = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=240)]
Sentences = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=400)]


class ProfileRecord(BaseModel):
    """A profile in fixed fields. The bounds keep a whole record below the published limit of 1,000 tokens."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tastes: list[Phrase] = Field(min_length=1, max_length=8)
    attributes: list[Phrase] = Field(max_length=8)
    price_or_era: Words
    dislikes: list[Phrase] = Field(max_length=6)
    behaviour_over_time: Sentence
    summary: Sentences


FIELDS: Final = tuple(ProfileRecord.model_fields)
LIMITS: Final = {"tastes": 8, "attributes": 8, "dislikes": 6}
"""Most entries of each list, as the instructions tell them."""
LABELS: Final = {"tastes": "Tastes", "attributes": "Attributes", "price_or_era": "Price or era",
                 "dislikes": "Dislikes", "behaviour_over_time": "Behaviour over time", "summary": "Summary"}
_FENCE = "```"


def json_schema() -> dict[str, Any]:
    """JSON schema for structured output: types, bounds and required fields, nothing else."""
    return _bare(ProfileRecord.model_json_schema())


def parse(text: str) -> ProfileRecord | None:
    """The record an answer holds, be it in a code fence; None if it is anything else."""
    text = text.strip()
    if text.startswith(_FENCE) and text.endswith(_FENCE):
        language, _, text = text.removesuffix(_FENCE).removeprefix(_FENCE).partition("\n")
        if language.strip().lower() not in ("", "json"):
            return None
    try:
        values = json.loads(text, strict=False)  # control characters pass a schema; no cleaned text has them
        return ProfileRecord.model_validate(values)
    except (ValueError, RecursionError, ValidationError):
        return None


def told(record: ProfileRecord) -> dict[str, str]:
    """Field → what it says, a list's distinct entries joined; empty where it says nothing."""
    return {name: _joined(getattr(record, name)) for name in FIELDS}


def render(values: Mapping[str, str]) -> str:
    """The text that is encoded, from what fields say: one labelled line per field, in the schema's order."""
    return "\n".join(f"{LABELS[name]}: {values[name] or 'unknown'}" for name in FIELDS)


def _joined(value: str | list[str]) -> str:
    if isinstance(value, str):
        return value
    distinct: dict[str, str] = {}
    for entry in value:
        distinct.setdefault(entry.casefold(), entry)
    return ", ".join(distinct.values())


def _bare(schema: Any) -> Any:
    if isinstance(schema, dict):
        return {key: _bare(value) for key, value in schema.items() if key not in ("title", "description")}
    return [_bare(value) for value in schema] if isinstance(schema, list) else schema
