"""Read, override, validate, dump: ``load(schema, path, overrides)`` and its companions."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from configs import yaml12
from configs.errors import ConfigError
from configs.explain import explain
from configs.files import assign, read_yaml

T = TypeVar("T", bound=BaseModel)


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
        assign(values, assignment)
    origin = f" in {path}" if path is not None else ""
    return validate(schema, values, origin)


def validate(schema: type[T], values: Mapping[str, Any], origin: str = "") -> T:
    """``schema.model_validate`` with our one-line error."""
    try:
        return schema.model_validate(values)
    except ValidationError as exc:
        raise ConfigError(explain(exc, schema, values, origin)) from exc


def dump(config: BaseModel) -> str:
    """YAML that ``load`` reads back to an equal object."""
    return yaml12.write(config.model_dump(mode="json"))


def json_schema(schema: type[BaseModel]) -> str:
    """The JSON schema of a configuration class, for editors."""
    return json.dumps(schema.model_json_schema(), indent=2)
