"""What a profile-reading recommender reads, from the teacher's vectors and from disk.

Legend: R profiled users, P profile width.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file

from models.profile_reader import ProfileReader
from pipeline.store.tensors import save_file
from pipeline.train.targets import Targets

READER = "profile_reader.safetensors"
"""Beside the exported model, for ensembles that it is a member of."""
PREFIX = "profile_reader."
"""Of the reader's parameters among the kept ones of the best epoch."""


def reader_of(targets: Targets, hidden_dim: int, dropout: float) -> ProfileReader:
    """A fresh reader of the profiled users' vectors; several angles are averaged."""
    users = torch.tensor(targets.users_R)
    return ProfileReader(users, torch.from_numpy(targets.mean_NP()), hidden_dim, dropout)


def save_reader(path: Path, reader: ProfileReader, map_DP: torch.Tensor) -> None:
    """Everything that :func:`load_reader` needs, with the map of the chosen epoch."""
    save_file({"users": reader.users_R.contiguous(), "vectors": reader.vectors_RP.contiguous(),
               "map": map_DP.contiguous()}, path)


def load_reader(path: Path) -> ProfileReader:
    """What :func:`save_reader` wrote."""
    tensors = load_file(path)
    reader = ProfileReader(tensors["users"], tensors["vectors"], len(tensors["map"]))
    reader.map_DP.data.copy_(tensors["map"])
    return reader
