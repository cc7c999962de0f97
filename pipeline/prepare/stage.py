"""Raw files → interactions, id maps, splits: an artifact whose guards have passed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa

from cluster.faults import STORAGE
from cluster.storage import Storage
from configs.errors import DataError
from pipeline.prepare import cold_start, writing
from pipeline.prepare.blocks import Place
from pipeline.prepare.config import PrepareConfig, PrepareExecution
from pipeline.prepare.definition import COLD_COLUMNS, COLUMNS, STATS_FILE, TEST_FILE, VALIDATION_FILE
from pipeline.prepare.earlier import EarlierIds
from pipeline.prepare.encoding import encode
from pipeline.prepare.entities import EntityTable, describe, item_text, strangers, tag_texts, without_text
from pipeline.prepare.filters import apply_filters
from pipeline.prepare.guards import check_written
from pipeline.prepare.kept import KeptInteractions
from pipeline.prepare.ordering import in_time, tied_rows
from pipeline.prepare.raw import FIELD, RawTables
from pipeline.prepare.scratch import own_scratch, shared_scratch
from pipeline.prepare.sources import read_source
from pipeline.prepare.splits import TRAIN_CODE, Split, split
from pipeline.prepare.stats import statistics
from pipeline.prepare.times import PER_SECOND
from pipeline.store import columns as c
from pipeline.store.artifacts import Artifact, ArtifactDir, digest_ids
from pipeline.work.progress import say, took
from pipeline.work.tasks import RayTasks, ThisProcess

_FIRST_S: Final = 631_152_000
"""1990-01-01: what ends before it is hardly meant as Unix time."""
_REMEDY: Final = ("lower prepare.execution.rows_at_once, or let fewer tasks share a node's memory: raise "
                  "prepare.execution.num_cpus")


def prepare(config: PrepareConfig, out: ArtifactDir) -> Artifact:
    """Build the artifact. Ray must be running where ``config.execution.workers`` is set.

    Raises:
        DataError: the raw files cannot be used (file, row and remedy are named), or a filter or split leaves nothing.
        LeakageError: a guard found held-out data in the training part.
    """
    started = time.perf_counter()
    with out.storage.upload_folder(out.folder) as folder:
        with _place(config.execution, out, folder) as place:
            stats, item_digest = _build(config, folder, place, out.storage)
        check_written(folder, config.split, stats["boundary"])
    out.write_json(STATS_FILE, stats)
    say(_summary(stats))
    say(f"prepare: {took(stats['raw_rows'], 'rows', time.perf_counter() - started)}")
    _tell_odd_times(stats)
    counts = {"num_in": stats["raw_rows"], "num_out": stats["interactions"],
              "num_rejected": sum(stats["dropped"].values()), "users": stats["users"], "items": stats["items"],
              "train_users": stats["train_users"], "validation_users": stats["validation_users"],
              "test_users": stats["test_users"]}
    columns = COLUMNS if config.cold_start is None else {**COLUMNS, **COLD_COLUMNS}
    return out.commit(counts, columns, item_digest, stats)


@contextmanager
def _place(execution: PrepareExecution, out: ArtifactDir, folder: Path) -> Iterator[Place]:
    """This process and a folder of its own, or Ray's tasks and one that all nodes reach."""
    if not execution.workers:
        with own_scratch(folder, STORAGE if out.storage.is_local else "TMPDIR") as scratch:
            yield Place(scratch, execution.rows_at_once, ThisProcess())
        return
    tasks = RayTasks("prepare", execution.workers, execution.num_cpus, execution, _REMEDY)
    tasks.require_nodes()
    with shared_scratch(out) as scratch:
        yield Place(scratch, execution.rows_at_once, tasks)


