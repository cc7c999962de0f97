"""Read, override, validate, dump: ``load(schema, path, overrides)`` and its companions.

YAML is read by a safe loader with the plain scalars of YAML 1.2 (``1e-3`` is a number, ``010`` is ten, ``no`` and
``2020-01-01`` are words) that refuses duplicate keys.
A file may start from another one with ``extends: relative/path.yaml``; nested mappings merge, and a mapping
whose ``kind`` differs replaces the inherited one whole, so that no field of the other variant lingers.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from configs.errors import ConfigError

SHIPPED = Path(__file__).parent
_MAX_EXTENDS_DEPTH = 8
T = TypeVar("T", bound=BaseModel)


class _Loader(yaml.SafeLoader):
    """SafeLoader with the scalars of YAML 1.2 and an error on duplicate keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, (str, int)) and key in seen:
                raise yaml.MarkedYAMLError(problem=f"key {key!r} stands twice", problem_mark=key_node.start_mark)
            seen.add(key if isinstance(key, (str, int)) else id(key_node))
        return super().construct_mapping(node, deep)


_INT = re.compile(r"^[-+]?[0-9]+$|^0o[0-7]+$|^0x[0-9a-fA-F]+$")
_FLOAT = re.compile(r"^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$|^[-+]?\.(inf|Inf|INF)$|^\.(nan|NaN|NAN)$")
_BOOL = re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$")
_KEPT = ("tag:yaml.org,2002:null", "tag:yaml.org,2002:merge")
_Loader.yaml_implicit_resolvers = {
    first: [(tag, rx) for tag, rx in resolvers if tag in _KEPT]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", _INT, list("-+0123456789"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", _BOOL, list("tTfF"))


def _construct_int(loader: _Loader, node: yaml.ScalarNode) -> int:
    text = str(loader.construct_scalar(node))
    return int(text, 0 if text[:2] in ("0o", "0x") else 10)


_Loader.add_constructor("tag:yaml.org,2002:int", _construct_int)


class _Dumper(yaml.SafeDumper):
    """SafeDumper that quotes every string which YAML 1.1 or our loader would read as something else."""


_Dumper.yaml_implicit_resolvers = {
    first: yaml.SafeDumper.yaml_implicit_resolvers.get(first, []) + _Loader.yaml_implicit_resolvers.get(first, [])
    for first in yaml.SafeDumper.yaml_implicit_resolvers.keys() | _Loader.yaml_implicit_resolvers.keys()
}


def _parse(text: str) -> Any:
    loader = _Loader(text)
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


def load(schema: type[T], path: str | Path | None, overrides: Iterable[str] = ()) -> T:
    """Validate a YAML file plus ``a.b=value`` overrides against ``schema``.

    Args:
        schema: the root configuration class.
        path: a YAML file; a path that does not exist is also looked up among the shipped ``configs/``.
            ``None`` starts from an empty mapping.
        overrides: dotted assignments, the value read as YAML. ``….kind=`` assignments are applied first, for they
            replace the whole group; the others in order.

    Raises:
        ConfigError: unreadable file, bad YAML, unknown key, illegal value; one line that says what is legal.
    """
    values = read_yaml(path) if path is not None else {}
    for assignment in sorted(overrides, key=lambda a: a.partition("=")[0].strip().split(".")[-1] != "kind"):
        _assign(values, assignment)
    origin = f" in {path}" if path is not None else ""
    return validate(schema, values, origin)


def validate(schema: type[T], values: Mapping[str, Any], origin: str = "") -> T:
    """``schema.model_validate`` with our one-line error."""
    try:
        return schema.model_validate(values)
    except ValidationError as exc:
        raise ConfigError(_explain(exc, schema, values, origin)) from exc


def read_yaml(path: str | Path, _depth: int = 0) -> dict[str, Any]:
    """The mapping a YAML file holds, with its ``extends`` chain merged in."""
    if _depth > _MAX_EXTENDS_DEPTH:
        raise ConfigError(f"{path}: `extends` goes deeper than {_MAX_EXTENDS_DEPTH} files; is there a circle?")
    file = resolve_path(path)
    try:
        values = _parse(file.read_text(encoding="utf-8"))
    except OSError as exc:
        raise ConfigError(f"{file}: cannot be read: {exc.strerror}") from exc
    except UnicodeDecodeError as exc:
        raise ConfigError(f"{file}: not UTF-8 at byte {exc.start}; save it as UTF-8") from exc
    except yaml.YAMLError as exc:
        raise ConfigError(f"{file}: not valid YAML: {_one_line(exc)}") from exc
    if values is None:
        values = {}
    if not isinstance(values, dict):
        raise ConfigError(f"{file}: expected `key: value` lines at the top, got a {type(values).__name__}")
    parent = values.pop("extends", None)
    if parent is None:
        return values
    if not isinstance(parent, str):
        raise ConfigError(f"{file}: `extends` takes one relative path, got {parent!r}")
    return merge(read_yaml(file.parent / parent, _depth + 1), values)


