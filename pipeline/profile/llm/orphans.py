"""vLLM's engine processes end with the process that started them.

A plugin of vLLM (`pyproject.toml`), which it loads in each of its processes. An engine whose actor was killed together
with its node's Ray is told by nobody; it would hold its GPU's memory until somebody finds it.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from multiprocessing import connection


def end_with_parent() -> None:
    """From now on this process is killed when the one that started it has ended; without effect in one that
    :mod:`multiprocessing` has not started."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_follow, args=(parent.sentinel,), name="end-with-parent", daemon=True).start()


def _follow(sentinel: int) -> None:
    connection.wait([sentinel])
    os.kill(os.getpid(), signal.SIGKILL)
