"""Teacher vectors from a generator's latents, as an `encode` artifact: what a perfect reader of the texts could know.

A user's vector is the mean code of the tastes of their training items, with some noise; a taste's code is a random
direction. It stands where the encoder's vectors would, so that `reduce` and `train` go on from it as always.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.encode.stage import PART_ROWS
from pipeline.prepare.config import SyntheticSource
from pipeline.prepare.synthetic_catalogue import catalogue
from pipeline.reduce.definition import COLUMNS, TARGETS
from pipeline.store import rows
from pipeline.store.arrays import training_sequences
from pipeline.store.artifacts import Artifact, ArtifactDir, digest_ids
from pipeline.store.columns import ANGLE, ITEM_ID, ITEM_IDX, USER_IDX, VECTOR
from pipeline.store.vectors import VectorRows
from tests.vectors import write_targets

WIDTH, NOISE = 128, 0.3


def write_vectors(source: SyntheticSource, prepared: Artifact, out: ArtifactDir) -> Artifact:
    """One vector for every user with training items.

    Args:
        source: the generator's settings that ``prepared`` was made with.
        prepared: the `prepare` artifact.
        out: an attempt at an `encode` artifact.
    """
    items = prepared.read_table("items.parquet", [ITEM_IDX, ITEM_ID]).sort_by(ITEM_IDX)
    number_V = pc.utf8_slice_codeunits(items[ITEM_ID], 1).cast(pa.int64()).to_numpy()
    rng = np.random.default_rng(source.seed)
    taste_V = catalogue(source).taste_I[number_V]
    code_TE = rng.standard_normal((int(taste_V.max()) + 1, WIDTH), np.float32)
    users, sequences = training_sequences(prepared.local("train.arrow"))
    for part, start in enumerate(range(0, len(users), PART_ROWS)):
        stop = min(start + PART_ROWS, len(users))
        edges = sequences.offsets[start : stop + 1]
        codes_NE = code_TE[taste_V[sequences.values[edges[0] : edges[-1]] - 1]]
        vectors_BE = np.add.reduceat(codes_NE, edges[:-1] - edges[0], axis=0) / np.diff(edges)[:, None]
        vectors_BE += NOISE * rng.standard_normal(vectors_BE.shape, np.float32)
        angle = pa.DictionaryArray.from_arrays(np.zeros(stop - start, np.int32), pa.array(["overall"]))
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(vectors_BE.astype(np.float32).ravel()), WIDTH)
        rows.write_part(out, "vectors", part, pa.table({
            USER_IDX: users[start:stop], ANGLE: angle.cast(pa.string()), VECTOR: vectors}), use_dictionary=[ANGLE])
    return out.commit({"num_in": len(users), "num_out": len(users), "num_rejected": 0},
                      {"vectors": (USER_IDX, ANGLE, VECTOR)}, digest_ids(users), {"source": "the generator's latents"})


def write_noise(prepared: Artifact, width: int, out: ArtifactDir) -> Artifact:
    """Teacher targets that say nothing, for timing: one standard normal vector per training user.

    Args:
        prepared: the `prepare` artifact.
        width: of the vectors.
        out: an attempt at a `reduce` artifact.
    """
    users, _ = training_sequences(prepared.local("train.arrow"))
    noise = np.random.default_rng(0).standard_normal((len(users), width), np.float32)
    write_targets(out, VectorRows(users, np.zeros(len(users), np.int16), noise))
    return out.commit({"num_in": len(users), "num_out": len(users), "num_rejected": 0},
                      {TARGETS: COLUMNS[TARGETS]}, digest_ids(users), {"angles": ["overall"]})


def write_item_noise(prepared: Artifact, width: int, out: ArtifactDir) -> Artifact:
    """Text vectors that say nothing, for timing: one standard normal vector per item.

    Args:
        prepared: the `prepare` artifact.
        width: of the vectors.
        out: an attempt at an `encode` artifact of items.
    """
    items = prepared.read_table("items.parquet", [ITEM_IDX]).sort_by(ITEM_IDX)
    values = np.random.default_rng(0).standard_normal(len(items) * width, np.float32)
    rows.write_part(out, "vectors", 0, items.append_column(VECTOR, pa.FixedSizeListArray.from_arrays(values, width)))
    return out.commit({"items": len(items)}, {"vectors": (ITEM_IDX, VECTOR)}, None, {"source": "noise"})
