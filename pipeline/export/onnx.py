"""A student as ONNX: its encoder alone, and states with scores; batch and length are free.

Legend: B batch, L length, D hidden width, V items 1…n.
"""

from __future__ import annotations

import importlib.util
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from configs.errors import MissingExtraError
from models.base import Student
from models.bert4rec import BERT4Rec
from models.gru4rec import GRU4Rec

ENCODER_FILE: Final = "encoder.onnx"
"""``items`` int64 [B, L] → ``state`` fp32 [B, D]."""
SCORES_FILE: Final = "scores.onnx"
"""``items`` int64 [B, L] → ``state``, and ``scores`` fp32 [B, V] of items 1…n in order."""
_MAX_BATCH = 2**16
_OPSET = 18


class Scores(nn.Module):
    """A student's states, and the inner product of each with every item."""

    def __init__(self, student: Student) -> None:
        super().__init__()
        self.student = student

    def forward(self, items: Tensor) -> tuple[Tensor, Tensor]:
        state_BD = self.student.user_states_BD(items)
        return state_BD, state_BD @ self.student.item_weights_VD().T


def longest_input(student: Student) -> int:
    """Items that the graphs read at most: the caller keeps a longer history's last ones."""
    return student.max_length - isinstance(student, BERT4Rec)  # its [MASK] takes a place


def write_onnx(student: Student, folder: Path) -> None:
    """Both graphs; rows are right-padded with 0 and hold an item at least.

    Raises:
        MissingExtraError: the packages of the extra `onnx` are not installed.
    """
    for package in ("onnx", "onnxscript"):
        if importlib.util.find_spec(package) is None:
            raise MissingExtraError(package, "onnx")
    import onnx.utils

    whole = folder / SCORES_FILE
    _write(Scores(student).eval(), longest_input(student), str(whole))
    onnx.utils.extract_model(str(whole), str(folder / ENCODER_FILE), ["items"], ["state"])


def _write(module: Scores, longest: int, path: str) -> None:
    items = torch.ones(2, min(3, longest), dtype=torch.int64)
    items[0, 1:] = 0
    common: dict[str, Any] = {"input_names": ["items"], "output_names": ["state", "scores"], "opset_version": _OPSET,
                              "external_data": False}
    with _quiet():
        if isinstance(module.student, GRU4Rec):
            # torch.export unrolls recurrent layers over a fixed length; the tracer writes ONNX's own.
            axes = {"items": {0: "batch", 1: "length"}, "state": {0: "batch"}, "scores": {0: "batch"}}
            torch.onnx.export(module, (items,), path, dynamo=False, dynamic_axes=axes, **common)
            return
        free = {0: torch.export.Dim("batch", min=1, max=_MAX_BATCH)}
        if longest > 1:
            free[1] = torch.export.Dim("length", min=1, max=longest)
        torch.onnx.export(module, (items,), path, dynamo=True, dynamic_shapes={"items": free}, verbose=False, **common)


@contextmanager
def _quiet() -> Iterator[None]:
    """No warnings and progress of the exporters inside the block."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
