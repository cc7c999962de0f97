"""Every answer a model has given, below the storage root, shared by all artifacts: nothing is asked twice.

``ledger/<author>/author.json`` says who answered, ``speed.json`` how fast; ``ledger/<author>/parts/*.parquet`` hold the
answers. A part is whole or absent, and is never changed. Deleting the folder loses money, no correctness.

Legend: K answers in the ledger.
"""

from __future__ import annotations

import bisect
import hashlib
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cluster.storage import Storage
from pipeline.profile.llm.requests import REQUEST, Answer, Author
from pipeline.store.arrow import open_arrow, write_arrow
from pipeline.work.ascending import held

FOLDER: Final = "ledger"
TEXT: Final = "text"
FINISH: Final = "finish_reason"
PROMPT_TOKENS: Final = "prompt_tokens"
OUTPUT_TOKENS: Final = "output_tokens"
STARTED_AT: Final = "started_at"
"""Unix seconds when the engine or server got the request."""
ANSWERED_AT: Final = "answered_at"
ATTEMPT: Final = "attempt"
"""The attempt that asked."""
SCHEMA: Final = pa.schema([
    (REQUEST, pa.string()), (TEXT, pa.string()), (FINISH, pa.string()), (PROMPT_TOKENS, pa.int32()),
    (OUTPUT_TOKENS, pa.int32()), (STARTED_AT, pa.float64()), (ANSWERED_AT, pa.float64()), (ATTEMPT, pa.string())])
_TOKENS_PER_SECOND = "tokens_per_second"
GROUP_ROWS = 1000
"""Answers read at once when one of them is looked up."""
_PART_ROWS = 50_000
_GROUPS_KEPT = 32
_READINGS = 5
"""Tries to read a ledger that others change."""


@dataclass(frozen=True)
class Ledger:
    """The answers of one author. Picklable: actors write to it."""

    storage: Storage
    folder: str

    @classmethod
    def of(cls, storage: Storage, author: Author) -> Ledger:
        """The author's ledger, begun if need be."""
        ledger = cls(storage, f"{FOLDER}/{author.digest}")
        if not storage.exists(f"{ledger.folder}/author.json"):
            storage.write_json(f"{ledger.folder}/author.json", dict(author.values))
        return ledger

    def write(self, answers: pa.Table) -> str:
        """Save answers; the same requests make the same file, so a repeated task leaves no double."""
        keys = "".join(sorted(answers[REQUEST].to_pylist()))
        name = f"{hashlib.blake2b(keys.encode(), digest_size=12).hexdigest()}.parquet"
        sink = pa.BufferOutputStream()
        pq.write_table(answers.cast(SCHEMA), sink, row_group_size=GROUP_ROWS, compression="zstd")
        self.storage.write_bytes(f"{self._parts}/{name}", sink.getvalue().to_pybytes())
        return name

    def parts(self) -> list[str]:
        """Names of the parts."""
        return [name for name in self.storage.names(self._parts) if name.endswith(".parquet")]

    def table(self, name: str) -> pa.Table:
        """A part."""
        return self.storage.read_table(f"{self._parts}/{name}")

    def group(self, name: str, group: int) -> pa.Table:
        """A row group of a part."""
        with self._open(name) as file:
            return file.read_row_group(group)

    def keys(self, name: str) -> Iterator[list[str]]:
        """The keys of a part, row group by row group."""
        with self._open(name) as file:
            for group in range(file.num_row_groups):
                yield file.read_row_group(group, columns=[REQUEST])[REQUEST].to_pylist()

    @property
    def speed(self) -> float | None:
        """Prompt and output tokens per second of one engine when the author was last asked; None: not known."""
        known = self.storage.read_json(self._speed) if self.storage.exists(self._speed) else {}
        return known.get(_TOKENS_PER_SECOND)

    def remember_speed(self, tokens_per_second: float) -> None:
        """For the plans of later commands."""
        self.storage.write_json(self._speed, {_TOKENS_PER_SECOND: round(tokens_per_second, 1)})

    def gather(self, attempt: str) -> int:
        """Put the small parts of an attempt into large ones; returns how many answers the attempt asked for.

        Every answer can be read all the while.
        """
        asked = rows = 0
        waiting: list[str] = []
        for name in self.parts():
            try:
                with self._open(name) as file:
                    attempts = file.read(columns=[ATTEMPT])[ATTEMPT]
            except FileNotFoundError:  # another run's, which gathers its own
                continue
            ours = pc.sum(pc.equal(attempts, attempt)).as_py() or 0
            asked += ours
            if ours == len(attempts) and ours < _PART_ROWS:
                waiting.append(name)
                rows += ours
            if rows >= _PART_ROWS:
                self._gather(waiting)
                waiting, rows = [], 0
        self._gather(waiting)
        return asked

    def _gather(self, names: list[str]) -> None:
        if len(names) > 1:
            self.write(pa.concat_tables(self.table(name) for name in names).sort_by(ANSWERED_AT))
            for name in names:
                self.storage.delete(f"{self._parts}/{name}")

    @property
    def _speed(self) -> str:
        return f"{self.folder}/speed.json"

    @property
    def _parts(self) -> str:
        return f"{self.folder}/parts"

    def _open(self, name: str) -> pq.ParquetFile:
        return pq.ParquetFile(self.storage.path(f"{self._parts}/{name}"), filesystem=self.storage.reader)


