"""CSV files as lazy polars tables of text, parsed by pyarrow.

pyarrow reads real files more faithfully than polars' own parser, which refuses a quote inside an unquoted field
(``11'09"01 - September 11`` in MovieLens), and it numbers the rows it cannot use.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import polars as pl
import pyarrow as pa
import pyarrow.csv as pacsv
from polars.io.plugins import register_io_source

from configs.errors import DataError
from pipeline.prepare.files import undecodable

BLOCK_BYTES: Final = 1 << 23
"""Read at once; no row may be longer."""
_BAD_ROW = re.compile(r"Row #(\d+): Expected (\d+) columns, got (\d+)")


def scan_csv(path: Path, shown: Path, separator: str = ",", names: list[str] | None = None,
             quoted: bool = True) -> pl.LazyFrame:
    """Every column as String, empty fields null, blank lines left out, rows in file order.

    Args:
        path: the file, in UTF-8.
        shown: what messages call it.
        names: column names of a file without a header.
        quoted: whether ``"`` encloses fields, which may then span lines.

    Raises:
        DataError: two columns have one name; now or when rows are read: a row that cannot be used, by its number.
    """
    with _named(path, shown):
        columns = names or _open(path, separator, None, quoted, []).schema.names
    twice = [name for name, count in Counter(columns).items() if count > 1]
    if twice:
        raise DataError(f"{shown}: column {twice[0]!r} stands twice in the header; rename one of them")

    def batches(wanted: list[str] | None, predicate: pl.Expr | None, num_rows: int | None,
                _: int | None) -> Iterator[pl.DataFrame]:
        with _named(path, shown), _open(path, separator, names, quoted, wanted or columns) as reader:
            for batch in reader:
                frame = pl.DataFrame(pl.from_arrow(batch))
                if num_rows is not None:
                    frame = frame.head(num_rows)
                    num_rows -= frame.height
                yield frame if predicate is None else frame.filter(predicate)
                if num_rows == 0:
                    return

    return register_io_source(batches, schema=dict.fromkeys(columns, pl.String))


@contextmanager
def _named(path: Path, shown: Path) -> Iterator[None]:
    """Turn what pyarrow says of a damaged file into a DataError that names file, place and remedy."""
    try:
        yield
    except (pa.ArrowException, UnicodeDecodeError) as exc:
        said = " ".join(str(exc).split())
        if isinstance(exc, UnicodeDecodeError) or "invalid UTF8" in said:
            said = undecodable(path, shown) or f"{shown}: {said}"
            raise DataError(said) from exc
        ragged = _BAD_ROW.search(said)
        if ragged:
            row, expected, got = map(int, ragged.groups())
            said = (f"data row {row - 1:,} has {got} fields where the header has {expected}; quote fields that hold "
                    "the separator")
        if "straddles" in said:
            said = f"a row is longer than {BLOCK_BYTES >> 20} MiB; is a quote left open?"
        raise DataError(f"{shown}: cannot be read: {said[:200]}") from exc


def _open(path: Path, separator: str, names: list[str] | None, quoted: bool,
          wanted: list[str]) -> pacsv.CSVStreamingReader:
    return pacsv.open_csv(
        path,
        # One thread: with several, errors lose their row number.
        read_options=pacsv.ReadOptions(block_size=BLOCK_BYTES, use_threads=False, column_names=names),
        parse_options=pacsv.ParseOptions(delimiter=separator, quote_char='"' if quoted else False,
                                         newlines_in_values=quoted),
        convert_options=pacsv.ConvertOptions(column_types=dict.fromkeys(wanted, pa.string()), include_columns=wanted,
                                             null_values=[""], strings_can_be_null=True,
                                             quoted_strings_can_be_null=True))
