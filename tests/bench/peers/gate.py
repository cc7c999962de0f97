"""What the drivers of the peers share: talk over stdin and stdout, and a trainer that stops between optimizer steps.

Runs in a peer's environment, as a script's neighbour: nothing of ours can be imported here, only torch and numpy.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import psutil
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook


class Peer(Protocol):
    """A peer library with its model, data and trainer ready."""

    steps_per_epoch: int

    def fit(self, epochs: int, max_steps: int | None) -> None:
        """The library's own training call; ``max_steps`` ends it early."""

    def top(self, k: int) -> np.ndarray:
        """int [users, k]: raw item ids recommended after each user's training items, seen ones removed."""

    def checks(self) -> dict[str, Any]:
        """Figures on the side; asked only of those who have some."""


Settings = dict[str, Any]


def drive(build: Callable[[Settings], Peer], packages: tuple[str, ...]) -> None:
    """Serve one task, named by the settings in ``argv[1]``; everything heavy has been imported by now.

    ``slices``: train step by step as asked by ``{"steps": n}``. ``rank``: train one step, then rank whenever asked by
    ``{"rank": k}``. ``fit``: train ``epochs`` epochs first, then as ``rank``. The end of stdin ends the process.
    """
    settings = json.loads(sys.argv[1])
    torch.set_num_threads(settings["threads"])
    channel = Channel()
    imports_bytes = psutil.Process().memory_info().rss
    _forget_peak()
    peer = build(settings)
    facts = {"steps_per_epoch": peer.steps_per_epoch, "imports_bytes": imports_bytes,
             "versions": {name: version(name) for name in packages}}
    if settings["task"] == "slices":
        channel.say(facts)
        gate = _Gate(channel, imports_bytes)
        register_optimizer_step_post_hook(lambda optimizer, *_: gate.step(optimizer))
        gate.wait()
        peer.fit(10**6, None)
        return
    watch = _Watch()
    if settings["task"] == "fit":
        peer.fit(settings["epochs"], None)
    else:
        peer.fit(1, 1)
    channel.say({**facts, "fit": watch.read()})
    while (request := channel.hear()) is not None:
        if "checks" in request:
            channel.say(peer.checks())
            continue
        _forget_peak()
        watch = _Watch()
        found = peer.top(request["rank"])
        figures = {**watch.read(), "peak_bytes": _peak() - imports_bytes}
        np.save(request["to"], found)
        channel.say(figures)


class Channel:
    """JSON lines; what the libraries print goes to stderr."""

    def __init__(self) -> None:
        self._out = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)

    def say(self, message: dict[str, Any]) -> None:
        print(json.dumps(message), file=self._out, flush=True)

    def hear(self) -> dict[str, Any] | None:
        line = sys.stdin.readline()
        return json.loads(line) if line.strip() else None


class _Watch:
    def __init__(self) -> None:
        self._cpu, self._wall = time.process_time(), time.perf_counter()

    def read(self) -> dict[str, float]:
        return {"cpu_s": time.process_time() - self._cpu, "wall_s": time.perf_counter() - self._wall}


class _Gate:
    """Lets so many optimizer steps pass as were asked for."""

    def __init__(self, channel: Channel, imports_bytes: int) -> None:
        self._channel, self._imports_bytes = channel, imports_bytes
        self._asked = self._left = 0
        self._optimizer: torch.optim.Optimizer | None = None
        self._watch = _Watch()

    def wait(self) -> None:
        request = self._channel.hear()
        if request is None:
            os._exit(0)  # from the midst of a library's training loop
        self._asked = self._left = request["steps"]
        self._watch = _Watch()

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        """After each step; where several optimizers make one, the first of them counts."""
        self._optimizer = self._optimizer or optimizer
        if optimizer is not self._optimizer:
            return
        self._left -= 1
        if self._left == 0:
            self._channel.say({"steps": self._asked, **self._watch.read(),
                               "peak_bytes": _peak() - self._imports_bytes})
            self.wait()


def read_sequences(path: str) -> list[list[int]]:
    """One user's item ids per line, in time order."""
    return [[int(item) for item in line.split()] for line in Path(path).read_text().splitlines()]


def _forget_peak() -> None:
    """Start the peak anew where the system can (Linux)."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def _peak() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
