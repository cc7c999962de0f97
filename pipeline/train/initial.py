"""Start from a trained model: items are matched by raw id, new ones start fresh.

Legend: V rows of the item table (padding, items, special items), D hidden width.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from torch import Tensor

from cluster.storage import Storage
from configs.errors import ArtifactError
from models.base import Student
from models.config import ModelConfig
from models.students import build_encoder
from pipeline.artifacts import open_artifact
from pipeline.train.export import item_ids, load_model
from pipeline.train.keys import is_fingerprint


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


def initial_weights(folder: Path, model: ModelConfig, new_ids: pa.ChunkedArray, seed: int
                    ) -> tuple[dict[str, Tensor], int]:
    """Parameters of a trained model, moved to another catalogue.

    Args:
        folder: the exported model to start from.
        model: configuration of the model to be trained.
        new_ids: raw ids of its items 1…n, in order.
        seed: of the fresh rows.

    Returns:
        The encoder's state dict and the number of items that were matched.

    Raises:
        ArtifactError: the two models differ in more than their catalogues; the fields are named.
    """
    old = load_model(folder, expected=model)
    fresh = build_encoder(model, len(new_ids), seed)
    name = _item_table(fresh)
    weights, table_VD = dict(old.state_dict()), fresh.state_dict()[name].clone()
    found = pc.index_in(new_ids, value_set=item_ids(folder))
    place = found.fill_null(-1).to_numpy().astype(np.int64)
    known = np.flatnonzero(place >= 0)
    old_VD = weights[name]
    table_VD[0] = old_VD[0]
    table_VD[known + 1] = old_VD[place[known] + 1]
    table_VD[fresh.num_items + 1 :] = old_VD[old.num_items + 1 :]
    return {**weights, name: table_VD}, len(known)


def _item_table(encoder: Student) -> str:
    """Name of the parameter that the items' scoring vectors are rows of."""
    storage = encoder.item_weights_VD().untyped_storage().data_ptr()
    return next(name for name, value in encoder.named_parameters() if value.untyped_storage().data_ptr() == storage)
