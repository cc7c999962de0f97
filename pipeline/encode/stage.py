"""`encode`: texts of profiles or of items → vectors, in Ray Data actors or this process; resumable."""

from __future__ import annotations

import contextlib
import importlib.metadata
import time
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from configs.errors import ArtifactError, DataError
from pipeline.encode import item_text
from pipeline.encode.config import EncodeConfig
from pipeline.encode.definition import COLUMNS, ITEM_COLUMNS, OVER_LENGTH, REJECTED, TOKENS, VECTORS
from pipeline.encode.encoder import Encoder
from pipeline.encode.sources import locate
from pipeline.profile.definition import PROFILES
from pipeline.stage import Columns
from pipeline.store import rows
from pipeline.store.artifacts import Artifact, ArtifactDir, digest_ids
from pipeline.store.columns import ANGLE, ITEM_IDX, PROFILE, REASON, ROW_ID, TEXT, USER_IDX, VECTOR
from pipeline.work.hub import ModelFiles
from pipeline.work.mapping import map_rows
from pipeline.work.progress import say, took

NO_TEXT = "no item text"
PART_ROWS = 20_000
"""Vectors per file."""


class EncodeActor:
    """Holds the encoder in a Ray actor: batches of texts → vectors."""

    def __init__(self, config: EncodeConfig, files: ModelFiles, text: str, kept: tuple[str, ...]) -> None:
        """
        Args:
            text: column of the texts.
            kept: columns that stay beside the vector; the first names the row in errors.
        """
        self._encoder = Encoder(config, files)
        self._text, self._kept = text, kept

    def __call__(self, batch: pa.Table) -> pa.Table:
        texts = batch[self._text].to_pylist()
        for owner, text in zip(batch[self._kept[0]].to_pylist(), texts, strict=True):
            if text is None or not text.strip():
                raise ArtifactError(f"encode: the {self._text} of {self._kept[0].partition('_')[0]} {owner} is empty; "
                                    f"build the {self._text}s again")
        encoded = self._encoder.encode(texts)
        width = encoded.vectors_NE.shape[1]
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(encoded.vectors_NE.ravel()), width)
        return pa.table({ROW_ID: batch[ROW_ID], **{name: batch[name] for name in self._kept},
                         VECTOR: vectors, TOKENS: encoded.tokens_N, OVER_LENGTH: encoded.over_length_N})


def encode(config: EncodeConfig, profiles: Artifact, out: ArtifactDir) -> Artifact:
    """Encode every profile.

    Files: ``vectors/part-*.parquet`` (COLUMNS, in the order of the profiles: by user, then angle). Ray must be
    running unless ``config.execution.actors`` is 0. A killed call goes on where it stopped when ``out`` is the same
    attempt.

    Raises:
        ArtifactError: a profile is empty, or a vector is not finite.
        ConfigError, ResourceError: the model cannot be loaded; see :class:`Encoder`.
    """
    source = profiles.relative(PROFILES)
    if not out.storage.exists(out.relative("stats.json")):
        ids = rows.row_ids(profiles.storage, source, ROW_ID)
        _map(config.for_profiles(), source, out, ids, PROFILE, (USER_IDX, ANGLE), "encode")
        out.write_json("stats.json", _write(out, ids, COLUMNS[VECTORS]))
    return _commit(config, out, COLUMNS)


def encode_items(config: EncodeConfig, prepared: Artifact, out: ArtifactDir) -> Artifact:
    """Encode the text of every item of a catalogue, cold ones included, with the items' prefix.

    Files: ``vectors/part-*.parquet``, by item, and ``rejected.parquet`` for items without text (ITEM_COLUMNS). As
    :func:`encode` in all else.

    Raises:
        DataError: no item has a text.
        ArtifactError, ConfigError, ResourceError: as :func:`encode`.
    """
    if not out.storage.exists(out.relative("stats.json")):
        count, textless = item_text.write_texts(prepared, out)
        if not count:
            raise DataError(f"encode/items: none of the {len(textless):,} items has a title or another text; give the "
                            "items' table in prepare.source, or train without texts (arms=[plain, matched-plain], "
                            "train.place_untrained=false, no content among evaluate.baselines)")
        out.write_table(REJECTED, pa.table({
            ITEM_IDX: pa.array(textless, pa.int32()), REASON: pa.array([NO_TEXT] * len(textless), pa.string())}))
        ids = np.arange(count)
        _map(config.for_items(), out.relative(item_text.FOLDER), out, ids, TEXT, (ITEM_IDX,), "encode/items")
        stats = _write(out, ids, ITEM_COLUMNS[VECTORS])
        stats["counts"] |= {"num_in": count + len(textless), "num_rejected": len(textless)}
        out.write_json("stats.json", stats)
    return _commit(config, out, ITEM_COLUMNS)


def _map(config: EncodeConfig, source: str, out: ArtifactDir, ids: np.ndarray, text: str, kept: tuple[str, ...],
         label: str) -> None:
    files = locate(config, out.key.digests["model"])
    started = time.perf_counter()
    with _own_threads(config):
        map_rows(out.storage, source, out, actor=EncodeActor,
                 arguments={"config": config, "files": files, "text": text, "kept": kept}, id_column=ROW_ID,
                 columns=[ROW_ID, *kept, text], num_rows=len(ids), execution=config.execution, label=label,
                 unit="texts")
    say(f"{label}: {took(len(ids), 'texts', time.perf_counter() - started)}")


def _own_threads(config: EncodeConfig) -> contextlib.AbstractContextManager[None]:
    """An encoder in this process sets torch's threads; what comes after it has its own."""
    if config.execution.actors:
        return contextlib.nullcontext()
    from pipeline.work.threads import torch_threads

    return torch_threads(None)


def _write(out: ArtifactDir, ids: np.ndarray, columns: tuple[str, ...]) -> dict[str, Any]:
    """Write the artifact's files from the mapped rows; returns its statistics."""
    owners: list[np.ndarray] = []
    tokens: list[np.ndarray] = []
    over_length = width = 0
    for number, part in enumerate(rows.sorted_parts(out, ROW_ID, ids, PART_ROWS)):
        rows.write_part(out, VECTORS, number, part.select(list(columns)), use_dictionary=[ANGLE])
        owners.append(part[columns[0]].to_numpy())
        tokens.append(part[TOKENS].to_numpy())
        over_length += pc.sum(part[OVER_LENGTH]).as_py()
        width = part.schema.field(VECTOR).type.list_size
    tokens_N = np.concatenate(tokens)
    return {"counts": {"num_in": len(ids), "num_out": len(ids), "num_rejected": 0},
            "id_digest": digest_ids(np.concatenate(owners)), "width": width, "over_length": int(over_length),
            "mean_tokens": round(float(tokens_N.mean()), 1), "max_tokens": int(tokens_N.max())}


def _commit(config: EncodeConfig, out: ArtifactDir, columns: Columns) -> Artifact:
    stats = out.storage.read_json(out.relative("stats.json"))
    if stats["over_length"]:
        say(f"encode: {stats['over_length']:,} of {stats['counts']['num_out']:,} texts are longer than the encoder "
            f"takes (the longest: {stats['max_tokens']} tokens); encode.over_length={config.over_length}")
    rows.remove_work(out)
    info = {"model": config.model, "identity": out.key.digests["model"], "precision": config.precision,
            "versions": {name: importlib.metadata.version(name) for name in ("sentence-transformers", "torch")},
            **{name: value for name, value in stats.items() if name not in ("counts", "id_digest")}}
    return out.commit(stats["counts"], columns, stats["id_digest"], info)
