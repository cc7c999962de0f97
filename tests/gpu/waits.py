"""Where a training step makes the host wait for the device: by line of our code, and as the profiler sees it."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

from tests.gpu.machine import ROOT, settle
from tests.gpu.steps import Case
from tests.gpu.training import Task, Training

WAITING = {"aten::_local_scalar_dense", "aten::nonzero", "aten::_unique2", "aten::unique_dim",
           "aten::unique_consecutive"}
"""The host must know their result, or how large it is. On a CPU they cost nothing and are counted all the same."""
CALLS = ("Synchronize", "Memcpy")
"""Parts of names of CUDA's own functions that wait, or may."""
OURS = tuple(str(ROOT / folder) for folder in ("models", "pipeline"))


class Waits(TorchDispatchMode):
    """Counts, by line of our code, what makes the host wait while the mode is on. What autograd's own threads do on a
    GPU is not seen."""

    def __init__(self) -> None:
        super().__init__()
        self.places: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name
        if name in WAITING or _crosses(name, args, kwargs):
            self.places[f"{_place()} {name.removeprefix('aten::')}"] += 1
        return func(*args, **kwargs)


def _crosses(name: str, args: Any, kwargs: Any) -> bool:
    """Whether it copies between host and device."""
    if name == "aten::copy_":
        return bool(args[0].device != args[1].device)
    return name == "aten::_to_copy" and kwargs.get("device") is not None and (
        torch.device(kwargs["device"]).type != args[0].device.type)


def _place() -> str:
    """The innermost line of ours that is being run."""
    frame = sys._getframe(2)
    while frame is not None:
        if frame.f_code.co_filename.startswith(OURS):
            return f"{Path(frame.f_code.co_filename).relative_to(ROOT)}:{frame.f_lineno}"
        frame = frame.f_back
    return "elsewhere"


def count(case: Case, task: Task, device: torch.device, steps: int) -> dict[str, Any]:
    """Waits per step, after the first steps."""
    made = Training(task, *case.settings(), case.arm, device)
    batches = made.batches(3 * steps)
    for _ in range(steps):
        made.step(next(batches))
    waits = Waits()
    for _ in range(steps):
        batch = next(batches)
        with waits:
            made.step(batch)
    settle(device)
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.type == "cuda" else [])]
    rest = list(batches)
    with profile(activities=activities) as profiler:
        for batch in rest:
            made.step(batch)
        settle(device)
    seen = {event.key: event.count for event in profiler.key_averages()
            if event.key in WAITING or any(part in event.key for part in CALLS)}
    return {"case": str(case), "lines_per_step": {name: total / steps for name, total in sorted(waits.places.items())},
            "profiler_per_step": {name: total / steps for name, total in sorted(seen.items())}}
