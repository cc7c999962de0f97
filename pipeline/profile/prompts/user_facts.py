"""What is known of a user beside the history.

Legend: M users.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from configs.errors import DataError, illegal
from pipeline.profile.prompts.cleaning import Cleaner
from pipeline.profile.prompts.config import PromptConfig
from pipeline.store.arrow import open_arrow
from pipeline.store.columns import ATTRIBUTES

CHUNK_USERS = 8192
USERS_FILE = "users.arrow"


@dataclass(frozen=True)
class UserFacts:
    """Attributes by name, in the order they are told. Raw values: prompts clean them."""

    attributes: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(cls, values: Mapping[str, str] | Iterable[tuple[str, str]] | None, config: PromptConfig) -> UserFacts:
        """The attributes of ``users.parquet`` (a map column's entries) that the config tells."""
        known = dict(values or ())
        return cls(tuple((name, known[name]) for name in config.attributes if known.get(name)))

    def lines(self, cleaner: Cleaner, limit: int) -> list[str]:
        """One clean line per attribute."""
        told = ((cleaner.line(name.replace("_", " "), limit), cleaner.line(value, limit))
                for name, value in self.attributes)
        return [f"{name}: {value}" for name, value in told if name and value]


@dataclass(frozen=True)
class UserTable:
    """Facts of all users, memory-mapped; made only where the config tells attributes."""

    config: PromptConfig
    columns: Mapping[str, pa.ChunkedArray]
    """Attribute → string [M], null where it is not known of a user."""

    @classmethod
    def build(cls, batches: Iterable[pa.RecordBatch], folder: Path, config: PromptConfig) -> None:
        """Write the told attributes below ``folder``, in one pass and bounded memory.

        Args:
            batches: rows of ``users.parquet`` in index order, column ATTRIBUTES.
            folder: made if need be.
            config: which attributes are told.

        Raises:
            DataError: no user has an attribute that the config names.
        """
        folder.mkdir(parents=True, exist_ok=True)
        schema = pa.schema([(name, pa.string()) for name in config.attributes])
        met: dict[str, None] = {}
        with pa.OSFile(str(folder / USERS_FILE), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
            for batch in _rechunked(batches):
                rows = [dict(row or ()) for row in batch[ATTRIBUTES].to_pylist()]
                met.update(dict.fromkeys(name for row in rows for name in row))
                writer.write_batch(pa.record_batch(
                    [pa.array([row.get(name) for row in rows], pa.string()) for name in config.attributes],
                    schema=schema))
        missing = [name for name in config.attributes if name not in met]
        if missing:
            raise DataError(illegal("prompt.attributes", missing[0], met or "none, the users have no attributes",
                                    "mend the name, or let prepare keep the attribute"))

    @classmethod
    def open(cls, folder: Path, config: PromptConfig) -> UserTable:
        """Memory-map what :meth:`build` wrote; nothing is read where no attribute is told."""
        table = open_arrow(folder / USERS_FILE) if config.attributes else None
        return cls(config, {name: table[name] for name in config.attributes} if table is not None else {})

    def facts(self, user: int) -> UserFacts:
        """Of the user with this index."""
        values = ((name, column.chunk(user // CHUNK_USERS)[user % CHUNK_USERS].as_py())
                  for name, column in self.columns.items())
        return UserFacts(tuple((name, value) for name, value in values if value))


def _rechunked(batches: Iterable[pa.RecordBatch]) -> Iterable[pa.RecordBatch]:
    """The same rows, ``CHUNK_USERS`` in each batch but the last."""
    waiting: list[pa.RecordBatch] = []
    for batch in batches:
        while batch.num_rows:
            room = CHUNK_USERS - sum(piece.num_rows for piece in waiting)
            waiting.append(batch.slice(0, room))
            batch = batch.slice(room)
            if sum(piece.num_rows for piece in waiting) == CHUNK_USERS:
                yield pa.concat_batches(waiting)
                waiting = []
    if waiting:
        yield pa.concat_batches(waiting)
