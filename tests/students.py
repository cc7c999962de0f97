"""Small students of every kind, and batches for them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from models.base import Student
from models.config import BERT4RecConfig, ESASRecConfig, GRU4RecConfig, ModelConfig, SASRecConfig
from models.sequences import Batch
from models.students import build_encoder

NUM_ITEMS, PROFILE_DIM, MAX_LENGTH = 20, 5, 6
SASREC = SASRecConfig(hidden_dim=8, num_blocks=3, num_heads=2, max_length=MAX_LENGTH, dropout=0.0)
PADDING_KEYS = SASREC.model_copy(update={"padding_keys": True})
BERT4REC = BERT4RecConfig(hidden_dim=8, num_blocks=3, num_heads=2, max_length=MAX_LENGTH, dropout=0.0,
                          mask_probability=0.3)
ESASREC = ESASRecConfig(hidden_dim=8, num_blocks=3, num_heads=2, max_length=MAX_LENGTH, dropout=0.0)
GRU4REC = GRU4RecConfig(hidden_dim=8, num_blocks=3, max_length=MAX_LENGTH, dropout=0.0)
WIDE_GRU4REC = GRU4REC.model_copy(update={"state_dim": 12})

CAUSAL: dict[str, ModelConfig] = {"sasrec": SASREC, "sasrec-padding-keys": PADDING_KEYS, "esasrec": ESASREC,
                                  "gru4rec": GRU4REC, "gru4rec-wide": WIDE_GRU4REC}
ALL: dict[str, ModelConfig] = {**CAUSAL, "bert4rec": BERT4REC}
every_student = pytest.mark.parametrize("config", ALL.values(), ids=ALL)
every_causal_student = pytest.mark.parametrize("config", CAUSAL.values(), ids=CAUSAL)


def build(config: ModelConfig, seed: int = 0) -> Student:
    """A fresh student in evaluation mode."""
    return build_encoder(config, NUM_ITEMS, seed).eval()


def rows(*lists: list[int], width: int | None = None) -> Tensor:
    """Right-padded item ids."""
    width = width or max(map(len, lists))
    return torch.tensor([row + [0] * (width - len(row)) for row in lists])


def batch(*lengths: int, seed: int = 3) -> Batch:
    """Rows of the given lengths, each user with one profile."""
    generator = torch.Generator().manual_seed(seed)
    items_BL = torch.randint(1, NUM_ITEMS + 1, (len(lengths), max(lengths)), generator=generator)
    items_BL[torch.arange(max(lengths)) >= torch.tensor(lengths).unsqueeze(1)] = 0
    profiles_BAP = torch.randn(len(lengths), 1, PROFILE_DIM, generator=generator)
    return Batch(torch.arange(len(lengths)) + 100, items_BL, profiles_BAP,
                 torch.ones(len(lengths), 1, dtype=torch.bool))
