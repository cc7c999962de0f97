"""Where training starts: from a trained model, from the items' texts, or both.

Items of a trained model are matched by raw id and keep their embeddings; the others start from their text where they
have one and texts are asked for, else fresh.

Legend: V items 1…n, D hidden width.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from cluster.storage import Storage
from configs.errors import ArtifactError
from models.base import Student
from models.config import ModelConfig
from models.item_init import item_parameter, start_items
from models.students import build_encoder
from pipeline.store.artifacts import is_fingerprint, open_artifact
from pipeline.train.export import item_ids, load_model
from pipeline.train.item_vectors import ItemVectors


@dataclass(frozen=True)
class Start:
    """An encoder before its first step, and where its item embeddings come from."""

    encoder: Student
    matched_V: np.ndarray
    """bool: taken from the trained model."""
    from_text: int = 0
    """Started from their text."""

    @property
    def matched(self) -> int:
        return int(self.matched_V.sum())

    @property
    def fresh(self) -> int:
        """Started at random."""
        return len(self.matched_V) - self.matched - self.from_text


def model_folder(storage: Storage, init_from: str) -> Path:
    """The exported model that ``init_from`` names, as a local folder.

    Raises:
        ArtifactError: no such artifact.
    """
    if not is_fingerprint(init_from):
        return Path(init_from)
    artifact = open_artifact(storage, "train", init_from)
    if artifact is None:
        known = ", ".join(storage.names("artifacts/train")) or "none yet"
        raise ArtifactError(f"train.init_from: no finished `train` artifact {init_from!r} in this storage; legal: one "
                            f"of {known}, or a model folder's path")
    return artifact.local("model")


def fresh_start(model: ModelConfig, num_items: int, seed: int) -> Start:
    """Random parameters, as every training without a start has them."""
    return Start(build_encoder(model, num_items, seed), np.zeros(num_items, bool))


def trained_start(folder: Path, model: ModelConfig, new_ids: pa.ChunkedArray, seed: int) -> Start:
    """Parameters of a trained model, moved to another catalogue.

    Args:
        folder: the exported model to start from.
        model: configuration of the model to be trained.
        new_ids: raw ids of its items 1…n, in order.
        seed: of the fresh rows.

    Raises:
        ArtifactError: the two models differ in more than their catalogues (the fields are named), or these have no item
            in common.
    """
    old = load_model(folder, expected=model)
    start = fresh_start(model, len(new_ids), seed)
    name = item_parameter(start.encoder)
    weights, table_VD = dict(old.state_dict()), start.encoder.state_dict()[name].clone()
    found = pc.index_in(new_ids, value_set=item_ids(folder))
    place = found.fill_null(-1).to_numpy().astype(np.int64)
    known = np.flatnonzero(place >= 0)
    if not len(known):
        raise ArtifactError(f"the model in {folder} knows none of the {len(new_ids):,} items of this data (its ids are "
                            f"like {item_ids(folder)[0].as_py()!r}, here like {new_ids[0].as_py()!r}): it is of "
                            "another catalogue, or its ids are written another way; leave train.init_from out, or mend "
                            "the ids")
    old_VD = weights[name]
    table_VD[0] = old_VD[0]
    table_VD[known + 1] = old_VD[place[known] + 1]
    table_VD[start.encoder.num_items + 1 :] = old_VD[old.num_items + 1 :]
    start.encoder.load_state_dict({**weights, name: table_VD})
    return Start(start.encoder, place >= 0)


def text_start(start: Start, vectors: ItemVectors) -> Start:
    """The same start with the texts' vectors under every item that has one and no trained embedding.

    Args:
        start: changed in place.
        vectors: the reduced item texts.

    Raises:
        ConfigError: vectors of another width than the student's.
    """
    written = start_items(start.encoder, torch.from_numpy(vectors.vectors_VE), torch.from_numpy(vectors.known_V),
                          torch.from_numpy(start.matched_V))
    return Start(start.encoder, start.matched_V, written)
