"""Sequences to be answered: new ones from JSON lines or Parquet, or the histories of a run's users.

Legend: N sequences, M users.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from configs.errors import DataError, illegal
from models.ragged import offsets_of
from models.sequences import Sequences
from pipeline.api.filters import text_id
from pipeline.api.items import Items
from pipeline.store import arrays
from pipeline.store.arrow import numbers
from pipeline.store.artifacts import Artifact
from pipeline.store.columns import ITEM_IDX, ITEMS, TIMESTAMPS, USER_ID, USER_IDX

_FORMS = ".jsonl or .ndjson (a JSON object per line) or .parquet"
_SHAPE = ('{"items": ["a", "b"]}, oldest first; beside it may stand "user_id" and, as many as items, "timestamps"')


@dataclass(frozen=True)
class NamedHistories:
    """Who is to get a list, and from which history."""

    names: list[str]
    """User ids, or the rows' own; N."""
    sequences: Sequences
    """Of items that the model knows."""
    unknown_N: np.ndarray
    """int32, items of each that it does not know."""


def read_sequences(path: Path, items: Items) -> NamedHistories:
    """New sequences of a file.

    Raises:
        DataError: unreadable, or a row that is no sequence; file and row are named.
    """
    names, rows = [], []
    for place, row in _rows(path):
        where = f"{path}, row {place}"
        if not isinstance(row, dict) or not isinstance(row.get(ITEMS), list):
            raise DataError(illegal(where, _short(row), _SHAPE))
        try:
            names.append(text_id(row[USER_ID]) if row.get(USER_ID) is not None else str(place))
            rows.append([text_id(raw) for raw in _in_time(row)])
        except DataError as exc:
            raise DataError(f"{where}: {exc}") from exc
    if not rows:
        raise DataError(illegal(str(path), "no rows", f"one sequence per row: {_SHAPE}"))
    indexed = items.indexed(rows)
    return NamedHistories(names, indexed.sequences, indexed.unknown_N)


def _in_time(row: dict[str, Any]) -> list[Any]:
    """The items, by their times where the row has them; equal times keep their order."""
    times, items = row.get(TIMESTAMPS), row[ITEMS]
    if times is None:
        return list(items)
    if not isinstance(times, list) or len(times) != len(items):
        raise DataError(illegal("timestamps", _short(times), f"a list of {len(items)}, one per item"))
    try:
        order = sorted(range(len(items)), key=times.__getitem__)
    except TypeError as exc:
        raise DataError(illegal("timestamps", _short(times), "all numbers, or all ISO texts")) from exc
    return [items[i] for i in order]


def _rows(path: Path) -> Iterator[tuple[int, Any]]:
    """Number, from 1, and value of each row."""
    if path.suffix == ".parquet":
        try:
            table = pq.ParquetFile(path).read()
        except (OSError, pa.ArrowInvalid) as exc:
            raise DataError(f"{path}: cannot be read as Parquet: {' '.join(str(exc).split())}") from exc
        if ITEMS not in table.column_names:
            raise DataError(illegal(f"{path}: columns", ", ".join(table.column_names), f"{ITEMS} (lists of item ids), "
                                    f"{USER_ID}, {TIMESTAMPS}"))
        wanted = [name for name in (USER_ID, ITEMS, TIMESTAMPS) if name in table.column_names]
        yield from enumerate(table.select(wanted).to_pylist(), 1)
        return
    if path.suffix not in (".jsonl", ".ndjson"):
        raise DataError(illegal("--sequences", str(path), _FORMS))
    yield from _json_rows(path)


def _json_rows(path: Path) -> Iterator[tuple[int, Any]]:
    try:
        with path.open(encoding="utf-8-sig") as file:
            for place, line in enumerate(file, 1):
                if not line.strip():
                    continue
                try:
                    yield place, json.loads(line)
                except (ValueError, RecursionError) as exc:
                    raise DataError(f"{path}, row {place}: not JSON: {exc}; legal: {_SHAPE}") from exc
    except OSError as exc:
        raise DataError(f"{path}: cannot be read: {exc.strerror}") from exc
    except UnicodeDecodeError as exc:
        raise DataError(f"{path}: not UTF-8 at byte {exc.start}; save it as UTF-8") from exc


def run_histories(prepared: Artifact, history: Literal["all", "evaluated"], chosen: Sequence[str] | None
                  ) -> NamedHistories:
    """Histories of a run's users.

    Args:
        history: see ``RecommendConfig``.
        chosen: raw user ids, in this order; None: all.

    Raises:
        DataError: a chosen user is unknown, or nobody is left.
    """
    table = prepared.read_table("users.parquet", [USER_IDX, USER_ID]).sort_by(USER_IDX)
    names: list[str] = table[USER_ID].to_pylist()
    if history == "evaluated":
        cases = arrays.cases(prepared.local("test.arrow"))
        sequences, users_N = cases.histories, cases.users
    else:
        interactions = prepared.read_table("interactions.parquet", [USER_IDX, ITEM_IDX])  # by user, then time
        counts_M = np.bincount(numbers(interactions[USER_IDX]), minlength=len(names))
        sequences, users_N = Sequences(numbers(interactions[ITEM_IDX]), offsets_of(counts_M)), np.arange(len(names))
    own = [names[user] for user in users_N.tolist()]
    if chosen is not None:
        place = {name: index for index, name in enumerate(own)}
        strange = [name for name in chosen if name not in place]
        if strange:
            what = "test users" if history == "evaluated" else "users"
            raise DataError(illegal(f"user ({len(strange)} of {len(chosen)} unknown)", strange[0],
                                    f"one of the run's {len(own):,} {what}, such as {', '.join(own[:3])}"))
        rows = np.array([place[name] for name in chosen], np.int64)
        own, sequences = list(chosen), taken(sequences, rows)
    if not own:
        raise DataError(illegal("users", 0, "1 or more", "the run has no test users: use recommend.history=all"
                                if history == "evaluated" else "name some"))
    return NamedHistories(own, sequences, np.zeros(len(own), np.int32))


def taken(sequences: Sequences, rows: np.ndarray) -> Sequences:
    """Some sequences, in the order of ``rows``."""
    lists = [sequences[row] for row in rows.tolist()]
    offsets = offsets_of([len(values) for values in lists])
    return Sequences(np.concatenate([np.zeros(0, np.int32), *lists]).astype(np.int32), offsets)


def read_ids(setting: str, path: str) -> list[str]:
    """Ids of a text file, one per line; empty lines are skipped.

    Raises:
        DataError: unreadable, or without any.
    """
    try:
        lines = Path(path).expanduser().read_text(encoding="utf-8-sig").splitlines()
    except OSError as exc:
        raise DataError(f"{setting}: {path}: cannot be read: {exc.strerror}; legal: a text file of ids, one per line"
                        ) from exc
    except UnicodeDecodeError as exc:
        raise DataError(f"{setting}: {path}: not UTF-8 at byte {exc.start}; save it as UTF-8") from exc
    ids = _distinct(line.strip() for line in lines)
    if not ids:
        raise DataError(illegal(setting, path, "a text file of ids, one per line", "it is empty"))
    return ids


def _distinct(values: Iterable[str]) -> list[str]:
    return [value for value in dict.fromkeys(values) if value]


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else text[:59] + "…"
