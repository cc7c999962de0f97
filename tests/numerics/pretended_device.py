"""A device that is not the CPU and yet computes there: what a GPU would refuse is refused, without a GPU.

``python -m tests.numerics.pretended_device`` compares students on it with the CPU and prints JSON: the errors of each
comparison, and what two devices in one sum say. An operation whose tensors lie on both devices raises, as it would on a
GPU. Run it as a process of its own: torch takes a device's name for the life of a process.

torch calls its door for backends written in Python experimental; :data:`AVAILABLE` tells whether it is there.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map

AVAILABLE = hasattr(backend_registration, "_setup_privateuseone_for_python_backend")
NAME = "pretended"
COMPARED = ("sasrec, softmax", "sasrec, padding keys, sampled_softmax, rowwise", "esasrec, bce", "bert4rec, gbce",
            "sasrec, user states", "bert4rec, user states", "matching, τ 2", "ranks",
            "recommendations")
"""No GRU: torch takes it apart otherwise than on any real device."""


class Pretended(Tensor):
    """A tensor of the CPU that says it is elsewhere."""

    held: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, held: Tensor) -> Pretended:
        made = Tensor._make_wrapper_subclass(
            cls, held.size(), strides=held.stride(), storage_offset=held.storage_offset(), dtype=held.dtype,
            device=torch.device(NAME, 0), requires_grad=held.requires_grad)
        made.held = held
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {})

    def tolist(self) -> Any:
        return self.held.tolist()


class Everywhere(TorchDispatchMode):
    """Sees also the operations that make tensors from nothing."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {})


def run(func: Any, args: Any, kwargs: Any) -> Any:
    """An operation on what the tensors hold."""
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    here = [isinstance(tensor, Pretended) for tensor in tensors]
    name, device = func._schema.name, kwargs.get("device")
    copies = name in ("aten::_to_copy", "aten::copy_")
    if any(here) and not copies and any(tensor.ndim and not there for tensor, there in zip(tensors, here, strict=True)):
        shapes = ", ".join(f"{tuple(tensor.shape)} {tensor.device}" for tensor in tensors)
        raise RuntimeError(f"{name}: tensors on two devices: {shapes}")
    found = func(*tree_map(_held, args), **tree_map(_held, kwargs))
    if name == "aten::copy_":
        return args[0]
    if not (any(here) if device is None else torch.device(device).type == NAME):
        return found
    return return_and_correct_aliasing(func, args, kwargs, tree_map(_pretend, found))


def _held(leaf: Any) -> Any:
    if isinstance(leaf, torch.device):
        return torch.device("cpu")
    return leaf.held if isinstance(leaf, Pretended) else leaf


def _pretend(leaf: Any) -> Any:
    return Pretended(leaf) if isinstance(leaf, Tensor) else leaf


def register() -> None:
    """Make the device known, and go around what torch does below the level where we see it."""
    backend = backend_registration._DummyBackendModule()
    backend.get_amp_supported_dtype = lambda: [torch.bfloat16]
    backend_registration._setup_privateuseone_for_python_backend(NAME, backend)
    from_values = torch.tensor

    def tensor(values: Any, *, device: Any = None, **kwargs: Any) -> Tensor:
        made = from_values(values, **kwargs)
        return made if device is None else made.to(device)

    torch.tensor = tensor
    Tensor.new_tensor = lambda self, values, **kwargs: tensor(values, device=self.device,
                                                              **({"dtype": self.dtype} | kwargs))
    Tensor.pin_memory = lambda self: self
    torch.inference_mode = torch.no_grad


def main() -> None:
    """Compare, and print what was found."""
    from tests.gpu import parity

    register()
    with Everywhere():
        found = {name: asdict(compare()) for name, compare in parity.comparisons(torch.device(NAME, 0), steps=2)
                 if name in COMPARED}
        try:
            torch.ones(2, device=NAME) + torch.ones(2)
        except RuntimeError as exc:
            found["refused"] = str(exc)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
