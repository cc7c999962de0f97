"""Safetensors files: written so that whoever may read their neighbours may read them (the library's own are the
writer's alone), written part after part, and memory-mapped."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
import safetensors.torch
from torch import Tensor

_DTYPES = {"I64": np.int64, "I16": np.int16, "F64": np.float64, "F32": np.float32}
"""By their names in the format, those of files that are written in parts."""


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


@contextmanager
def file_writer(path: Path, layout: Mapping[str, tuple[type[np.generic], tuple[int, ...]]]
                ) -> Iterator[Callable[[np.ndarray], None]]:
    """Writes a file of the layout (tensor → type and shape): the function takes rows of those types in the layout's
    order, as many at a time as the caller likes.

    Raises:
        ValueError: more or fewer bytes were given than the layout has.
    """
    names = {np.dtype(dtype): name for name, dtype in _DTYPES.items()}
    header, end = dict[str, Any](), 0
    for name, (dtype, shape) in layout.items():
        start, end = end, end + math.prod(shape) * np.dtype(dtype).itemsize
        header[name] = {"dtype": names[np.dtype(dtype)], "shape": shape, "data_offsets": [start, end]}
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)  # the data begins where 8 divides the place
    with path.open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)

        def write(rows: np.ndarray) -> None:
            file.write(np.ascontiguousarray(rows).data)

        yield write
        written = file.tell() - 8 - len(encoded)
    if written != end:
        raise ValueError(f"{written} of {end} bytes were written")


def map_file(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a file of :func:`file_writer`, memory-mapped: nothing is read until it is used."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
    data = np.memmap(path, np.uint8, "r", offset=8 + size)
    return {name: data[slice(*entry["data_offsets"])].view(_DTYPES[entry["dtype"]]).reshape(entry["shape"])
            for name, entry in header.items()}
