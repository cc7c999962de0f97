"""Safetensors files that whoever may read their neighbours may read: the library's own are the writer's alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import safetensors.numpy
import safetensors.torch
from torch import Tensor


def save_file(tensors: Mapping[str, Tensor] | Mapping[str, np.ndarray], path: Path) -> None:
    """Write contiguous tensors of torch, or arrays of numpy.

    Raises:
        OSError, SafetensorError: the file cannot be written.
    """
    path.touch()
    mode = path.stat().st_mode & 0o777  # as the process's umask has it
    arrays = {name: value for name, value in tensors.items() if isinstance(value, np.ndarray)}
    if arrays:
        safetensors.numpy.save_file(arrays, path)
    else:
        safetensors.torch.save_file({name: value for name, value in tensors.items() if isinstance(value, Tensor)}, path)
    path.chmod(mode)
