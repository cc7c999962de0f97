"""Parquet files as lazy polars tables of few types: text, numbers, times, lists.

pyarrow reads them: damaged files make it raise, never panic.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.types as pt

from configs.errors import DataError
from pipeline.prepare.lazy import lazy_table
from pipeline.work.progress import Progress

_BATCH_ROWS = 1 << 17
PART_BYTES = 1 << 26
"""Of a part, at least, but of the last one; before they are packed."""


@dataclass(frozen=True)
class ParquetFile:
    """A Parquet file."""

    path: Path

    def schema(self) -> pa.Schema:
        """Names and types as they are stored.

        Raises:
            DataError: the file is damaged.
        """
        with self._named(), pq.ParquetFile(self.path) as file:
            return file.schema_arrow

    def scan(self, columns: list[str]) -> pl.LazyFrame:
        """The columns, whose types ``column_types`` has found legal; what is text in a wider sense becomes text.

        Raises:
            DataError: when rows are read: the file is damaged.
        """
        return self._scan(self.schema(), columns, None)

    def parts(self, columns: list[str]) -> list[tuple[pl.LazyFrame, int]]:
        """:meth:`scan` in consecutive parts of whole row groups, with the bytes of each.

        Raises:
            DataError: as :meth:`scan`.
        """
        with self._named(), pq.ParquetFile(self.path) as file:
            schema = file.schema_arrow
            sizes = [file.metadata.row_group(group).total_byte_size for group in range(file.num_row_groups)]
        parts, groups, held = [], list[int](), 0
        for group, size in enumerate(sizes):
            groups, held = [*groups, group], held + size
            if held >= PART_BYTES or group == len(sizes) - 1:
                parts.append((self._scan(schema, columns, groups), held))
                groups, held = [], 0
        return parts

    def _scan(self, schema: pa.Schema, columns: list[str], groups: list[int] | None) -> pl.LazyFrame:
        """Of some row groups; None: of all."""
        plain = pa.schema([(name, _plain(schema.field(name).type)) for name in columns])
        return lazy_table(dict(pl.DataFrame(pl.from_arrow(plain.empty_table())).schema),
                          lambda wanted: self._batches(plain, wanted, groups))

    def _batches(self, plain: pa.Schema, wanted: list[str], groups: list[int] | None) -> Iterator[pl.DataFrame]:
        rows = 0
        with (self._named(), pq.ParquetFile(self.path, pre_buffer=False) as file,
              Progress(f"prepare: reading {self.path.name}", _rows(file, groups), "rows") as progress):
            for batch in file.iter_batches(_BATCH_ROWS, row_groups=groups, columns=wanted):
                rows += batch.num_rows
                columns = [self._cast(name, batch.column(name), plain.field(name).type) for name in wanted]
                yield pl.DataFrame(pl.from_arrow(pa.table(columns, wanted)))
                progress.update(rows)
            if rows != _rows(file, groups):
                raise DataError(f"{self.path}: a damaged Parquet file: {rows:,} rows where its end tells of "
                                f"{_rows(file, groups):,}; fetch it again")

    def _cast(self, name: str, column: pa.Array, wanted: pa.DataType) -> pa.Array:
        try:
            return column.cast(wanted)
        except pa.ArrowInvalid as exc:
            raise DataError(f"{self.path}: column {name!r} holds bytes that are not UTF-8 text; write it as text"
                            ) from exc

    @contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except (pa.ArrowException, OSError, UnicodeDecodeError) as exc:
            raise DataError(f"{self.path}: cannot be read: a damaged Parquet file; fetch it or write it again") from exc


def _rows(file: pq.ParquetFile, groups: list[int] | None) -> int:
    """As the file's end has it."""
    if groups is None:
        return int(file.metadata.num_rows)
    return sum(file.metadata.row_group(group).num_rows for group in groups)


def _plain(stored: pa.DataType) -> pa.DataType:
    """The type that a column is read as."""
    if pt.is_dictionary(stored):
        return _plain(stored.value_type)
    if pt.is_list(stored) or pt.is_large_list(stored) or pt.is_fixed_size_list(stored):
        return pa.large_list(_plain(stored.value_type))
    if pt.is_string(stored) or pt.is_large_string(stored) or pt.is_string_view(stored) or pt.is_decimal(stored):
        return pa.large_string()
    if pt.is_null(stored) or pt.is_binary(stored) or pt.is_large_binary(stored) or pt.is_binary_view(stored):
        return pa.large_string()
    return pa.float32() if pt.is_float16(stored) else stored
