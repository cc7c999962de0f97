"""Who is at work on a folder: a small record that a later process can check."""

from __future__ import annotations

import os
import socket
from typing import Any

import psutil


def mine() -> dict[str, Any]:
    """The lease of this process."""
    return {"host": socket.gethostname(), "pid": os.getpid(), "created": psutil.Process().create_time()}


def alive(lease: dict[str, Any]) -> bool:
    """Whether the holder still runs. A holder on another host cannot be asked and counts as alive."""
    if lease["host"] != socket.gethostname():
        return True
    try:
        return bool(abs(psutil.Process(lease["pid"]).create_time() - lease["created"]) < 1.0)
    except psutil.NoSuchProcess:
        return False
