"""`audit`: how well a user's profile ranks the validation item, which the profile never saw, by text vectors alone.

A teacher whose profiles do not beat other users' profiles here has nothing to teach. The test split is never opened.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pyarrow as pa

from configs.errors import DataError
from models.ranking import rank_users
from models.sequences import Cases
from pipeline.audit.config import AuditConfig
from pipeline.audit.definition import COLUMNS, FIGURES, RANKS, SUBJECT
from pipeline.audit.figures import by_chance, candidates, of_ranks, summarize
from pipeline.audit.subjects import CHANCE, AuditInputs, ItemTexts
from pipeline.reduce.vectors import VectorTable
from pipeline.store import arrays
from pipeline.store.artifacts import Artifact, ArtifactDir, digest_ids
from pipeline.store.columns import COUNT, ITEM_IDX, RANK, RANK_UNFILTERED, TARGET, USER_IDX
from pipeline.work.progress import say, took, track

_BLOCK_USERS = 4096
"""Users whose vectors are in memory at once, and among whom profiles are shuffled."""


def audit(config: AuditConfig, prepared: Artifact, encoded: Artifact, encoded_items: Artifact, out: ArtifactDir
          ) -> Artifact:
    """Rank every validation item over the whole catalogue, and write ``audit.json`` and every rank.

    Args:
        config: settings.
        prepared: histories (training items of the validation users) and validation items.
        encoded: vectors of the profiles.
        encoded_items: vectors of the items' texts by the same encoder.
        out: the attempt.

    Raises:
        DataError: fewer than two validation users have a profile and a training item with text.
    """
    started = time.perf_counter()
    items = prepared.read_table("items.parquet", [ITEM_IDX, COUNT]).sort_by(ITEM_IDX)
    texts = ItemTexts.read(VectorTable.open(encoded_items, ITEM_IDX), len(items))
    audited = AuditInputs(VectorTable.open(encoded), texts, items[COUNT].to_numpy())
    everyone = arrays.cases(prepared.local("validation.arrow"))
    cases, facts = _chosen(config, everyone, audited, prepared)
    ranks = _ranks(config, cases, audited)
    removed_N, whole_N = candidates(cases, len(items)), np.full(len(cases), len(items))
    figures: dict[str, Any] = {
        "cutoff": config.cutoff, **facts, "items": len(items),
        "items_without_text": int((~audited.items.described_V).sum()),
        "targets_without_text": int((~audited.items.described_V[cases.targets - 1]).sum()),
        "cold_targets": int((audited.counts_V[cases.targets - 1] == 0).sum()), "angles": list(audited.profiles.angles),
        "bootstrap": {"resamples": config.bootstrap_samples, "confidence": config.confidence, "seed": config.seed},
    }
    for column, protocol, sizes_N in ((0, "seen_removed", removed_N), (1, "all_items", whole_N)):
        values = {name: of_ranks(found[column], sizes_N, config.cutoff) for name, found in ranks.items()}
        figures[protocol] = summarize(config, values | {CHANCE: by_chance(sizes_N, config.cutoff)})
    out.write_json(FIGURES, figures)
    out.write_table(RANKS, pa.concat_tables(pa.table({
        SUBJECT: pa.array([name] * len(cases)).dictionary_encode(), USER_IDX: cases.users, TARGET: cases.targets,
        RANK: removed, RANK_UNFILTERED: unfiltered}) for name, (removed, unfiltered) in ranks.items()))
    say(f"audit: {took(len(cases), 'users', time.perf_counter() - started)}")
    return out.commit({"num_in": len(everyone), "num_out": len(cases), "num_rejected": len(everyone) - len(cases)},
                      COLUMNS, digest_ids(cases.users), facts)


def _chosen(config: AuditConfig, cases: Cases, audited: AuditInputs, prepared: Artifact
            ) -> tuple[Cases, dict[str, Any]]:
    """The cases of users with a profile and a training item with text, and how many were left out and why."""
    profiled_N = audited.profiled(cases.users)
    with_text_N = audited.items.with_text(cases.histories)
    able = np.flatnonzero(profiled_N & with_text_N)
    if len(able) < 2:
        kind = prepared.manifest.info.get("split")
        raise DataError(f"audit: {len(able)} of {len(cases):,} validation users have a profile and a training item "
                        f"with text; it takes 2. Profiles are written from training histories; the split ({kind}) may "
                        "hold validation users out whole: set prepare.split.kind=leave_one_out, or see "
                        "rejected.parquet of the profile artifact")
    if config.users is not None and config.users < len(able):
        able = np.sort(np.random.default_rng(config.seed).choice(able, config.users, replace=False))
    return cases.take(able), {
        "users": len(able), "validation_users": len(cases),
        "left_out": {"no profile": int((~profiled_N).sum()), "no training item with text": int(
            (profiled_N & ~with_text_N).sum()), "not sampled": int((profiled_N & with_text_N).sum()) - len(able)}}


def _ranks(config: AuditConfig, cases: Cases, audited: AuditInputs) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Subject → ranks with the history removed, and among all items; users × catalogue scores never exist at once."""
    names = audited.names()
    found: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {name: [] for name in names}
    blocks = np.array_split(np.arange(len(cases)), -(-len(cases) // _BLOCK_USERS))
    for number, rows in enumerate(track(blocks, "audit", "users", len(cases), len)):
        block = cases.take(rows)
        rng = np.random.default_rng([config.seed, number])
        for name, scorer in zip(names, audited.scorers(block, rng), strict=True):
            ranks = rank_users(scorer, block, batch_users=config.execution.batch_users,
                               item_chunk=config.execution.item_chunk, top_k=0, tie_seed=config.seed)
            found[name].append((ranks.rank, ranks.rank_unfiltered))
    return {name: (np.concatenate([a for a, _ in parts]), np.concatenate([b for _, b in parts]))
            for name, parts in found.items()}
