"""From a model configuration to a freshly initialised student."""

from __future__ import annotations

import torch

from models.bert4rec import BERT4Rec
from models.config import BERT4RecConfig, ModelConfig
from models.hashing import derive_seed
from models.sasrec import SASRec

_STUDENT_STREAM = 0


def build_encoder(config: ModelConfig, num_items: int, seed: int) -> SASRec | BERT4Rec:
    """A student (``SequenceEncoder``) whose parameters are a pure function of the arguments.

    The global random state is neither read nor moved.

    Raises:
        ConfigError: ``num_items`` is below 1.
    """
    with torch.random.fork_rng(devices=[]):
        encoder = BERT4Rec(config, num_items) if isinstance(config, BERT4RecConfig) else SASRec(config, num_items)
    encoder.reset_parameters(torch.Generator().manual_seed(derive_seed(seed, _STUDENT_STREAM)))
    return encoder
