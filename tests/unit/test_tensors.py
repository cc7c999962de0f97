"""Saved tensors: read back as they were, and readable as the process's other files are."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from pipeline.store.tensors import save_file


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077])
@pytest.mark.parametrize("value", [torch.arange(6.0).view(2, 3), np.arange(6, dtype=np.float32).reshape(2, 3)],
                         ids=["torch", "numpy"])
def test_whoever_may_read_a_neighbour_may_read_it(tmp_path: Path, umask: int, value: torch.Tensor | np.ndarray) -> None:
    before = os.umask(umask)
    try:
        for name in ("first", "again"):
            save_file({name: value}, tmp_path / "x.safetensors")
        (tmp_path / "neighbour").write_text("")
    finally:
        os.umask(before)
    found = load_file(tmp_path / "x.safetensors")
    assert list(found) == ["again"] and found["again"].tolist() == value.tolist()
    assert (tmp_path / "x.safetensors").stat().st_mode == (tmp_path / "neighbour").stat().st_mode
