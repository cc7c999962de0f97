"""`encode`: profile texts → vectors, by sentence-transformers in Ray Data actors, resumable."""

from __future__ import annotations

import importlib.metadata
import time
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from configs.errors import ArtifactError
from pipeline import rows
from pipeline.artifacts import Artifact, ArtifactDir, digest_ids
from pipeline.columns import ANGLE, PROFILE, USER_IDX, VECTOR
from pipeline.encode.config import EncodeConfig
from pipeline.encode.encoder import Encoder
from pipeline.encode.sources import ModelFiles, locate
from pipeline.mapping import map_rows
from pipeline.progress import say

TOKENS = "tokens"
"""Column: tokens of the whole text, int32."""
OVER_LENGTH = "over_length"
"""Column: whether the text has more tokens than the encoder takes, bool."""
VECTOR_COLUMNS = (USER_IDX, ANGLE, VECTOR, TOKENS, OVER_LENGTH)
PART_ROWS = 20_000
"""Vectors per file."""


class EncodeActor:
    """Holds the encoder in a Ray actor: batches of profiles → vectors."""

    def __init__(self, config: EncodeConfig, files: ModelFiles) -> None:
        self._encoder = Encoder(config, files)

    def __call__(self, batch: pa.Table) -> pa.Table:
        texts = batch[PROFILE].to_pylist()
        for user, text in zip(batch[USER_IDX].to_pylist(), texts, strict=True):
            if text is None or not text.strip():
                raise ArtifactError(f"encode: the profile of user {user} is empty; build the profiles again")
        encoded = self._encoder.encode(texts)
        width = encoded.vectors_NE.shape[1]
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(encoded.vectors_NE.ravel()), width)
        return pa.table({rows.ROW_ID: batch[rows.ROW_ID], USER_IDX: batch[USER_IDX], ANGLE: batch[ANGLE],
                         VECTOR: vectors, TOKENS: encoded.tokens_N, OVER_LENGTH: encoded.over_length_N})


def encode(config: EncodeConfig, profiles: Artifact, out: ArtifactDir) -> Artifact:
    """Encode every profile.

    Files: ``vectors/part-*.parquet`` (VECTOR_COLUMNS, in the order of the profiles: by user, then angle). Ray must be
    running. A killed call goes on where it stopped when ``out`` is the same attempt.

    Raises:
        ArtifactError: a profile is empty, or a vector is not finite.
        ConfigError, ResourceError: the model cannot be loaded; see :class:`Encoder`.
    """
    source = profiles.relative("profiles")
    if not out.storage.exists(out.relative("stats.json")):
        ids = rows.row_ids(profiles.storage, source, rows.ROW_ID)
        files = locate(config, out.key.digests["model"])
        started = time.perf_counter()
        map_rows(profiles.storage, source, out, actor=EncodeActor, arguments={"config": config, "files": files},
                 id_column=rows.ROW_ID, columns=[rows.ROW_ID, USER_IDX, ANGLE, PROFILE], num_rows=len(ids),
                 execution=config.execution, label="encode")
        say(f"encode: {len(ids):,} texts in {time.perf_counter() - started:.1f} s")
        out.write_json("stats.json", _write(out, ids))
    stats = out.storage.read_json(out.relative("stats.json"))
    if stats["over_length"]:
        say(f"encode: {stats['over_length']:,} of {stats['counts']['num_in']:,} texts are longer than the encoder "
            f"takes (the longest: {stats['max_tokens']} tokens); encode.over_length={config.over_length}")
    rows.remove_work(out)
    info = {"model": config.model, "identity": out.key.digests["model"], "precision": config.precision,
            "versions": {name: importlib.metadata.version(name) for name in ("sentence-transformers", "torch")},
            **{name: value for name, value in stats.items() if name not in ("counts", "id_digest")}}
    return out.commit(stats["counts"], {"vectors": VECTOR_COLUMNS}, stats["id_digest"], info)


def _write(out: ArtifactDir, ids: np.ndarray) -> dict[str, Any]:
    """Write the artifact's files from the mapped rows; returns its statistics."""
    users: list[np.ndarray] = []
    tokens: list[np.ndarray] = []
    over_length = width = 0
    for number, part in enumerate(rows.sorted_parts(out, rows.ROW_ID, ids, PART_ROWS)):
        rows.write_part(out, "vectors", number, part.select(list(VECTOR_COLUMNS)), use_dictionary=[ANGLE])
        users.append(part[USER_IDX].to_numpy())
        tokens.append(part[TOKENS].to_numpy())
        over_length += pc.sum(part[OVER_LENGTH]).as_py()
        width = part.schema.field(VECTOR).type.list_size
    tokens_N = np.concatenate(tokens)
    return {"counts": {"num_in": len(ids), "num_out": len(ids), "num_rejected": 0},
            "id_digest": digest_ids(np.concatenate(users)), "width": width, "over_length": int(over_length),
            "mean_tokens": round(float(tokens_N.mean()), 1), "max_tokens": int(tokens_N.max())}
