"""A sentence-transformers model that turns texts into vectors.

Legend: N texts, S segments (a text, or its windows), E width of the encoder.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from configs.errors import ArtifactError, ConfigError, ResourceError
from pipeline.encode.config import EncodeConfig
from pipeline.encode.windows import windows
from pipeline.work.hub import ModelFiles

_CPU_FORWARD_TEXTS = 32
"""Texts per forward pass on a CPU: more of them leave its caches."""
_UNBOUNDED = 10**9
"""What tokenizers say that know no limit is more."""
_DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


@dataclass(frozen=True)
class Encoded:
    """Vectors of N texts."""

    vectors_NE: np.ndarray
    """float32"""
    tokens_N: np.ndarray
    """int32: tokens of the whole text, prefix and special tokens included, whether or not they were cut."""
    over_length_N: np.ndarray
    """bool: more tokens than the limit."""


class Encoder:
    """Holds the model. A text's vector does not depend on its neighbours in a batch (fp32: within 1e-5)."""

    def __init__(self, config: EncodeConfig, files: ModelFiles) -> None:
        """
        Raises:
            ConfigError: the files are no sentence-transformers model in safetensors, or ``max_tokens`` or ``prefix``
                is beyond it.
            ResourceError: a GPU is asked for and not there.
        """
        import torch
        from safetensors import SafetensorError
        from sentence_transformers import SentenceTransformer
        from transformers.utils import logging as transformers_logging

        transformers_logging.disable_progress_bar()
        on_gpu = config.execution.num_gpus > 0
        if on_gpu and not torch.cuda.is_available():
            raise ResourceError(f"encode.execution.num_gpus: got {config.execution.num_gpus:g} and torch sees no GPU; "
                                "set it to 0")
        if not on_gpu:
            torch.set_num_threads(max(1, round(config.execution.num_cpus)))
        try:
            model = SentenceTransformer(files.name_or_path, revision=files.commit, device="cuda" if on_gpu else "cpu",
                                        trust_remote_code=False, local_files_only=True,
                                        model_kwargs={"use_safetensors": True})
        except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as exc:
            raise ConfigError(f"encode.model: {config.model!r} cannot be loaded as a sentence-transformers model with "
                              f"safetensors weights{files.to_fetch}: {' '.join(str(exc).split())[:300]}") from exc
        self._model = model.to(getattr(torch, _DTYPES[config.precision])).eval()
        self._config = config
        if not hasattr(model[0], "auto_model"):
            raise ConfigError(f"encode.model: {config.model!r} begins with a {type(model[0]).__name__} and not with a "
                              "transformer; choose an encoder that does, such as intfloat/multilingual-e5-large")
        self._forward_texts = config.execution.batch_rows if on_gpu else _CPU_FORWARD_TEXTS
        self._limit = self._token_limit()
        self._tokenizer = model.tokenizer
        self._room = self._limit - self._length(config.prefix)
        if self._room < 1:
            raise ConfigError(f"encode.prefix: {config.prefix[:60]!r} fills the {self._limit} tokens of a text; "
                              "shorten it or raise encode.max_tokens")
        if config.over_length == "windows" and not self._tokenizer.is_fast:
            raise ConfigError(f"encode.over_length: windows needs a fast tokenizer and {config.model!r} has none; "
                              "use cut")

    def encode(self, texts: list[str]) -> Encoded:
        """Encode texts, at least one.

        Raises:
            ArtifactError: a text is empty, or a vector is not finite.
        """
        for place, text in enumerate(texts):
            if not text.strip():
                raise ArtifactError(f"encode: text {place} of {len(texts)} is empty; an empty text has no vector")
        told = [self._config.prefix + text for text in texts]
        lengths = self._tokenizer(told, truncation=False, return_attention_mask=False, verbose=False)["input_ids"]
        tokens_N = np.array([len(ids) for ids in lengths], np.int32)
        over_N = tokens_N > self._limit
        segments, owner_S, weight_S = told, np.arange(len(told)), np.ones(len(told), np.float32)
        if self._config.over_length == "windows" and over_N.any():
            segments, owner_S, weight_S = self._windows(texts, over_N)
        # prompt="": the model's own would stand before encode.prefix, and push the end of a full window out.
        vectors_SE = self._model.encode(segments, prompt="", batch_size=self._forward_texts, convert_to_numpy=True,
                                        normalize_embeddings=False, show_progress_bar=False).astype(np.float32)
        vectors_NE = _weighted_means(vectors_SE, owner_S, weight_S, len(texts))
        if self._config.normalize:
            vectors_NE /= np.maximum(np.linalg.norm(vectors_NE, axis=1, keepdims=True), 1e-12)
        if not np.isfinite(vectors_NE).all():
            bad = int(np.flatnonzero(~np.isfinite(vectors_NE).all(axis=1))[0])
            raise ArtifactError(f"encode: the vector of {texts[bad][:60]!r} is not finite; use encode.precision=fp32")
        return Encoded(vectors_NE, tokens_N, over_N)

    def _token_limit(self) -> int:
        """Tokens of a text, special ones included, that the model reads at most."""
        usable = self._usable_tokens()
        limit = self._config.max_tokens or min(self._model.max_seq_length or usable, usable)
        if limit > usable:
            raise ConfigError(f"encode.max_tokens: got {limit}; legal for {self._config.model!r}: 8…{usable}")
        if limit >= _UNBOUNDED:
            raise ConfigError(f"encode.max_tokens: neither the model {self._config.model!r} nor its tokenizer says how "
                              "much it reads; set it")
        self._model.max_seq_length = limit
        return limit

    def _usable_tokens(self) -> int:
        """What the model has positions for. RoBERTa's kin (E5, MPNet) begin to count behind that of the padding."""
        transformer: Any = self._model[0].auto_model
        for name, module in transformer.named_modules():
            if name.endswith("position_embeddings") and hasattr(module, "num_embeddings"):
                first = 0 if module.padding_idx is None else module.padding_idx + 1
                return int(module.num_embeddings) - first
        return int(getattr(transformer.config, "max_position_embeddings", None) or _UNBOUNDED)

    def _windows(self, texts: list[str], over_N: np.ndarray) -> tuple[list[str], np.ndarray, np.ndarray]:
        """Segments of all texts, the text each belongs to, and its weight: tokens of its window."""
        prefix = self._config.prefix
        segments, owners, weights = [], [], []
        for place, (text, over) in enumerate(zip(texts, over_N, strict=True)):
            if not over:
                segments.append(prefix + text)
                owners.append(place)
                weights.append(1)
                continue
            tokens = self._tokenizer(text, add_special_tokens=False, truncation=False, return_offsets_mapping=True,
                                     verbose=False)
            spans = tokens["offset_mapping"]

            def excess(start: int, end: int, text: str = text, spans: Any = spans) -> int:
                return self._length(prefix + text[spans[start][0]:spans[end - 1][1]]) - self._limit

            for start, end in windows(tokens.word_ids(), self._room, excess):
                segments.append(prefix + text[spans[start][0]:spans[end - 1][1]])
                owners.append(place)
                weights.append(end - start)
        return segments, np.array(owners), np.array(weights, np.float32)

    def _length(self, text: str) -> int:
        return len(self._tokenizer(text, truncation=False, return_attention_mask=False, verbose=False)["input_ids"])


def _weighted_means(vectors_SE: np.ndarray, owner_S: np.ndarray, weight_S: np.ndarray, count: int) -> np.ndarray:
    if len(vectors_SE) == count:
        return vectors_SE
    sums = np.zeros((count, vectors_SE.shape[1]), np.float32)
    np.add.at(sums, owner_S, vectors_SE * weight_S[:, None])
    return sums / np.bincount(owner_S, weight_S, count).astype(np.float32)[:, None]
