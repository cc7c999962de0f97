"""The typed record of the ``short`` form: its schema, how an answer is read, and the text that is encoded."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from itertools import islice
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

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
_OBJECT = re.compile(r"\{")
_MAX_OBJECTS = 100
"""Objects looked at, so that a loop of braces costs no time."""
_DECODER = json.JSONDecoder(strict=False)  # control characters pass a schema; no cleaned text has them


def json_schema() -> dict[str, Any]:
    """JSON schema for structured output: types, bounds and required fields, nothing else."""
    return _bare(ProfileRecord.model_json_schema())


def parse(text: str) -> ProfileRecord | None:
    """The first record in an answer, whatever prose or code fence stands around it; None where there is none."""
    for start in islice(_OBJECT.finditer(text), _MAX_OBJECTS):
        try:
            values, _ = _DECODER.raw_decode(text, start.start())
            return ProfileRecord.model_validate(values)
        except (ValueError, RecursionError):
            continue
    return None


def field_texts(record: ProfileRecord) -> dict[str, str]:
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
