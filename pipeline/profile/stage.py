"""`profile`: training histories → one text per user and angle, in Ray Data actors or this process; resumable."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from configs.errors import DataError
from pipeline.profile.config import ProfileConfig
from pipeline.profile.definition import COLUMNS, PROFILE_COLUMNS, PROFILES, REJECTED, REJECTED_COLUMNS
from pipeline.profile.engines import engine_of
from pipeline.profile.guards import check_training_part
from pipeline.profile.remedies import rejected, remedy, unanswered
from pipeline.profile.sample import sampled
from pipeline.store import rows
from pipeline.store.artifacts import Artifact, ArtifactDir, digest_ids
from pipeline.store.columns import ANGLE, PROFILE, REASON, ROW_ID, USER_IDX
from pipeline.work.progress import say, took

PART_USERS = 50_000
"""Users per file of profiles."""


def profile(config: ProfileConfig, prepared: Artifact, out: ArtifactDir, confirmed: bool = False) -> Artifact:
    """Write a profile of every training user, or of a sample (``config.users``), from the training part alone.

    Files: ``profiles/part-*.parquet`` (PROFILE_COLUMNS, sorted by user, angles in config order, ROW_ID 0, 1, …) and
    ``rejected.parquet`` (REJECTED_COLUMNS). Ray must be running unless the engine's ``execution.actors`` is 0. A
    killed call goes on where it stopped when ``out`` is the same attempt.

    Args:
        confirmed: a planned price above ``max_cost_without_confirm`` was agreed to.

    Raises:
        LeakageError: the histories hold more or less than the training part.
        DataError: there is no history, more than ``max_rejected_fraction`` of the profiles are rejected, or more than
            ``max_unanswered_fraction`` of them got no answer.
    """
    engine = engine_of(config)
    everyone = rows.row_ids(prepared.storage, prepared.relative("histories"), USER_IDX)
    if not len(everyone):
        raise DataError("profile: no user has a training history; prepare's stats.json counts what was dropped")
    ids = sampled(config, everyone)
    if not out.storage.exists(out.relative("stats.json")):
        if len(ids) < len(everyone):
            say(f"profile: {len(ids):,} of {len(everyone):,} users, by profile.users")
        check_training_part(prepared)
        started = time.perf_counter()
        facts = dict(engine.write(prepared, out, ids, confirmed))
        say(f"profile: {took(len(ids), 'users', time.perf_counter() - started)}")
        out.write_json("stats.json", _write(config, out, ids) | facts)
    stats = out.storage.read_json(out.relative("stats.json"))
    try:
        check_rejected(config, stats)
    except DataError:
        if stats.get("without_answer"):  # a server that was down: the next call asks again
            out.storage.delete(out.relative("stats.json"))
        raise
    rows.remove_work(out)
    info = {"engine": config.engine.kind, "deterministic": engine.deterministic, "form": config.form,
            "angles": list(config.angles), **{k: v for k, v in stats.items() if k not in ("counts", "id_digest")}}
    return out.commit(stats["counts"], COLUMNS, stats["id_digest"], info)


def _write(config: ProfileConfig, out: ArtifactDir, ids: np.ndarray) -> dict[str, Any]:
    """Write the artifact's files from the mapped rows; returns its statistics."""
    reasons: Counter[str] = Counter()
    rejected: list[pa.Table] = []
    users: list[np.ndarray] = []
    written = characters = 0
    for number, part in enumerate(rows.sorted_parts(out, USER_IDX, ids, PART_USERS)):
        drafts = rows.explode(part, [ANGLE, PROFILE, REASON])
        refused = drafts.filter(pc.is_null(drafts[PROFILE])).select(list(REJECTED_COLUMNS))
        reasons.update(refused[REASON].to_pylist())
        rejected.append(refused)
        profiles = drafts.filter(pc.is_valid(drafts[PROFILE])).drop_columns(REASON)
        row_ids = pa.array(np.arange(written, written + profiles.num_rows))
        profiles = profiles.append_column(ROW_ID, row_ids).select(list(PROFILE_COLUMNS))
        rows.write_part(out, PROFILES, number, profiles)
        users.append(profiles[USER_IDX].to_numpy())
        written += profiles.num_rows
        characters += pc.sum(pc.utf8_length(profiles[PROFILE])).as_py() or 0
    out.write_table(REJECTED, pa.concat_tables(rejected))
    num_in = len(ids) * len(config.angles)
    return {"counts": {"num_in": num_in, "num_out": written, "num_rejected": num_in - written, "users": len(ids)},
            "id_digest": digest_ids(np.concatenate(users)), "rejected_by_reason": dict(sorted(reasons.items())),
            "mean_characters": round(characters / max(written, 1), 1)}


def check_rejected(config: ProfileConfig, stats: dict[str, Any]) -> None:
    """
    Args:
        stats: as :func:`_write` returns them.

    Raises:
        DataError: too many profiles are rejected, or got no answer.
    """
    counts, reasons = stats["counts"], stats["rejected_by_reason"]
    num_rejected, total = counts["num_rejected"], counts["num_in"]
    if num_rejected > config.max_rejected_fraction * total:
        raise DataError(f"profile: {num_rejected} of {total} profiles are rejected ({num_rejected / total:.1%}; "
                        f"{rejected(reasons)}), more than profile.max_rejected_fraction="
                        f"{config.max_rejected_fraction:g}; {remedy(reasons)}, or raise profile.max_rejected_fraction")
    if num_rejected == total:
        raise DataError(f"profile: every profile is rejected ({rejected(reasons)}), nothing is left to encode; "
                        f"{remedy(reasons)}, or train the plain arm alone (arms=[plain])")
    silent = unanswered(reasons)
    num_silent = sum(silent.values())
    if num_silent > config.max_unanswered_fraction * total:
        raise DataError(f"profile: {num_silent} of {total} profiles got no answer ({num_silent / total:.1%}; "
                        f"{rejected(silent)}), more than profile.max_unanswered_fraction="
                        f"{config.max_unanswered_fraction:g}; {remedy(silent)}, or raise "
                        "profile.max_unanswered_fraction to go on without them")