def resolve_path(path: str | Path) -> Path:
    """The file itself, or the shipped one of that name (``configs/demo.yaml``, ``demo.yaml``, ``demo``)."""
    given = Path(path)
    inside = Path(*given.parts[1:]) if given.parts[:1] == ("configs",) else given
    for candidate in (given, SHIPPED / inside, (SHIPPED / inside).with_suffix(".yaml")):
        if candidate.is_file():
            return candidate
    shipped = sorted(str(p.relative_to(SHIPPED)) for p in SHIPPED.rglob("*.yaml"))
    near = difflib.get_close_matches(str(inside), shipped, n=3, cutoff=0.4)
    hint = f"; did you mean {', '.join(near)}?" if near else f"; shipped: {', '.join(shipped)}"
    raise ConfigError(f"no configuration file {str(path)!r}{hint}")


def merge(base: Mapping[str, Any], top: Mapping[str, Any]) -> dict[str, Any]:
    """``top`` over ``base``; a differing ``kind`` replaces the whole mapping."""
    if "kind" in top and "kind" in base and top["kind"] != base["kind"]:
        return dict(top)
    merged = dict(base)
    for key, value in top.items():
        old = merged.get(key)
        merged[key] = merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged


def dump(config: BaseModel) -> str:
    """YAML that ``load`` reads back to an equal object."""
    return yaml.dump(config.model_dump(mode="json"), Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def json_schema(schema: type[BaseModel]) -> str:
    """The JSON schema of a configuration class, for editors."""
    return json.dumps(schema.model_json_schema(), indent=2)


def flatten(values: Any, prefix: str = "") -> dict[str, Any]:
    """``{"a": {"b": 1}}`` → ``{"a.b": 1}``; lists stay whole."""
    if not isinstance(values, Mapping) or not values:
        return {prefix: values}
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat.update(flatten(value, f"{prefix}.{key}" if prefix else str(key)))
    return flat


def _assign(values: dict[str, Any], assignment: str) -> None:
    path, sign, raw = assignment.partition("=")
    if not sign or not path.strip():
        raise ConfigError(f"override {assignment!r}: expected key.path=value, for example train.alpha=0.6")
    try:
        value = _parse(raw)
    except yaml.YAMLError as exc:
        raise ConfigError(f"override {assignment!r}: {_one_line(exc)}") from exc
    *parents, leaf = path.strip().split(".")
    node = values
    for name in parents:
        child = node.setdefault(name, {})
        if not isinstance(child, dict):
            raise ConfigError(f"override {assignment!r}: {name!r} is a value, not a group of settings")
        node = child
    if leaf == "kind" and node.get("kind") not in (None, value):
        node.clear()
    node[leaf] = value


_LEGAL = dict.fromkeys(("tuple_type", "list_type"), "a list, such as [1, 2]") | dict.fromkeys(
    ("dict_type", "mapping_type", "model_type", "model_attributes_type", "dataclass_type"),
    "a group of settings, one `key: value` per line") | dict.fromkeys(
    ("int_type", "int_parsing", "int_from_float"), "a whole number") | dict.fromkeys(
    ("float_type", "float_parsing"), "a number") | dict.fromkeys(
    ("bool_type", "bool_parsing"), "true or false") | {"string_type": "text; write it in quotes"}
"""What a value of another type should have been; pydantic's own words speak of Python."""


def _explain(exc: ValidationError, schema: type[BaseModel], values: Mapping[str, Any], origin: str) -> str:
    errors = exc.errors()
    first = next((e for e in errors if e["type"] == "extra_forbidden"), errors[0])  # a typo explains a missing setting
    where = _settings_path(first["loc"], values) or "the configuration"
    more = f" (and {exc.error_count() - 1} more)" if exc.error_count() > 1 else ""
    message = first["msg"].removeprefix("Value error, ")
    kind = first["type"]
    message = f"legal: {_LEGAL[kind]}" if kind in _LEGAL else message[:1].lower() + message[1:]
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


def _settings_path(loc: Iterable[str | int], values: Any) -> str:
    """The dotted path a person would write: pydantic's location less the tags of unions."""
    names = []
    for name in loc:
        if isinstance(values, Mapping) and name not in values and name == values.get("kind"):
            continue
        names.append(str(name))
        inside = isinstance(values, Mapping) and name in values
        listed = isinstance(values, (list, tuple)) and isinstance(name, int) and name < len(values)
        values = values[name] if inside or listed else None
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


def _one_line(exc: Exception) -> str:
    """What YAML found wrong and where, without its drawing of the line."""
    if isinstance(exc, yaml.MarkedYAMLError) and exc.problem and exc.problem_mark:
        return f"line {exc.problem_mark.line + 1}, column {exc.problem_mark.column + 1}: {exc.problem}"
    return " ".join(str(exc).split())
