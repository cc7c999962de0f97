"""Seconds and memory of a piece of work, its processes' included: sampled while it runs."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil

_POLL_S = 0.5


@dataclass
class Usage:
    """What :func:`watched` saw; bytes are resident ones at their peak."""

    seconds: float = 0.0
    own_bytes: int = 0
    tree_bytes: int = 0
    """Of this process and all below it together; pages they share are counted in each."""
    tree_unique_bytes: int = 0
    """The same with shared pages divided among their owners (PSS), where the system tells."""
    by_name: dict[str, int] = field(default_factory=dict)
    """The largest process of each name below this one."""

    def figures(self) -> dict[str, float | int]:
        """JSON-ready, without the names."""
        return {"seconds": round(self.seconds, 2), "driver_bytes": self.own_bytes, "tree_bytes": self.tree_bytes,
                "tree_unique_bytes": self.tree_unique_bytes}


@contextlib.contextmanager
def watched(pid: int | None = None) -> Iterator[Usage]:
    """Sample a process (None: this one) and all below it while the block runs."""
    usage, ended = Usage(), threading.Event()
    thread = threading.Thread(target=_watch, args=(psutil.Process(pid), usage, ended), daemon=True)
    started = time.perf_counter()
    thread.start()
    try:
        yield usage
    finally:
        usage.seconds = time.perf_counter() - started
        ended.set()
        thread.join()


def _watch(top: psutil.Process, usage: Usage, ended: threading.Event) -> None:
    last_unique = 0.0
    while True:
        with contextlib.suppress(psutil.Error):  # it may end while it is looked at
            processes = top.children(recursive=True)
            own = top.memory_info().rss
            tree = own + sum(_resident(usage, process) for process in processes)
            usage.own_bytes, usage.tree_bytes = max(usage.own_bytes, own), max(usage.tree_bytes, tree)
            if time.perf_counter() - last_unique > 6 * _POLL_S:  # dear: the system walks every page
                last_unique = time.perf_counter()
                usage.tree_unique_bytes = max(usage.tree_unique_bytes, sum(map(_unique, [top, *processes])))
        if ended.wait(_POLL_S):
            return


def _resident(usage: Usage, process: psutil.Process) -> int:
    """Resident bytes of a process below; notes them under its name."""
    try:
        size, name = process.memory_info().rss, Path((process.cmdline() or [""])[0]).name[:60]
    except psutil.Error:
        return 0
    usage.by_name[name] = max(usage.by_name.get(name, 0), size)
    return size


def _unique(process: psutil.Process) -> int:
    try:
        return int(process.memory_full_info().pss)
    except (psutil.Error, AttributeError):
        return 0
