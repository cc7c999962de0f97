"""The teacher as the report tells it: profiles, vectors, what the reduction kept, and a map of the targets."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.dataset as pads

from pipeline.reduce.definition import TARGETS
from pipeline.reduce.linear import principal_components
from pipeline.report.catalogue import Histories, Items
from pipeline.report.tables import OTHER
from pipeline.store.artifacts import Artifact
from pipeline.store.columns import PROFILE
from pipeline.store.vectors import VectorRows

_MAP_USERS = 1500
_MAP_CATEGORIES = 8


def teacher(profiles: Artifact, encoded: Artifact, targets: Artifact) -> dict[str, Any]:
    """Counts, lengths, encoder and reduction with its quality."""
    info = targets.manifest.info
    written = profiles.manifest
    encoder = encoded.manifest.key["config"]
    return {
        "profiles": {"engine": written.info.get("engine"), "form": written.info.get("form"),
                     "angles": written.info.get("angles"), "written": written.counts["num_out"],
                     "rejected": written.counts["num_rejected"],
                     "rejected_by_reason": written.info.get("rejected_by_reason", {}),
                     "characters": quantiles(_profile_lengths(profiles))},
        "encoder": {"model": encoder["model"], "revision": encoder["revision"], "prefix": encoder["prefix"],
                    "tokens": quantiles(encoded.read_table("vectors", ["tokens"])["tokens"].to_numpy()),
                    "over_length": int(pc.sum(encoded.read_table("vectors", ["over_length"])["over_length"]).as_py())},
        "reduction": {k: v for k, v in info.items() if k not in ("quality", "seconds")},
        "quality": info["quality"],
    }


def profile_map(targets: Artifact, items: Items, histories: Histories, seed: int) -> dict[str, Any]:
    """The two widest directions of a sample of the targets, each user with the main category of their training items.

    Of several angles the first is drawn.
    """
    rows, angle = VectorRows.open(targets.local(TARGETS)), targets.manifest.info["angles"][0]
    drawn = np.flatnonzero(rows.angle_N == 0)
    drawn = np.sort(drawn[np.random.default_rng(seed).permutation(len(drawn))[:_MAP_USERS]])
    vectors = rows.vectors_NP[drawn]
    plane, explained = principal_components(vectors, min(2, vectors.shape[1]))
    points = plane.apply(vectors)
    if points.shape[1] < 2:
        points = np.concatenate([points, np.zeros_like(points)], axis=1)
    names = [items.main_category(histories.training(user)) for user in rows.owners_N[drawn].tolist()]
    counted = sorted({n for n in names if n}, key=lambda n: (-names.count(n), n))[:_MAP_CATEGORIES]
    return {"angle": angle, "explained_variance": explained, "categories": counted,
            "x": [round(float(v), 4) for v in points[:, 0]], "y": [round(float(v), 4) for v in points[:, 1]],
            "category": [n if n in counted else OTHER for n in names]}


def _profile_lengths(profiles: Artifact) -> np.ndarray:
    """Characters of every profile, read batch by batch."""
    dataset = pads.dataset(profiles.path("profiles"), format="parquet", filesystem=profiles.storage.reader)
    lengths = [pc.utf8_length(batch[PROFILE]).to_numpy(zero_copy_only=False)
               for batch in dataset.to_batches(columns=[PROFILE])]
    return np.concatenate(lengths) if lengths else np.zeros(0, np.int64)


def quantiles(values: np.ndarray) -> dict[str, float] | None:
    if not len(values):
        return None
    low, median, high = (float(v) for v in np.quantile(values, [0.05, 0.5, 0.95]))
    return {"least": float(values.min()), "5 %": low, "median": median, "95 %": high, "most": float(values.max())}
