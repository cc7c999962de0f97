"""JSON lines as lazy polars tables of text."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NoReturn

import polars as pl

from configs.errors import DataError
from pipeline.prepare.lazy import lazy_table
from pipeline.prepare.reading import Reading
from pipeline.prepare.streams import Packed, Utf8File, line_blocks

_BLOCK_BYTES: Final = 1 << 22
_PEEK_LINES: Final = 100


@dataclass(frozen=True)
class JsonLines:
    """A file of one JSON object per line."""

    path: Path
    packed: Packed
    encoding: str

    def scan(self, columns: Sequence[str]) -> pl.LazyFrame:
        """The columns as String: numbers in their own words, lists and objects as JSON, absent keys null.

        Raises:
            DataError: when rows are read: a line that is no JSON object, by its number.
        """
        return lazy_table(dict.fromkeys(columns, pl.String), self._batches)

    def first_objects(self) -> list[dict[str, Any]]:
        """The objects of the first lines.

        Raises:
            DataError: one of them is no JSON object.
        """
        first = next(self._blocks(), b"").decode().split("\n", _PEEK_LINES)[:_PEEK_LINES]
        return self._objects(first, 0)

    def mentions(self, key: str) -> bool:
        """Whether a line holds the key, or the same word in quotes."""
        word = json.dumps(key, ensure_ascii=False).encode()
        escaped = json.dumps(key).encode()
        return any(word in block or escaped in block for block in self._blocks())

    def _batches(self, wanted: list[str]) -> Iterator[pl.DataFrame]:
        schema = dict.fromkeys(wanted, pl.String)
        number = 0
        for block in self._blocks():
            try:
                yield pl.read_ndjson(io.BytesIO(block), schema=schema)
            except pl.exceptions.PolarsError:  # NaN, or a line that is no object: Python's parser knows both
                yield self._parse(block, number, wanted)
            number += block.count(b"\n")

    def _parse(self, block: bytes, before: int, wanted: list[str]) -> pl.DataFrame:
        rows = self._objects(block.decode().split("\n"), before)
        return pl.DataFrame({name: [_word(row.get(name)) for row in rows] for name in wanted},
                            schema=dict.fromkeys(wanted, pl.String))

    def _objects(self, lines: Sequence[str], before: int) -> list[dict[str, Any]]:
        return [self._object(line, number) for number, line in enumerate(lines, before + 1) if line.strip()]

    def _object(self, line: str, number: int) -> dict[str, Any]:
        try:
            value = json.loads(line, parse_int=_Number, parse_float=_Number, parse_constant=_Number)
        except json.JSONDecodeError as exc:
            self._refuse(number, f"is not JSON ({exc.msg.removesuffix(' at')} at character {exc.pos + 1})")
        except RecursionError:
            self._refuse(number, "is nested too deeply")
        if not isinstance(value, dict):
            self._refuse(number, f"is a JSON {'number' if isinstance(value, _Number) else type(value).__name__}")
        return value

    def _refuse(self, number: int, what: str) -> NoReturn:
        raise DataError(f"{self.path}: line {number:,} {what}; the file needs one object per line")

    def _blocks(self) -> Iterator[bytes]:
        text = 0
        with Reading(self.path) as reading, Utf8File(self.path, self.packed, self.encoding) as stream:
            for block in line_blocks(stream, self.path, _BLOCK_BYTES):
                yield block
                text += len(block)
                reading.add(block.count(b"\n"), stream.place_of(text))


class _Number(str):
    """A number in the words of the file."""


def nested(value: object) -> str | None:
    """What a JSON value holds that is no single value."""
    if isinstance(value, list):
        return "lists"
    return "objects" if isinstance(value, dict) else None


def _word(value: Any) -> str | None:
    if value is None:
        return None
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()  # half of a surrogate pair is no text
    return json.dumps(value, ensure_ascii=False)
