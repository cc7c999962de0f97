"""The plan of an engine that asks: every user's first prompts, written and counted in this process, without Ray."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.profile.histories import Histories
from pipeline.profile.llm.cost import Estimate
from pipeline.profile.llm.kit import Kit
from pipeline.profile.llm.ledger import FOLDER, Index, Ledger, Lookup, heads_of
from pipeline.profile.llm.requests import Request
from pipeline.store.artifacts import Artifact
from pipeline.store.columns import ITEMS, REVIEWS, SIGNALS, USER_IDX
from pipeline.work.progress import track

_BATCH_ROWS = 500


def lines(kit: Kit, prepared: Artifact | None) -> list[str]:
    """Users, requests, tokens, hours and price; what the ledger answers already is left out of what is asked."""
    if prepared is None:
        return ["profile: requests and tokens are counted on the prepared data, which are not there yet; run "
                "`mentorec prepare` with this configuration first"]
    estimate, users = estimate_of(kit, prepared)
    return [f"profile: {users:,} users × {len(kit.config.angles)} angles", *estimate.lines()]


def estimate_of(kit: Kit, prepared: Artifact) -> tuple[Estimate, int]:
    """The estimate, and the number of users."""
    ledger = Ledger(prepared.storage, f"{FOLDER}/{kit.author.digest}")
    estimate, users = Estimate.nothing(kit.llm), 0
    met: set[int] = set()
    columns = [USER_IDX, ITEMS, SIGNALS, *([REVIEWS] if kit.llm.prompt.reviews else [])]
    with tempfile.TemporaryDirectory() as folder:
        kit.build(prepared, Path(folder))
        desk = kit.open(Path(folder), "", Lookup(ledger, Index.build(ledger)))
        for file in track(prepared.storage.files(prepared.relative("histories")), "prompts", "files"):
            with pq.ParquetFile(prepared.storage.path(file), filesystem=prepared.storage.filesystem) as table:
                for batch in table.iter_batches(_BATCH_ROWS, columns=columns):
                    users += batch.num_rows
                    rows = pa.Table.from_batches([batch])
                    histories = Histories.from_table(rows)
                    reviews = rows[REVIEWS].combine_chunks().flatten().to_pylist() if REVIEWS in columns else None
                    for angle in kit.config.angles:
                        for told, _ in desk.tell(histories, reviews, angle):
                            if told.wanted:
                                estimate = estimate.with_user(told.spent, _new_lengths(told.wanted, met))
    return estimate, users


def _new_lengths(wanted: Sequence[Request], met: set[int]) -> list[int]:
    """Prompt tokens of the requests that nobody before has wanted; they are met from now on."""
    lengths = []
    for head, request in zip(heads_of([request.key for request in wanted]).tolist(), wanted, strict=True):
        if head not in met:
            met.add(head)
            lengths.append(len(request.tokens))
    return lengths
