"""The typed record: its schema, what counts as one, and its text."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from pipeline.profile.prompts.record import (
    FIELDS,
    LABELS,
    LIMITS,
    ProfileRecord,
    field_texts,
    json_schema,
    parse,
    render,
)

RECORD: dict[str, Any] = {
    "tastes": ["nail polish", "hand care"], "attributes": ["pastel shades", "quick drying"],
    "price_or_era": "inexpensive", "dislikes": [],
    "behaviour_over_time": "Moved from lotions to polishes, and comes back to the same makers.",
    "summary": "Looks for cheerful nail colours that dry fast."}
TEXT = ("Tastes: nail polish, hand care\nAttributes: pastel shades, quick drying\nPrice or era: inexpensive\n"
        "Dislikes: unknown\nBehaviour over time: Moved from lotions to polishes, and comes back to the same makers.\n"
        "Summary: Looks for cheerful nail colours that dry fast.")


def test_entries_are_told_once_in_their_order() -> None:
    record = parse(json.dumps(RECORD | {"tastes": ["noir", "Drama", "Noir", "drama", "war"]}))
    assert record is not None and field_texts(record)["tastes"] == "noir, Drama, war"


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in RECORD.items() if key != name}


def test_a_record_is_rendered_line_by_line() -> None:
    record = parse(json.dumps(RECORD))
    assert record is not None and render(field_texts(record)) == TEXT


@pytest.mark.parametrize("wrapped", [
    "```json\n{}\n```", "```\n{}```", "  \n```JSON\n{}\n```\n", "\n\n{}\n", "Here it is: {}", "{}}", "[{}]",
    "{}\nI hope this helps.", "```python\n{}\n```", "```{}```", 'A set {a, b}, then {"profile": {}}', "{} {}",
    "In the form {\"tastes\": []} you asked for:\n```json\n{}\n```\nLet me know!"])
def test_what_stands_around_a_record_does_no_harm(wrapped: str) -> None:
    record = parse(wrapped.replace("{}", json.dumps(RECORD, indent=1)))
    assert record is not None and render(field_texts(record)) == TEXT


@pytest.mark.parametrize("text", [
    "", "null", "[]", "true", "nonsense", "{", json.dumps(RECORD)[:-1],
    "```", "``````", "```\n" + " " * 100_000, "[" * 100_000, "{" * 100_000, '{"a":' * 100_000, "NaN",
    *(json.dumps(without(name)) for name in FIELDS),
    json.dumps(RECORD | {"rating": 5}), json.dumps(RECORD | {"tastes": []}), json.dumps(RECORD | {"tastes": "soap"}),
    json.dumps(RECORD | {"tastes": ["  "]}), json.dumps(RECORD | {"tastes": [3]}),
    json.dumps(RECORD | {"tastes": ["x"] * 9}), json.dumps(RECORD | {"attributes": ["x" * 61]}),
    json.dumps(RECORD | {"summary": " \n "}), json.dumps(RECORD | {"summary": "x" * 401}),
    json.dumps(RECORD | {"price_or_era": None})])
def test_anything_else_is_none(text: str) -> None:
    assert parse(text) is None


def test_the_schema_is_bounded_and_closed() -> None:
    schema = json_schema()
    assert schema["additionalProperties"] is False and schema["required"] == list(FIELDS) == list(RECORD)
    for spec in schema["properties"].values():
        text = spec["items"] if spec["type"] == "array" else spec
        assert text["maxLength"] <= 400 and (spec["type"] != "array" or spec["maxItems"] <= 8)
    text = json.dumps(schema)
    assert not any(word in text for word in ("$ref", "$defs", "title", "description", "pattern", "format", "anyOf"))
    assert LABELS.keys() == set(FIELDS)
    assert {name: spec["maxItems"] for name, spec in schema["properties"].items() if "maxItems" in spec} == LIMITS


def test_a_whole_record_stays_below_the_published_limit() -> None:
    longest = {name: ["x" * spec["items"]["maxLength"]] * spec["maxItems"] if spec["type"] == "array"
               else "x" * spec["maxLength"] for name, spec in json_schema()["properties"].items()}
    text = json.dumps(longest)
    assert parse(text) is not None
    assert len(text) / 4 < 1000


WORDS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=60).filter(str.strip)
RECORDS = st.fixed_dictionaries({
    "tastes": st.lists(WORDS, min_size=1, max_size=8), "attributes": st.lists(WORDS, max_size=8), "price_or_era": WORDS,
    "dislikes": st.lists(WORDS, max_size=6), "behaviour_over_time": WORDS, "summary": WORDS})


@given(RECORDS)
def test_any_record_comes_through(values: dict[str, Any]) -> None:
    record = parse(json.dumps(values))
    assert record is not None
    assert record == TypeAdapter(ProfileRecord).validate_python(values)
    assert set(field_texts(record)) == set(FIELDS) and field_texts(record)["summary"] == values["summary"].strip()


def test_control_characters_in_a_string_are_no_other_schema() -> None:
    """Guided decoding lets a model write them raw; what is told of the record is cleaned anyway."""
    values = {"tastes": ["floral\x06 scents"], "attributes": [], "price_or_era": "", "dislikes": [],
              "behaviour_over_time": "Steady.", "summary": "Fresh\x7f and floral."}
    text = json.dumps(values).replace("\\u0006", "\x06")
    assert "\x06" in text
    found = parse(text)
    assert found is not None and found.tastes == ["floral\x06 scents"]
