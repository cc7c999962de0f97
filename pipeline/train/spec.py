"""What a training loop is told: plain JSON, so that it travels to workers; paths are relative to the storage root."""

from __future__ import annotations

import numpy as np

from cluster.storage import Storage
from configs.base import Config
from models.config import ModelConfig
from pipeline.train.config import Arm, TrainConfig
from pipeline.train.targets import Targets


class TrainSpec(Config):
    """One arm and seed on one prepared data set."""

    config: TrainConfig
    model: ModelConfig
    arm: Arm
    seed: int
    fingerprint: str
    """Of the artifact under construction."""
    num_items: int
    profile_dim: int = 0
    """Width of the teacher's vectors; 0 for the plain arm."""
    num_angles: int = 0
    folder: str
    """The attempt: live metrics and reports of trouble go there."""
    train: str
    """``train.arrow``."""
    validation: str
    """``validation.arrow``."""
    users: str
    """``users.parquet``, read only to name the users of a batch that broke training."""
    targets: str | None = None
    """Where each user's vectors stand (``dense_targets.build_targets``)."""
    vectors: str | None = None
    """The vectors themselves: of `reduce`, or made for a control."""
    neighbours: str | None = None
    """Whose profiles are near whose (``neighbours.write_neighbours``), where states are drawn to them."""
    initial: str | None = None
    """Served parameters to start from (safetensors)."""
    texts: str | None = None
    """The items' text vectors (``item_vectors.ItemVectors``), for a table that is computed from them."""
    member_readers: tuple[str | None, ...] = ()
    """What each member reads of profiles (``reading.save_reader``); None: nothing."""
    members: tuple[str, ...] = ()
    """Exported model folders of the ensemble, in the order of ``config.ensemble.members``."""
    baselines: tuple[str, ...] = ()
    """Its baselines (``ensemble_baselines.write_baselines``), in the order of ``config.ensemble.baselines``."""

    def open_targets(self, storage: Storage, users_N: np.ndarray | None = None) -> Targets:
        """The teacher's vectors, which this training must have; see :meth:`Targets.open`."""
        assert self.targets is not None and self.vectors is not None
        return Targets.open(storage.local(self.targets), storage.local(self.vectors), users_N)
