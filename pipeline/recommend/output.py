"""Lists of an artifact as the file that was asked for: raw ids, scores, titles; Parquet or JSON lines."""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from cluster.config import StorageConfig
from cluster.storage import Storage
from configs.errors import ConfigError, illegal
from pipeline.api.items import Items
from pipeline.api.recommendations import MODEL, POPULARITY
from pipeline.recommend.stage import LISTS, POPULAR, SCORES, UNKNOWN
from pipeline.store.artifacts import Artifact
from pipeline.store.columns import ITEMS, USER_ID

SUFFIXES = (".parquet", ".jsonl", ".ndjson")


def check_output(output: str, storage: StorageConfig) -> tuple[Storage, str]:
    """Where a path or URI lies: its folder's storage and its name.

    Raises:
        ConfigError: a suffix that is no known form, or a folder of that name.
    """
    folder, _, name = output.rpartition("/")
    if not name.endswith(SUFFIXES):
        raise ConfigError(illegal("--output", output, f"a path or URI that ends in {', '.join(SUFFIXES)}"))
    place = folder or ("/" if output.startswith("/") else ".")
    uri = {"uri": place}
    out = Storage.from_config(storage.model_copy(update=uri) if place.startswith("s3://") else StorageConfig(**uri))
    with out.reading(name) as path:
        taken = out.filesystem.get_file_info(path).type == pafs.FileType.Directory
    if taken:
        raise ConfigError(illegal("--output", output, "a file", "there is a folder of that name"))
    return out, name


def write_output(out: Storage, name: str, lists: Artifact, items: Items, titles: bool) -> None:
    """The file, whole or not at all: a row per sequence, in their order.

    Columns: user_id, items, scores, titles on request, by (`model` or `popularity`), unknown.
    """
    partial = f".{name}.partial"
    out.make_dir("")
    with out.writing(partial) as path:
        try:
            with out.filesystem.open_output_stream(path) as sink:
                if name.endswith(".parquet"):
                    _write_parquet(sink, _tables(lists, items, titles))
                else:
                    for table in _tables(lists, items, titles):
                        for row in table.to_pylist():
                            sink.write((json.dumps(row, ensure_ascii=False) + "\n").encode())
            out.filesystem.move(path, out.path(name))
        except BaseException:
            out.delete(partial)
            raise


def _write_parquet(sink: pa.NativeFile, tables: Iterator[pa.Table]) -> None:
    first = next(tables)
    with pq.ParquetWriter(sink, first.schema, compression="zstd") as writer:
        writer.write_table(first)
        for table in tables:
            writer.write_table(table)


def _tables(lists: Artifact, items: Items, titles: bool) -> Iterator[pa.Table]:
    ids_V, titles_V = pa.array(items.ids, pa.string()), pa.array(items.titles, pa.string())
    for number in range(len(lists.storage.names(lists.relative(LISTS)))):
        part = lists.read_table(f"{LISTS}/part-{number:05d}.parquet")
        column = part[ITEMS].combine_chunks()
        at = pa.array(column.flatten().to_numpy().astype(np.int64) - 1)
        columns = {USER_ID: part[USER_ID], ITEMS: pa.ListArray.from_arrays(column.offsets, ids_V.take(at)),
                   SCORES: part[SCORES]}
        if titles:
            columns["titles"] = pa.ListArray.from_arrays(column.offsets, titles_V.take(at))
        columns["by"] = pc.if_else(part[POPULAR], POPULARITY, MODEL)
        columns[UNKNOWN] = part[UNKNOWN]
        yield pa.table(columns)
