"""A look at the profiles: how long they are, why some are missing, and some of them beside what they were written from.

Legend: N profiles.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads

from pipeline.report.catalogue import Histories, Items
from pipeline.report.samples import texts_of
from pipeline.report.teacher import quantiles
from pipeline.store.artifacts import Artifact
from pipeline.store.columns import ANGLE, PROFILE, REASON, USER_ID, USER_IDX

_HISTORY = 8
_BINS = 30
_REJECTED = 3
"""Rejected users among the samples, at most."""


def lengths(profiles: Artifact) -> dict[str, Any]:
    """``angles``: per angle counts, quantiles of words and characters and a histogram of words; ``rejected``: reason →
    count and share of all profiles asked for.
    """
    table = _measured(profiles)
    refused = profiles.read_table("rejected.parquet", [ANGLE, REASON])
    refused_of = Counter(refused[ANGLE].to_pylist())
    asked = len(table) + len(refused)
    angles: dict[str, Any] = {}
    for angle in sorted({*table[ANGLE].unique().to_pylist(), *refused_of}):
        own = table.filter(pc.equal(table[ANGLE], angle))
        words_N = own["words"].to_numpy()
        bins = min(_BINS, int(np.ptp(words_N)) + 1) if len(own) else 1
        counts, edges = np.histogram(words_N, bins)
        angles[angle] = {"written": len(own), "rejected": refused_of[angle], "words": quantiles(words_N),
                         "characters": quantiles(own["characters"].to_numpy()),
                         "histogram": {"edges": [float(e) for e in edges], "counts": [int(c) for c in counts]}}
    reasons = sorted(Counter(refused[REASON].to_pylist()).items(), key=lambda r: (-r[1], r[0]))
    return {"asked": asked, "angles": angles,
            "rejected": {reason: {"count": count, "share": count / asked} for reason, count in reasons}}


def profile_samples(count: int, seed: int, profiles: Artifact, prepared: Artifact, items: Items, histories: Histories
                    ) -> list[dict[str, Any]]:
    """The users with the shortest and the longest profile, others at random up to ``count``, and some rejected ones."""
    if not count:
        return []
    table = _measured(profiles)
    users_N, words_N = table[USER_IDX].to_numpy(), table["words"].to_numpy()
    everyone = np.unique(users_N)
    ends = users_N[[words_N.argmin(), words_N.argmax()]] if len(users_N) else users_N
    drawn = np.random.default_rng(seed).permutation(everyone)
    chosen = list(dict.fromkeys([*ends.tolist(), *drawn.tolist()]))[:count]
    refused = profiles.read_table("rejected.parquet", [USER_IDX, ANGLE, REASON])
    first = list(dict.fromkeys(refused[USER_IDX].to_pylist()))[:_REJECTED]
    shown = sorted({*chosen, *first})
    why = refused.filter(pa.array(np.isin(refused[USER_IDX].to_numpy(), shown))).to_pylist()
    texts, names = texts_of(profiles, np.array(shown, np.int64)), _raw_ids(prepared, shown)
    found = []
    for user in shown:
        history = histories.training(user)
        told = texts.get(user, {})
        found.append({
            "user": user, "id": names[user], "history": [items.title(i) for i in history[-_HISTORY:].tolist()],
            "earlier": max(0, len(history) - _HISTORY),
            "profiles": [{"angle": angle, "text": text, "words": len(text.split()), "characters": len(text)}
                         for angle, text in told.items()],
            "rejected": [{"angle": row[ANGLE], "reason": row[REASON]} for row in why if row[USER_IDX] == user]})
    return found


def _measured(profiles: Artifact) -> pa.Table:
    """USER_IDX, ANGLE, words, characters of every profile; the texts are read batch by batch."""
    dataset = pads.dataset(profiles.path("profiles"), format="parquet", filesystem=profiles.storage.reader)
    schema = pa.schema([(USER_IDX, pa.int64()), (ANGLE, pa.string()), ("words", pa.int32()),
                        ("characters", pa.int32())])
    parts = [pa.table([batch[USER_IDX], batch[ANGLE], pc.count_substring_regex(batch[PROFILE], r"\S+"),
                       pc.utf8_length(batch[PROFILE])], names=schema.names).cast(schema)
             for batch in dataset.to_batches(columns=[USER_IDX, ANGLE, PROFILE])]
    return pa.concat_tables([schema.empty_table(), *parts])


def _raw_ids(prepared: Artifact, users: list[int]) -> dict[int, str]:
    table = prepared.read_table("users.parquet", [USER_IDX, USER_ID])
    table = table.filter(pa.array(np.isin(table[USER_IDX].to_numpy(), users)))
    return dict(zip(table[USER_IDX].to_pylist(), table[USER_ID].to_pylist(), strict=True))
