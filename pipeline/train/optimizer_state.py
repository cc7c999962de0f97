"""An optimizer's state as named tensors, and back."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def optimizer_tensors(optimizer: torch.optim.Optimizer, names: list[str]) -> dict[str, Tensor]:
    """The optimizer's state as ``parameter name/state name`` → tensor.

    Args:
        optimizer: with one parameter group.
        names: of its parameters, in order.
    """
    state: Mapping[int, Mapping[str, Tensor]] = optimizer.state_dict()["state"]
    return {f"{names[index]}/{key}": value for index, entry in state.items() for key, value in entry.items()}


def restore_optimizer(optimizer: torch.optim.Optimizer, names: list[str], tensors: Mapping[str, Tensor]) -> None:
    """Put tensors of :func:`optimizer_tensors` back."""
    state: dict[int, dict[str, Tensor]] = {}
    index_of = {name: index for index, name in enumerate(names)}
    for path, value in tensors.items():
        name, _, key = path.rpartition("/")
        state.setdefault(index_of[name], {})[key] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
