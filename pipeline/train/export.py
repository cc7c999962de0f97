"""The trained model as a folder: served parameters, what they are, and the catalogue they know."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from configs.errors import ArtifactError
from models.base import Student
from models.config import ModelConfig
from models.students import build_encoder
from pipeline.store.artifacts import digest_ids
from pipeline.store.columns import ITEM_ID
from pipeline.store.digests import digest_file
from pipeline.store.tensors import save_file

WEIGHTS, CARD, ITEMS = "model.safetensors", "model.json", "items.parquet"


def save_model(folder: Path, weights: Mapping[str, Tensor], model: ModelConfig, item_ids: pa.ChunkedArray,
               info: Mapping[str, Any], described: pa.Table | None = None) -> None:
    """Write an exported model; the card, last of all, tells a reader that all is there.

    Args:
        folder: exists; becomes self-contained.
        weights: the encoder's state dict, nothing of the teacher's side.
        model: its configuration.
        item_ids: raw ids of items 1…n, in order.
        info: further entries of ``model.json``.
        described: the items' table, where it holds more than their ids.
    """
    save_file({name: value.contiguous() for name, value in weights.items()}, folder / WEIGHTS)
    pq.write_table(pa.table({ITEM_ID: item_ids}) if described is None else described, folder / ITEMS)
    card = {"model": model.model_dump(mode="json"), "num_items": len(item_ids), "item_digest": digest_ids(item_ids),
            **info, "files": {name: digest_file(folder / name) for name in (WEIGHTS, ITEMS)}}
    (folder / CARD).write_text(json.dumps(card, indent=2, ensure_ascii=False) + "\n")


def read_card(folder: Path) -> dict[str, Any]:
    """``model.json`` of an exported model.

    Raises:
        ArtifactError: absent or unreadable.
    """
    try:
        card = json.loads((folder / CARD).read_text())
    except (OSError, ValueError) as exc:
        raise ArtifactError(f"{folder} is not an exported model: {CARD}: {exc}; name the `model` folder of a `train` "
                            "artifact") from exc
    missing = {"model", "num_items", "item_digest"} - card.keys()
    if missing:
        raise ArtifactError(f"{folder / CARD} lacks {', '.join(sorted(missing))}; export the model again")
    return dict(card)


def require_files(folder: Path, card: Mapping[str, Any]) -> None:
    """That an exported model's files are those of its card: none of an export that is under way, or was stopped.

    Raises:
        ArtifactError: one is another, with what to do.
    """
    for name, digest in card.get("files", {}).items():
        if digest_file(folder / name) != digest:
            raise ArtifactError(f"{folder}: {name} is not the one that {CARD} beside it was written for: an export "
                                "into this folder is under way, or was stopped; wait for it, or export again")


def load_model(folder: Path, expected: ModelConfig | None = None, item_digest: str | None = None) -> Student:
    """The encoder of an exported model, in evaluation mode on the CPU.

    Args:
        folder: as :func:`save_model` wrote it.
        expected: the configuration it must have (what only concerns training may differ).
        item_digest: digest of the ordered raw ids of the catalogue it must know.

    Raises:
        ArtifactError: another configuration or catalogue, with the differing fields; damaged or foreign weights.
    """
    card = read_card(folder)
    try:
        config: ModelConfig = TypeAdapter(ModelConfig).validate_python(card["model"])
    except ValidationError as exc:
        raise ArtifactError(f"{folder / CARD}: not a model configuration: {exc.errors()[0]['msg']}") from exc
    differing = config.differences(expected) if expected is not None else []
    if item_digest is not None and card["item_digest"] != item_digest:
        differing.append(f"item_digest: {card['item_digest']!r} → {item_digest!r}")
    if differing:
        raise ArtifactError(f"the model in {folder} is another one than asked for (its own → asked): "
                            f"{', '.join(differing)}")
    encoder = build_encoder(config, card["num_items"], seed=0)
    try:
        weights = load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as exc:
        raise ArtifactError(f"{folder / WEIGHTS}: cannot be read: {exc}; train the model again") from exc
    _require_shapes(folder, weights, encoder.state_dict())
    encoder.load_state_dict(weights)
    return encoder.eval()


def item_ids(folder: Path) -> pa.ChunkedArray:
    """Raw ids of items 1…n of an exported model, in order."""
    return pq.read_table(folder / ITEMS)[ITEM_ID]


def _require_shapes(folder: Path, found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    shapes = {name: [list(t[name].shape) if name in t else None for t in (found, wanted)]
              for name in sorted(found.keys() | wanted.keys())}
    wrong = [f"{name}: {a} → {b}" for name, (a, b) in shapes.items() if a != b]
    if wrong:
        raise ArtifactError(f"{folder / WEIGHTS} does not fit {CARD} beside it (found → expected): "
                            f"{', '.join(wrong[:5])}")