def _build(config: PrepareConfig, folder: Path, place: Place, storage: Storage) -> tuple[dict[str, Any], str]:
    """Write every table; returns the statistics and the digest of the ordered raw item ids."""
    raw = read_source(config.source)
    earlier = EarlierIds.read(storage, config.extends) if config.extends is not None else None
    encoded = in_time(encode(raw, config.filter.bad_rows, place, config.execution.streaming,
                             earlier.users if earlier else None), config.seed)
    blocks, dropped = apply_filters(encoded.blocks, config.filter, raw)
    kept = KeptInteractions.of(blocks, encoded.user_ids, encoded.item_ids, raw.timeless,
                               earlier.items if earlier else None)
    kept = _with_the_others(config, kept, raw, earlier)
    extended = {"extends": {"artifact": config.extends, **earlier.check(kept.user_ids, kept.item_ids)}
                } if earlier else {}
    counts: dict[str, Any] = {"raw_rows": encoded.num_raw, "dropped": encoded.dropped | dropped}
    if encoded.file_order:
        counts["rows_without_time"] = encoded.untimed
    del encoded, blocks
    parts = split(config.split, kept.users, kept.times, config.seed, PER_SECOND[kept.blocks.unit])
    tied_N = None if kept.timeless else np.concatenate(list(kept.blocks.ask(tied_rows, "finding ties")))
    if config.cold_start is not None:
        cold = cold_start.choose(config.cold_start, kept, parts, config.seed)
        stay_N = cold_start.rows_that_stay(cold, kept, parts, config.seed)
        cold.write(folder, kept.item_ids.to_arrow().cast(pa.string()))
        kept, parts = cold_start.without(kept, parts, stay_N)
        tied_N = None if tied_N is None else tied_N[stay_N]
        counts["dropped"] |= {"cold_start": int((~stay_N).sum())}
        cut = ~cold.removed_C & (cold.left_C < cold.before_C)
        say(f"prepare: cold start: {int(cold.removed_C.sum()):,} items removed from training, {int(cut.sum()):,} cut, "
            f"{int((~cold.removed_C & ~cut).sum()):,} that were to be cut have as few already; "
            f"{counts['dropped']['cold_start']:,} interactions less")
        counts |= {"cold_items_removed": int(cold.removed_C.sum()), "cold_items_cut": int((~cold.removed_C).sum())}
    items = _with_tags(item_text(kept.item_ids, raw), raw, kept, parts)
    users = describe(kept.user_ids, raw.users, c.USER_ID, raw)
    writing.write_interactions(folder, kept, parts)
    writing.write_items(folder, kept, parts, items.table)
    writing.write_users(folder, kept, parts, users.table)
    writing.write_training(folder, kept, parts, config.execution.history_rows)
    writing.write_cases(folder / VALIDATION_FILE, kept, parts.validation)
    writing.write_cases(folder / TEST_FILE, kept, parts.test)
    stats = counts | statistics(kept, parts, config.split, tied_N) | {
        "items_unknown": items.unknown if raw.items is not None else None, "items_repeated_rows": items.repeated,
        "items_without_text": without_text(items.table),
        "missing_words": {"items": items.missing_words, "users": users.missing_words},
        "users_unknown": users.unknown if raw.users is not None else None, "source": config.source.kind, **raw.info,
        **extended}
    return stats, digest_ids(kept.item_ids.to_arrow())


def _with_the_others(config: PrepareConfig, kept: KeptInteractions, raw: RawTables, earlier: EarlierIds | None
                     ) -> KeptInteractions:
    """Items of the table without an interaction that stays: behind all others, or told to be left out.

    Raises:
        DataError: there is no such table.
    """
    if raw.items is None:
        if config.catalogue == "table":
            raise DataError("prepare.catalogue=table: the source has no items' table; name it in prepare.source, or "
                            "leave the catalogue to the interactions")
        return kept
    others = strangers(kept.item_ids, raw.items, raw)
    if not len(others):
        return kept
    if config.catalogue == "table":
        say(f"prepare: {len(others):,} items of the items' table have no interaction that stays and come last "
            f"(prepare.catalogue=table), such as {others[0]!r}")
        return kept.with_items(others, earlier.items if earlier else None)
    say(f"prepare: note: {len(others):,} items of the items' table have no interaction that stays and are left out, "
        f"such as {others[0]!r}; prepare.catalogue=table keeps them")
    return kept


def _with_tags(items: EntityTable, raw: RawTables, kept: KeptInteractions, parts: Split) -> EntityTable:
    """The items' texts, with the users' tags as a last field where the source has them."""
    if raw.tags is None:
        return items
    pairs = (block.users[train] * np.int64(len(kept.item_ids)) + (block.items[train] - 1)
             for place, block in kept.pieces() for train in [parts.parts[place] == TRAIN_CODE])
    tags = tag_texts(raw, kept.user_ids, kept.item_ids, pairs, parts.boundary)
    return replace(items, table=items.table.with_columns(tags.alias(FIELD + "tags")))


def _tell_odd_times(stats: dict[str, Any]) -> None:
    last = stats["last_unix"]
    if last is None:
        return
    if last > time.time():
        say(f"prepare: note: the last interaction lies in the future, {stats['last_time']}; is the clock or the unit "
            "of the times right?")
    if last < _FIRST_S:
        say(f"prepare: note: all interactions lie before 1990, the last at {stats['last_time']}; is that right, or "
            "prepare.source.timestamp_unit another?")


def _summary(stats: dict[str, Any]) -> str:
    dropped = ", ".join(f"{count:,} {reason}" for reason, count in stats["dropped"].items()) or "none"
    boundary = f"; boundary {stats['boundary_iso']} ({stats['boundary']})" if stats["boundary"] is not None else ""
    return (f"prepare: {stats['users']:,} users, {stats['items']:,} items, {stats['interactions']:,} interactions of "
            f"{stats['raw_rows']:,} rows (dropped: {dropped}); {stats['train_users']:,} training, "
            f"{stats['validation_users']:,} validation, {stats['test_users']:,} test users{boundary}")
