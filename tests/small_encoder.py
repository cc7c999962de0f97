"""An encoder of one narrow layer with random weights and a real tokenizer: a real model folder, made in seconds."""

from __future__ import annotations

import tempfile
from pathlib import Path


def make_encoder(folder: Path, tokenizer: Path, width: int = 128, seed: int = 0) -> Path:
    """A sentence-transformers folder; its vectors say little, what surrounds the model is the same as always.

    Args:
        tokenizer: folder of the tokenizer to take.
        width: of the vectors.
    """
    import torch
    from sentence_transformers import SentenceTransformer, models
    from transformers import AutoTokenizer, BertConfig, BertModel

    known = AutoTokenizer.from_pretrained(tokenizer)
    torch.manual_seed(seed)
    layer = BertModel(BertConfig(vocab_size=len(known), hidden_size=width, num_hidden_layers=1, num_attention_heads=2,
                                 intermediate_size=width))
    with tempfile.TemporaryDirectory() as alone:
        layer.save_pretrained(alone)
        known.save_pretrained(alone)
        modules = [models.Transformer(alone, max_seq_length=256), models.Pooling(width)]
    SentenceTransformer(modules=modules, device="cpu").save(str(folder))
    return folder
