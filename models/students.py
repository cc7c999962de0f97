"""From a model configuration to a freshly initialised student."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from models.base import Student
from models.bert4rec import BERT4Rec
from models.config import BERT4RecConfig, ESASRecConfig, GRU4RecConfig, ModelConfig, SASRecConfig, StudentConfig
from models.esasrec import ESASRec
from models.gru4rec import GRU4Rec
from models.hashing import derive_seed
from models.sasrec import SASRec

_STUDENT_STREAM = 0

STUDENTS: Mapping[type[StudentConfig], Callable[[Any, int], Student]] = {
    SASRecConfig: SASRec,
    BERT4RecConfig: BERT4Rec,
    ESASRecConfig: ESASRec,
    GRU4RecConfig: GRU4Rec,
}
"""Who is built from which variant of ``ModelConfig``."""


def build_encoder(config: ModelConfig, num_items: int, seed: int) -> Student:
    """A student (``SequenceEncoder``) whose parameters are a pure function of the arguments.

    The global random state is neither read nor moved.

    Raises:
        ConfigError: ``num_items`` is below 1.
    """
    with torch.random.fork_rng(devices=[]):
        encoder = STUDENTS[type(config)](config, num_items)
    encoder.reset_parameters(torch.Generator().manual_seed(derive_seed(seed, _STUDENT_STREAM)))
    return encoder
