"""Arrow IPC files that readers memory-map. Imports no torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.ipc

from models.ragged import offsets_of


def open_arrow(path: Path) -> pa.Table:
    """An Arrow IPC file, memory-mapped."""
    return pa.ipc.open_file(pa.memory_map(str(path))).read_all()


def write_arrow(path: str | Path, table: pa.Table) -> None:
    """One record batch, uncompressed, so that readers map it without a copy."""
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table.combine_chunks())


def numbers(column: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """Numbers without nulls as numpy, zero-copy for one chunk.

    pyarrow's ``to_numpy`` does the same, but imports pandas where that is installed: sixty megabytes in every worker.
    """
    if isinstance(column, pa.ChunkedArray):
        if column.num_chunks == 0:
            return np.zeros(0, column.type.to_pandas_dtype())
        column = one_array(column)
    return np.from_dlpack(column)


def one_array(column: pa.ChunkedArray) -> pa.Array:
    """A column of at least one chunk as one array, zero-copy for one chunk."""
    return column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks)


def row_lengths(lists: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """Entries of each row of a column of lists, int64 [N]; a null list has none."""
    return numbers(pc.fill_null(pc.list_value_length(lists), 0)).astype(np.int64)


def text_bytes(column: pa.ChunkedArray) -> np.ndarray:
    """Bytes of each row of a column of strings, or of lists of strings, int64 [N]; null has none."""
    if not pa.types.is_list(column.type):
        return numbers(pc.fill_null(pc.binary_length(column), 0)).astype(np.int64)
    return np.diff(offsets_of(text_bytes(pc.list_flatten(column)))[offsets_of(row_lengths(column))])


def by_name(column: pa.ChunkedArray) -> tuple[tuple[str, ...], np.ndarray]:
    """The different strings of a column of at least one chunk and without nulls, sorted, and each row's place among
    them, int64 [N]."""
    encoded = column.dictionary_encode().unify_dictionaries()
    names = encoded.chunk(0).dictionary.to_pylist()  # the texts in one array might not fit into it
    place = np.argsort(np.array(names, dtype=object))
    return tuple(names[i] for i in place), np.argsort(place)[np.concatenate([
        numbers(chunk.indices) for chunk in encoded.chunks])]
