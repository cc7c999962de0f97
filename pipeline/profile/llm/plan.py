"""The plan of an engine that asks: every user's first prompts, written and counted in this process, without Ray."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from pipeline.profile.histories import Histories
from pipeline.profile.llm.cost import Estimate
from pipeline.profile.llm.ledger import FOLDER, Index, Ledger, Lookup, heads_of
from pipeline.profile.llm.prompt_builder import PromptBuilder
from pipeline.profile.llm.requests import Request
from pipeline.profile.sample import sampled
from pipeline.store.artifacts import Artifact
from pipeline.store.columns import ITEMS, REVIEWS, SIGNALS, USER_IDX
from pipeline.store.rows import row_ids
from pipeline.work.ascending import Met, held
from pipeline.work.progress import track

_BATCH_ROWS = 500


def lines(builder: PromptBuilder, prepared: Artifact | None) -> list[str]:
    """Users, requests, tokens, hours and price; what the ledger answers already is left out of what is asked."""
    if prepared is None:
        return ["profile: requests and tokens are counted on the prepared data, which are not there yet; run "
                "`mentorec prepare` with this configuration first"]
    estimate, users = estimate_of(builder, prepared)
    return [f"profile: {users:,} users × {len(builder.config.angles)} angles", *estimate.lines()]


def estimate_of(builder: PromptBuilder, prepared: Artifact) -> tuple[Estimate, int]:
    """The estimate, and the number of users."""
    ledger = Ledger(prepared.storage, f"{FOLDER}/{builder.author.digest}")
    estimate, users = Estimate.nothing(builder.llm, ledger.speed), 0
    met = Met(np.uint64)
    only = None
    if builder.config.users is not None:
        only = sampled(builder.config, row_ids(prepared.storage, prepared.relative("histories"), USER_IDX))
    columns = [USER_IDX, ITEMS, SIGNALS, *([REVIEWS] if builder.llm.prompt.reviews else [])]
    with tempfile.TemporaryDirectory() as folder:
        builder.build(prepared, Path(folder))
        replayer = builder.open(Path(folder), "", Lookup(ledger, Index.build(ledger)))
        for file in track(prepared.storage.files(prepared.relative("histories")), "prompts", "files"):
            for batch in prepared.storage.read_batches(file, columns, _BATCH_ROWS):
                rows = pa.Table.from_batches([batch])
                if only is not None:
                    rows = rows.filter(pa.array(held(only, rows[USER_IDX].to_numpy())))
                users += rows.num_rows
                histories = Histories.from_table(rows)
                reviews = rows[REVIEWS].combine_chunks().flatten().to_pylist() if REVIEWS in columns else None
                for angle in builder.config.angles:
                    for state, _ in replayer.replay(histories, reviews, angle):
                        if state.wanted:
                            estimate = estimate.with_user(state.usage, _new_lengths(state.wanted, met))
    return estimate, users


def _new_lengths(wanted: Sequence[Request], met: Met) -> list[int]:
    """Prompt tokens of the requests that nobody before has wanted; they are met from now on."""
    return [len(wanted[place].prompt.tokens) for place in met.new(heads_of([request.key for request in wanted]))]
