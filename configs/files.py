"""Configuration files: where they are, and the mappings that they and their parents hold.

A file may start from another one with ``extends: relative/path.yaml``, or from several, ``extends: [a.yaml, b.yaml]``,
the later over the earlier; nested mappings merge, and a mapping whose ``kind`` differs replaces the inherited one
whole, so that no field of the other variant lingers.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from configs import yaml12
from configs.errors import ConfigError

SHIPPED = Path(__file__).parent
_MAX_EXTENDS_DEPTH = 8


def read_yaml(path: str | Path, _depth: int = 0) -> dict[str, Any]:
    """The mapping a YAML file holds, with those that it extends merged in."""
    if _depth > _MAX_EXTENDS_DEPTH:
        raise ConfigError(f"{path}: `extends` goes deeper than {_MAX_EXTENDS_DEPTH} files; is there a circle?")
    values, parents = _read_one(resolve_path(path))
    merged: dict[str, Any] = {}
    for parent in parents:
        merged = merge(merged, read_yaml(parent, _depth + 1))
    return merge(merged, values)


def files_of(path: str | Path) -> list[Path]:
    """The file and all that it extends, of one that :func:`read_yaml` can read."""
    file = resolve_path(path)
    return [file, *(each for parent in _read_one(file)[1] for each in files_of(parent))]


def _read_one(file: Path) -> tuple[dict[str, Any], list[Path]]:
    """The file's own mapping, and the files that it extends."""
    try:
        values = yaml12.parse(file.read_text(encoding="utf-8"))
    except OSError as exc:
        raise ConfigError(f"{file}: cannot be read: {exc.strerror}") from exc
    except UnicodeDecodeError as exc:
        raise ConfigError(f"{file}: not UTF-8 at byte {exc.start}; save it as UTF-8") from exc
    except yaml.YAMLError as exc:
        raise ConfigError(f"{file}: not valid YAML: {yaml12.fault(exc)}") from exc
    if values is None:
        values = {}
    try:
        values = _unshared(values)
    except RecursionError:
        raise ConfigError(f"{file}: an anchor holds an alias of itself; write the values out") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{file}: expected `key: value` lines at the top, got a {type(values).__name__}")
    given = values.pop("extends", None)
    parents = given if isinstance(given, list) else [] if given is None else [given]
    if not all(isinstance(parent, str) for parent in parents):
        raise ConfigError(f"{file}: `extends` takes a relative path or a list of them, got {given!r}")
    return values, [file.parent / parent for parent in parents]


def _unshared(value: Any) -> Any:
    """The same with a copy in the place of each alias, so that an override of one is none of the others."""
    if isinstance(value, dict):
        return {key: _unshared(below) for key, below in value.items()}
    return [_unshared(each) for each in value] if isinstance(value, list) else value


def resolve_path(path: str | Path) -> Path:
    """The file itself, or the shipped one of that name (``configs/demo.yaml``, ``demo.yaml``, ``demo``)."""
    given = Path(path)
    inside = Path(*given.parts[1:]) if given.parts[:1] == ("configs",) else given
    for candidate in (given, SHIPPED / inside, SHIPPED / f"{inside}.yaml"):
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


def flatten(values: Any, prefix: str = "") -> dict[str, Any]:
    """``{"a": {"b": 1}}`` → ``{"a.b": 1}``; lists stay whole."""
    if not isinstance(values, Mapping) or not values:
        return {prefix: values}
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat.update(flatten(value, f"{prefix}.{key}" if prefix else str(key)))
    return flat


def assign(values: dict[str, Any], assignment: str) -> None:
    """Put ``a.b=value``, the value read as YAML, into the values; another ``kind`` empties its group.

    Raises:
        ConfigError: it is no assignment, or ``a`` is no group.
    """
    path, sign, raw = assignment.partition("=")
    if not sign or not path.strip():
        raise ConfigError(f"override {assignment!r}: expected key.path=value, for example train.alpha=0.6")
    try:
        value = yaml12.parse(raw)
    except yaml.YAMLError as exc:
        raise ConfigError(f"override {assignment!r}: {yaml12.fault(exc)}") from exc
    *parents, leaf = path.strip().split(".")
    node = values
    for name in parents:
        if node.get(name) is None:  # an empty group, or one that is off
            node[name] = {}
        child = node[name]
        if not isinstance(child, dict):
            raise ConfigError(f"override {assignment!r}: {name!r} is a value, not a group of settings")
        node = child
    if leaf == "kind" and node.get("kind") not in (None, value):
        node.clear()
    node[leaf] = value
