"""Delimited text as lazy polars tables of text, parsed by pyarrow.

pyarrow reads real files more faithfully than polars' own parser, which refuses a quote inside an unquoted field
(``11'09"01 - September 11`` in MovieLens), and it numbers the rows it cannot use.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import polars as pl
import pyarrow as pa
import pyarrow.csv as pacsv

from configs.errors import DataError
from pipeline.prepare.lazy import lazy_table
from pipeline.prepare.reading import Reading
from pipeline.prepare.streams import UNIT_SEPARATOR, Packed, Utf8File

BLOCK_BYTES: Final = 1 << 23
"""Read at once; no row may be longer."""
LINE: Final = "line"
_BAD_ROW = re.compile(r"Row #(\d+): Expected (\d+) columns, got (\d+)")


@dataclass(frozen=True)
class Dialect:
    """How the fields of a line are told apart."""

    separator: str = ","
    """One or several characters."""
    quotes: bool = True
    r"""Whether ``"`` encloses fields, which may then span lines; never with a separator of several characters."""
    header: bool = True
    """Whether the first line names the columns; else they are named by their position, ``1``, ``2``, …"""


CSV: Final = Dialect()


@dataclass(frozen=True)
class TextFile:
    """A delimited text file and how to read it."""

    path: Path
    packed: Packed
    encoding: str
    dialect: Dialect = CSV

    def scan(self) -> pl.LazyFrame:
        """Every column as String, empty fields null, blank lines left out, rows in file order.

        Raises:
            DataError: two columns have one name; now or when rows are read: a row that cannot be used, by its number.
        """
        with self._named():
            first = self._open_csv(self._open(), None, []).schema.names
            columns = ([name.strip() for name in first] if self.dialect.header
                       else [str(1 + place) for place in range(len(first))])
        twice = [name for name, count in Counter(columns).items() if count > 1]
        if twice:
            raise DataError(f"{self.path}: column {twice[0]!r} stands twice in the header; rename one of them")
        if not self.dialect.header:
            return lazy_table(dict.fromkeys(columns, pl.String), lambda wanted: self._batches(columns, wanted))
        written = dict(zip(columns, first, strict=True))
        spaced = columns != first
        return lazy_table(dict.fromkeys(columns, pl.String), lambda wanted: (
            _renamed(batch, wanted, unquote=spaced)
            for batch in self._batches(None, [written[name] for name in wanted])))

    def lines(self) -> pl.LazyFrame:
        """Every line as one String column ``line``; null where it is blank."""
        whole = TextFile(self.path, self.packed, self.encoding, Dialect(UNIT_SEPARATOR, quotes=False))
        return lazy_table({LINE: pl.String}, lambda wanted: whole._batches([LINE], wanted, blank_lines=True))

    def _batches(self, names: list[str] | None, wanted: list[str], blank_lines: bool = False
                 ) -> Iterator[pl.DataFrame]:
        file, text = self._open(), 0
        with self._named(), Reading(self.path) as reading, self._open_csv(file, names, wanted, blank_lines) as reader:
            for batch in reader:
                yield pl.DataFrame(pl.from_arrow(batch))
                text += BLOCK_BYTES  # the file itself is read ahead by many blocks
                reading.add(batch.num_rows, file.place_of(text) if isinstance(file, Utf8File) else text)

    def _open_csv(self, file: pa.OSFile | Utf8File, names: list[str] | None, wanted: list[str],
                  blank_lines: bool = False) -> pacsv.CSVStreamingReader:
        several = len(self.dialect.separator) > 1
        quoted = self.dialect.quotes and not several
        return pacsv.open_csv(
            file,
            # One thread: with several, errors lose their row number.
            read_options=pacsv.ReadOptions(block_size=BLOCK_BYTES, use_threads=False, column_names=names),
            parse_options=pacsv.ParseOptions(delimiter=UNIT_SEPARATOR if several else self.dialect.separator,
                                             quote_char='"' if quoted else False, newlines_in_values=quoted,
                                             ignore_empty_lines=not blank_lines),
            convert_options=pacsv.ConvertOptions(column_types=dict.fromkeys(wanted, pa.string()),
                                                 include_columns=wanted, null_values=[""], strings_can_be_null=True,
                                                 quoted_strings_can_be_null=True))

    def _open(self) -> pa.OSFile | Utf8File:
        plain = self.packed.container is None and self.encoding == "utf-8" and len(self.dialect.separator) == 1
        return pa.OSFile(str(self.path)) if plain else self._open_decoded()

    def _open_decoded(self) -> Utf8File:
        return Utf8File(self.path, self.packed, self.encoding, self.dialect.separator)

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Turn what pyarrow says of a damaged file into a DataError that names file, place and remedy."""
        try:
            yield
        except (pa.ArrowException, UnicodeDecodeError) as exc:
            raise DataError(f"{self.path}: {self._fault(' '.join(str(exc).split()))}") from exc

    def _fault(self, said: str) -> str:
        if "invalid UTF8" in said or "utf-8" in said:
            _drain(self._open_decoded)  # raises with the offset
        ragged = _BAD_ROW.search(said)
        if ragged:
            row, expected, got = map(int, ragged.groups())
            if self.dialect.separator == UNIT_SEPARATOR:
                return f"line {row:,} holds the control character 0x1f, which stands in no text; mend the file"
            header = "header" if self.dialect.header else "first line"
            return (f"cannot be read: data row {row - self.dialect.header:,} has {got} fields where the {header} has "
                    f"{expected}; quote fields that hold the separator")
        if "straddles" in said:
            return (f"cannot be read: a row is longer than {BLOCK_BYTES >> 20} MiB; is a quote left open? In a file "
                    "whose quotes enclose nothing set prepare.source.quotes=false")
        if "Empty CSV" in said:
            return "holds no text but blank lines; fetch it again"
        return f"cannot be read: {said[:200]}"


def _renamed(batch: pl.DataFrame, names: list[str], unquote: bool) -> pl.DataFrame:
    """Columns by their stripped names; ``unquote`` takes the quotes off fields that stand after a space."""
    batch = batch.rename(dict(zip(batch.columns, names, strict=True)))
    if not unquote:
        return batch
    fields = {name: pl.col(name).str.extract(r'(?s)^\s+"(.*)"\s*$').str.replace_all('""', '"', literal=True)
              for name in names}
    return batch.select(pl.coalesce(inner, name).alias(name) for name, inner in fields.items())


def _drain(open_: Callable[[], Utf8File]) -> None:
    with open_() as stream:
        while stream.read(1 << 22):
            continue
