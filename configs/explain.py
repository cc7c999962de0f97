"""What pydantic finds wrong with a configuration, in one line that says what is legal."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

_LEGAL = dict.fromkeys(("tuple_type", "list_type"), "a list, such as [1, 2]") | dict.fromkeys(
    ("dict_type", "mapping_type", "model_type", "model_attributes_type", "dataclass_type"),
    "a group of settings, one `key: value` per line") | dict.fromkeys(
    ("int_type", "int_parsing", "int_from_float"), "a whole number") | dict.fromkeys(
    ("float_type", "float_parsing"), "a number") | dict.fromkeys(
    ("bool_type", "bool_parsing"), "true or false") | {"string_type": "text; write it in quotes"}
"""What a value of another type should have been; pydantic's own words speak of Python."""
_BOUNDS = {
    "greater_than": "more than {gt}", "greater_than_equal": "{ge} or more", "less_than": "less than {lt}",
    "less_than_equal": "{le} or less", "finite_number": "a finite number",
    "too_short": "{min_length} or more entries", "too_long": "{max_length} or fewer entries",
    "string_too_short": "{min_length} or more characters", "string_too_long": "{max_length} or fewer characters",
    "literal_error": "{expected}"}
"""The same of a value that has the type and not the size."""
_MEMBERS = frozenset(("int", "float", "str", "bool"))
"""Names by which pydantic tells the plain members of a union apart."""


def explain(exc: ValidationError, schema: type[BaseModel], values: Mapping[str, Any], origin: str) -> str:
    """The first fault: the setting, its value, what is legal.

    Args:
        schema: what ``values`` were validated against.
        origin: words for the file, such as `` in mine.yaml``.
    """
    errors = exc.errors()
    paths = [_settings_path(error["loc"], values) for error in errors]
    typo = next((place for place, error in enumerate(errors) if error["type"] == "extra_forbidden"), 0)
    found = [error for error, path in zip(errors, paths, strict=True) if path == paths[typo]]
    where = paths[typo] or "the configuration"  # a typo explains a missing setting
    more = f" (and {len(set(paths)) - 1} more)" if len(set(paths)) > 1 else ""
    first = errors[typo] if len(found) == 1 else _nearest(found)
    message = first["msg"].removeprefix("Value error, ")
    kind = first["type"]
    if kind in _BOUNDS:
        bounds = {name: int(value) if isinstance(value, float) and value.is_integer() else value
                  for name, value in first.get("ctx", {}).items()}
        message = f"legal: {_BOUNDS[kind].format(**bounds)}"
    else:
        message = f"legal: {_legal(found)}" if kind in _LEGAL else message[:1].lower() + message[1:]
    if kind == "extra_forbidden":
        known = list(_node_at(schema, first["loc"][:-1]).get("properties", {}))
        near = difflib.get_close_matches(str(first["loc"][-1]), known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"legal: {', '.join(sorted(known))}"
        return f"unknown setting {where!r}{origin}; {hint}{more}"
    if kind == "missing":
        return f"{where}{origin}: this setting is required{more}"
    if kind == "union_tag_not_found":
        legal = ", ".join(_node_at(schema, first["loc"]).get("discriminator", {}).get("mapping", {}))
        return f"{where}{origin}: `kind` is missing; legal: {legal}; add {where}.kind=…{more}"
    if kind == "union_tag_invalid":
        return f"{where}.kind{origin}: got {first['ctx']['tag']!r}; legal: {first['ctx']['expected_tags']}{more}"
    value = first.get("input")
    got = "a group of settings" if isinstance(value, Mapping) else repr(value)
    shown = "" if isinstance(value, Mapping) and kind in ("value_error", "assertion_error") else f"got {got}; "
    return f"{where}{origin}: {shown}{message}{more}"


def _nearest(errors: list[Any]) -> Any:
    """Of a value that no member of a union takes: the fault of a member whose type it has, else of the first."""
    return next((error for error in errors if error["type"] not in _LEGAL), errors[0])


def _legal(errors: list[Any]) -> str:
    """What every member of a union would take."""
    return ", or ".join(dict.fromkeys(_LEGAL[error["type"]] for error in reversed(errors) if error["type"] in _LEGAL))


def _settings_path(loc: Iterable[str | int], values: Any) -> str:
    """The dotted path a person would write: pydantic's location less the names of a union's members."""
    names: list[str] = []
    given = True
    for name in loc:
        own = isinstance(values, Mapping) and name in values
        if not own and isinstance(name, str) and ("[" in name or name.removeprefix("constrained-") in _MEMBERS):
            continue
        legal = Mapping if isinstance(name, str) else (list, tuple)
        if names and given and not isinstance(values, legal):
            break  # no setting is inside: what follows are members of a union
        if isinstance(values, Mapping) and name not in values and name == values.get("kind"):
            continue
        names.append(str(name))
        inside = isinstance(values, Mapping) and name in values
        listed = isinstance(values, (list, tuple)) and isinstance(name, int) and name < len(values)
        given = inside or listed
        values = values[name] if given else None
    return ".".join(names)


def _node_at(schema: type[BaseModel], loc: Iterable[str | int]) -> dict[str, Any]:
    """The JSON schema at pydantic's location, in which the tag of a union stands as a name of its own."""
    definitions = schema.model_json_schema()
    node = _deref(definitions, definitions)
    for name in map(str, loc):
        tags = node.get("discriminator", {}).get("mapping", {})
        if name in tags:
            node = _deref({"$ref": tags[name]}, definitions)
            continue
        for branch in (node, *(_deref(b, definitions) for b in node.get("anyOf", ()))):
            inner = branch.get("properties", {}).get(name) or branch.get("items") or branch.get("additionalProperties")
            if inner:
                node = _deref(inner, definitions)
                break
        else:
            return {}
    return node


def _deref(node: Any, definitions: Mapping[str, Any]) -> dict[str, Any]:
    while isinstance(node, dict) and "$ref" in node:
        node = definitions["$defs"][node["$ref"].rsplit("/", 1)[1]]
    return node if isinstance(node, dict) else {}
