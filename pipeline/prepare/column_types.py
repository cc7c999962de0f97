"""Which types the columns of a table may have, by what they are needed for. Polars-free."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final, Literal

import pyarrow as pa
import pyarrow.types as pt

from configs.errors import DataError

Role = Literal["id", "time", "number", "text"]
"""What a column is needed for."""

LEGAL: Final[dict[Role, str]] = {
    "id": "text or whole numbers, one id per row",
    "time": "dates, times with a date, or numbers of seconds, milliseconds, microseconds or nanoseconds since 1970",
    "number": "numbers",
    "text": "text, numbers, or lists of these",
}
_REMEDY: Final[dict[Role, str]] = {
    "id": "name another column, or write one row per user and item",
    "time": "write the moment itself",
    "number": "name another column",
    "text": "name another column, or write it as text",
}


def check_type(path: Path, name: str, stored: pa.DataType, role: Role) -> None:
    """Whether a stored column can be what it is needed for.

    Raises:
        DataError: it cannot; the message names column, type and legal types.
    """
    if not _is_legal(stored, role):
        refuse_type(path, name, words(stored), role)


def refuse_type(path: Path, name: str, found: str, role: Role) -> None:
    """The error for a column that holds ``found``."""
    raise DataError(f"{path}: column {name!r} holds {found}; legal: {LEGAL[role]}; {_REMEDY[role]}")


def _is_legal(stored: pa.DataType, role: Role) -> bool:
    if pt.is_dictionary(stored):
        return _is_legal(stored.value_type, role)
    if pt.is_null(stored):
        return True
    number = pt.is_integer(stored) or pt.is_floating(stored) or pt.is_decimal(stored)
    if number or _is_text(stored):
        return True
    if role == "time":
        return pt.is_date(stored) or pt.is_timestamp(stored)
    if role == "number":
        return pt.is_boolean(stored)
    if role == "text":
        listed = pt.is_list(stored) or pt.is_large_list(stored) or pt.is_fixed_size_list(stored)
        return (pt.is_boolean(stored) or pt.is_date(stored) or pt.is_timestamp(stored)
                or (listed and not pt.is_nested(stored.value_type) and _is_legal(stored.value_type, "text")))
    return False


def _is_text(stored: pa.DataType) -> bool:
    kinds: tuple[Callable[[pa.DataType], bool], ...] = (pt.is_string, pt.is_large_string, pt.is_string_view,
                                                        pt.is_binary, pt.is_large_binary, pt.is_binary_view)
    return any(kind(stored) for kind in kinds)


def words(stored: pa.DataType) -> str:
    """The plural of a type, as a person says it."""
    if pt.is_dictionary(stored):
        return words(stored.value_type)
    kinds: tuple[tuple[Callable[[pa.DataType], bool], str], ...] = (
        (pt.is_struct, "structs"), (pt.is_map, "maps"), (pt.is_union, "unions"), (pt.is_duration, "durations"),
        (pt.is_interval, "intervals"), (pt.is_time, "times of day without a date"), (pt.is_boolean, "true and false"),
        (pt.is_date, "dates"), (pt.is_timestamp, "times"), (pt.is_fixed_size_binary, "bytes of a fixed length"),
        (pt.is_integer, "whole numbers"), (_is_text, "text"))
    for kind, name in kinds:
        if kind(stored):
            return name
    return f"lists of {words(stored.value_type)}" if pt.is_nested(stored) else f"values of the type {stored}"
