"""Raw delimited text, JSON lines and Parquet files as lazy polars tables of the columns that are wanted."""

from __future__ import annotations

import codecs
import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import polars as pl

from configs.errors import DataError
from pipeline.prepare.column_types import Role, check_type, refuse_type
from pipeline.prepare.csv_batches import CSV, Dialect, TextFile
from pipeline.prepare.forms import Form, form_of
from pipeline.prepare.json_batches import JsonLines, nested
from pipeline.prepare.parquet_batches import ParquetFile

_SEPARATORS = {";": ";", "\t": "\\t", "|": "|", "::": "::", ",": ","}
"""Separator → how it is written in a setting."""
_SHOWN_NAMES = 30
_SHOWN_CHARACTERS = 60


class TableReader:
    """Scans raw files of one encoding and dialect.

    Columns of delimited text and JSON lines are all read as text: an id ``007`` stays ``007``, and numbers are parsed
    where a failure can be told with its row.
    """

    def __init__(self, encoding: str = "utf-8", dialect: Dialect = CSV) -> None:
        try:
            name = codecs.lookup(encoding).name
            codecs.getincrementaldecoder(name)()
        except LookupError as exc:
            raise DataError(f"prepare.source.encoding: got {encoding!r}; legal: a name Python knows, such as utf-8, "
                            "latin-1, cp1252, utf-16") from exc
        self._encoding = "utf-8" if name in ("utf-8-sig", "ascii") else name
        self._dialect = dialect
        self._forms: dict[Path, Form] = {}

    def without_header(self) -> TableReader:
        """The same reader for files whose columns are named by their position."""
        other = copy.copy(self)
        other._dialect = replace(self._dialect, header=False)
        return other

    @property
    def files(self) -> Iterable[Path]:
        """The files scanned so far, for messages; grows with them."""
        return self._forms.keys()

    def names(self, path: Path) -> list[str]:
        """The columns of one file; of JSON lines those of its first lines.

        Raises:
            DataError: the file is damaged, or of a form that is not read.
        """
        match self._open(path):
            case ParquetFile() as parquet:
                return list(parquet.schema().names)
            case JsonLines() as lines:
                return list(dict.fromkeys(name for row in lines.first_objects() for name in row))
            case TextFile() as text:
                return text.scan().collect_schema().names()

    def scan(self, path: Path, columns: Mapping[str, Role], optional: Sequence[str] = ()) -> pl.LazyFrame:
        """The named columns of one file, in this order; ``optional`` texts where they are there.

        Raises:
            DataError: the file is damaged, lacks a column, or a column is of a type that cannot be what it is needed
                for.
        """
        roles: dict[str, Role] = {**columns, **{name: "text" for name in optional if name not in columns}}
        match self._open(path):
            case ParquetFile() as parquet:
                schema = parquet.schema()
                wanted = self._present(path, columns, optional, schema.names)
                for name in wanted:
                    check_type(path, name, schema.field(name).type, roles[name])
                return parquet.scan(wanted)
            case JsonLines() as lines:
                first = lines.first_objects()
                seen = dict.fromkeys(name for row in first for name in row)
                late = [name for name in roles if name not in seen and lines.mentions(name)]
                wanted = self._present(path, columns, optional, [*seen, *late])
                for name in wanted:
                    found = next(filter(None, (nested(row.get(name)) for row in first)), None)
                    if found and roles[name] != "text":
                        refuse_type(path, name, found, roles[name])
                return lines.scan(wanted)
            case TextFile() as text:
                frame = text.scan()
                return frame.select(self._present(path, columns, optional, frame.collect_schema().names()))

    def parts(self, path: Path, rows: pl.LazyFrame) -> list[tuple[pl.LazyFrame, int]]:
        """What ``scan`` gave of one file, in consecutive parts that can be read side by side, with bytes of each."""
        match self._open(path):
            case ParquetFile() as parquet:
                return parquet.parts(rows.collect_schema().names())
            case _:
                return [(rows, path.stat().st_size)]

    def lines(self, path: Path) -> pl.LazyFrame:
        """A text file's lines as one String column ``line``; null where a line is blank."""
        form = self._form(path)
        if form.layout == "parquet":
            raise DataError(f"{path}: a Parquet file; legal: text with one user or item per line; read it with "
                            "source.kind=table")
        return TextFile(path, form.packed, self._encoding).lines()

    def _open(self, path: Path) -> ParquetFile | JsonLines | TextFile:
        form = self._form(path)
        if form.layout == "parquet":
            return ParquetFile(path)
        if form.layout == "json lines":
            return JsonLines(path, form.packed, self._encoding)
        return TextFile(path, form.packed, self._encoding, self._dialect)

    def _form(self, path: Path) -> Form:
        if path not in self._forms:
            self._forms[path] = form_of(path, self._encoding)
        return self._forms[path]

    def _present(self, path: Path, columns: Iterable[str], optional: Sequence[str], present: Sequence[str]
                 ) -> list[str]:
        missing = [name for name in columns if name not in present]
        if missing:
            raise DataError(f"{path}: no column {', '.join(map(repr, missing))}; present: {_listed(present)}; "
                            f"{self._remedy(path, present)}")
        return list(dict.fromkeys([*columns, *(name for name in optional if name in present)]))

    def _remedy(self, path: Path, present: Sequence[str]) -> str:
        if self._form(path).layout != "delimited":
            return "mend the file, or the column names in prepare.source"
        if not self._dialect.header:
            return f"positions go from 1 to {len(present)}"
        other = next((written for sign, written in _SEPARATORS.items() if len(present) == 1 and sign in present[0]), "")
        if other:
            return f"the header holds {other!r}: set prepare.source.separator={other!r}"
        if any(name.replace(".", "").isdigit() for name in present):
            return ("the first line looks like data: of a file without a header name columns by their position, for "
                    "example prepare.source.columns={user: 1, item: 2, timestamp: 3}")
        return "mend the header, or the column names in prepare.source"


def _listed(names: Sequence[str]) -> str:
    """Column names for a message of one line."""
    first = names[:_SHOWN_NAMES]
    short = (name if len(name) <= _SHOWN_CHARACTERS else f"{name[:_SHOWN_CHARACTERS]}…" for name in first)
    shown = ", ".join(name if name.isprintable() else repr(name) for name in short)
    return f"{shown} and {len(names) - _SHOWN_NAMES} more" if len(names) > _SHOWN_NAMES else shown


def scanned_files(keep: object) -> Iterable[Path]:
    """The files behind raw tables, from what keeps them alive."""
    return keep.files if isinstance(keep, TableReader) else []


@contextmanager
def readable(files: Iterable[Path]) -> Iterator[None]:
    """Turn what polars says while it collects raw tables into a DataError that names the files."""
    try:
        yield
    except (pl.exceptions.PolarsError, OSError) as exc:
        names = ", ".join(map(str, files))
        raise DataError(f"{names}: cannot be read: {(str(exc).splitlines() or [''])[0][:200]}") from exc
