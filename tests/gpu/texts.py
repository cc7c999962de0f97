"""Texts per second of a sentence-transformers model, where there is one, and how its vectors compare with the CPU's."""

from __future__ import annotations

import importlib.util
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.gpu.machine import settle

WORDS = ("bought", "gentle", "daily", "cream", "hair", "colour", "travel", "classic", "quiet", "strong", "favours",
         "recent", "natural", "series", "family", "mystery", "compact", "bright", "gift", "budget")
WORDS_PER_TEXT, COMPARED = 120, 16
TOLERANCE = 1e-3
"""Largest difference of a component of unit vectors in fp32."""


def absent(model: Path | None) -> str | None:
    """Why nothing is encoded; None: it is."""
    if importlib.util.find_spec("sentence_transformers") is None:
        return "not run: sentence-transformers is not installed"
    if model is None:
        return "not run: no --text-model FOLDER was given"
    return None if model.is_dir() else f"not run: --text-model {model} is no folder"


def measure(folder: Path, count: int, device: torch.device) -> list[dict[str, Any]]:
    """Encode generated texts in fp32 and bf16."""
    from sentence_transformers import SentenceTransformer

    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(WORDS, WORDS_PER_TEXT)) for _ in range(count)]
    reference = SentenceTransformer(str(folder), device="cpu").encode(texts[:COMPARED], normalize_embeddings=True)
    rows = []
    for dtype in (torch.float32, torch.bfloat16):
        model = SentenceTransformer(str(folder), device=str(device)).to(dtype)
        model.encode(texts[:COMPARED])
        settle(device)
        started = time.perf_counter()
        vectors = model.encode(texts, batch_size=128, normalize_embeddings=True, show_progress_bar=False)
        seconds = time.perf_counter() - started
        error = float(np.abs(vectors[:COMPARED] - reference).max())
        rows.append({"case": f"{folder.name}, {str(dtype).removeprefix('torch.')}", "texts": count, "seconds": seconds,
                     "texts_per_second": count / seconds, "largest_difference": error,
                     "ok": dtype == torch.bfloat16 or error <= TOLERANCE})
    return rows
