"""From a source's config to its raw tables."""

from __future__ import annotations

from dataclasses import replace

from pipeline.prepare.config import (
    AmazonM2Source,
    AmazonReviewsSource,
    FileSourceConfig,
    KionSource,
    MovieLensSource,
    SequencesSource,
    SourceConfig,
    SyntheticSource,
    TableSource,
)
from pipeline.prepare.csv_batches import CSV, Dialect
from pipeline.prepare.files import source_files
from pipeline.prepare.raw import RawTables
from pipeline.prepare.source_amazon import read_amazon_m2, read_amazon_reviews
from pipeline.prepare.source_kion import read_kion
from pipeline.prepare.source_movielens import read_movielens
from pipeline.prepare.source_sequences import read_sequences
from pipeline.prepare.source_table import read_table
from pipeline.prepare.tables import TableReader, readable


def read_source(source: SourceConfig) -> RawTables:
    """The raw tables of a source, lazily.

    Raises:
        DataError: a file is missing, damaged, or lacks a column.
    """
    if isinstance(source, SyntheticSource):
        from pipeline.prepare.synthetic import read_synthetic

        return read_synthetic(source)
    return replace(_read_files(source), missing_words=source.missing_words)


def _read_files(source: FileSourceConfig) -> RawTables:
    files = source_files(source)
    reader = TableReader(source.encoding, Dialect(source.separator, source.quotes) if isinstance(source, TableSource)
                         else CSV)
    with readable(reader.files):
        match source:
            case SequencesSource():
                return read_sequences(reader, files)
            case MovieLensSource():
                return read_movielens(source, reader, files)
            case AmazonReviewsSource():
                return read_amazon_reviews(source, reader, files)
            case KionSource():
                return read_kion(reader, files)
            case AmazonM2Source():
                return read_amazon_m2(source, reader, files)
            case TableSource():
                return read_table(source, reader, files)
