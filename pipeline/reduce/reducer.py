"""A fitted reducer: maps applied one after the other, stored as safetensors and JSON.

Legend: B rows, E encoder width, P reduced width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
import safetensors.numpy

from cluster.storage import Storage
from configs.errors import ArtifactError, DataError, illegal
from pipeline.reduce.linear import LinearMap
from pipeline.reduce.umap_map import UMAPMap
from pipeline.store.artifacts import Artifact

FOLDER = "reducer"
_FORMAT = 1


class Map(Protocol):
    """One step: rows of one width in, rows of another out, each row by itself."""

    kind: ClassVar[str]

    @property
    def width(self) -> int: ...

    def apply(self, vectors_BE: np.ndarray, /) -> np.ndarray: ...

    def tensors(self) -> dict[str, np.ndarray]: ...

    def settings(self) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Reducer:
    """Encoder vectors → teacher targets, for users the fit has not seen as for those it has."""

    maps: tuple[Map, ...]
    input_width: int
    """E."""
    batch_rows: int

    @property
    def width(self) -> int:
        """P."""
        return self.maps[-1].width if self.maps else self.input_width

    def transform(self, vectors_BE: np.ndarray) -> np.ndarray:
        """fp32 [B, P], in batches of fixed size. A row's result does not depend on the other rows or their order.

        Raises:
            DataError: vectors of another width.
        """
        if vectors_BE.ndim != 2 or vectors_BE.shape[1] != self.input_width:
            raise DataError(illegal("vectors to reduce", list(vectors_BE.shape), f"[rows, {self.input_width}]",
                                    "encode with the encoder that the reducer was fitted on"))
        out = np.empty((len(vectors_BE), self.width), np.float32)
        for start in range(0, len(vectors_BE), self.batch_rows):
            part = vectors_BE[start : start + self.batch_rows]
            for step in self.maps:
                part = step.apply(part)
            out[start : start + len(part)] = part
        return out

    def save(self, storage: Storage, folder: str) -> None:
        """Write below a folder of the storage."""
        steps = []
        for number, step in enumerate(self.maps):
            name = f"{number}-{step.kind}.safetensors"
            tensors = {key: np.ascontiguousarray(value) for key, value in step.tensors().items()}
            storage.write_bytes(f"{folder}/{name}", safetensors.numpy.save(tensors))
            steps.append({"kind": step.kind, "file": name, "settings": step.settings()})
        storage.write_json(f"{folder}/reducer.json", {"format": _FORMAT, "input_width": self.input_width,
                                                      "batch_rows": self.batch_rows, "steps": steps})

    @classmethod
    def load(cls, storage: Storage, folder: str) -> Reducer:
        """Read what :meth:`save` wrote.

        Raises:
            ArtifactError: of another format.
        """
        local = storage.local(folder)
        described = storage.read_json(f"{folder}/reducer.json")
        kinds: dict[str, type[LinearMap | UMAPMap]] = {LinearMap.kind: LinearMap, UMAPMap.kind: UMAPMap}
        if described["format"] != _FORMAT or any(s["kind"] not in kinds for s in described["steps"]):
            raise ArtifactError(f"{folder}/reducer.json is of another version of mentorec; rebuild the reduce artifact")
        maps = tuple(kinds[s["kind"]].restore(safetensors.numpy.load_file(local / s["file"]), s["settings"])
                     for s in described["steps"])
        return cls(maps, described["input_width"], described["batch_rows"])


def load_reducer(artifact: Artifact) -> Reducer:
    """The fitted reducer of a `reduce` artifact."""
    return Reducer.load(artifact.storage, artifact.relative(FOLDER))