@dataclass(frozen=True)
class Index:
    """Where each answer stands; ascending by the first half of its key."""

    head_K: np.ndarray
    """uint64: the first half of the key."""
    part_K: np.ndarray
    """int32"""
    group_K: np.ndarray
    """int32"""
    parts: list[str]

    def __len__(self) -> int:
        return len(self.head_K)

    @classmethod
    def build(cls, ledger: Ledger) -> Index:
        """Read the keys of a whole ledger; once more where another run puts small parts into a large one meanwhile."""
        for _ in range(_READINGS):
            try:
                return cls._read(ledger)
            except FileNotFoundError:
                continue
        return cls._read(ledger)

    @classmethod
    def _read(cls, ledger: Ledger) -> Index:
        parts = ledger.parts()
        heads, owners, groups = [], [], []
        for number, name in enumerate(parts):
            for group, keys in enumerate(ledger.keys(name)):
                heads.append(heads_of(keys))
                owners.append(np.full(len(keys), number, np.int32))
                groups.append(np.full(len(keys), group, np.int32))
        head_K = np.concatenate([*heads, np.zeros(0, np.uint64)])
        order = np.argsort(head_K, kind="stable")
        return cls(head_K[order], np.concatenate([*owners, np.zeros(0, np.int32)])[order],
                   np.concatenate([*groups, np.zeros(0, np.int32)])[order], parts)

    def save(self, path: Path) -> None:
        """For actors to memory-map."""
        table = pa.table({"head": self.head_K, "part": self.part_K, "group": self.group_K})
        write_arrow(path, table.replace_schema_metadata({"parts": "\n".join(self.parts)}))

    @classmethod
    def open(cls, path: Path) -> Index:
        """Memory-map what :meth:`save` wrote."""
        table = open_arrow(path)
        parts = table.schema.metadata[b"parts"].decode().split("\n")
        return cls(table["head"].to_numpy(), table["part"].to_numpy(), table["group"].to_numpy(), parts)

    def holds(self, heads_N: np.ndarray) -> np.ndarray:
        """bool [N]: which keys, given by their first halves, are answered."""
        return held(self.head_K, heads_N)


class Lookup:
    """Answers by key, a few row groups in memory: what stands together was asked together."""

    def __init__(self, ledger: Ledger, index: Index) -> None:
        self._ledger = ledger
        self._index = index
        self._groups: OrderedDict[tuple[str, int], dict[str, Answer]] = OrderedDict()

    def __call__(self, key: str) -> Answer | None:
        """The answer, None where there is none."""
        try:
            return self._find(key)
        except FileNotFoundError:  # another run has put small parts into a large one
            self._index = Index.build(self._ledger)
            return self._find(key)

    def _find(self, key: str) -> Answer | None:
        head = np.uint64(int(key[:16], 16))
        place = bisect.bisect_left(self._index.head_K, head)
        while place < len(self._index) and self._index.head_K[place] == head:
            part, group = self._index.parts[self._index.part_K[place]], int(self._index.group_K[place])
            answer = self._group(part, group).get(key)
            if answer is not None:
                return answer
            place += 1
        return None

    def _group(self, part: str, group: int) -> dict[str, Answer]:
        known = self._groups.get((part, group))
        if known is None:
            columns = (REQUEST, TEXT, FINISH, PROMPT_TOKENS, OUTPUT_TOKENS, ATTEMPT)
            table = self._ledger.group(part, group)
            values = (table[column].to_pylist() for column in columns)
            known = {key: Answer(*answer) for key, *answer in zip(*values, strict=True)}
            self._groups[part, group] = known
            if len(self._groups) > _GROUPS_KEPT:
                self._groups.popitem(last=False)
        self._groups.move_to_end((part, group))
        return known


def heads_of(keys: list[str]) -> np.ndarray:
    """uint64: the first halves of keys."""
    return np.array([int(key[:16], 16) for key in keys], np.uint64)
