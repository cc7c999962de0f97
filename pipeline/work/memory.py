"""How the C library treats memory that torch frees."""

from __future__ import annotations

import ctypes
import sys

_SETTINGS = {"MMAP_THRESHOLD": (-3, 2**30), "TRIM_THRESHOLD": (-1, 2**31 - 1), "TOP_PAD": (-2, 2**28)}
"""glibc's settings, their numbers (``mallopt(3)``) and bytes, a C int there: the largest piece that does not go back to
the system by itself, what may lie free at the end of the heap, and by how much the heap grows."""
_OLD_LARGEST_BYTES = 2**25
"""The most that older ones take as the first of them; a larger value is refused."""

FROM_THE_START = {f"MALLOC_{name}_": str(value) for name, (_, value) in _SETTINGS.items()}
"""The same by the environment, for a process that others start."""


def keep_freed_memory() -> None:
    """For the rest of the process, let tensors lie where freed ones have lain.

    A step of training or ranking frees what it has taken, megabytes at a time. glibc gives such pieces back to the
    system, and the next step pays for every page again: a tenth of the time of a step on a CPU. Without glibc nothing
    changes.
    """
    if sys.platform == "linux" and hasattr(library := ctypes.CDLL(None), "mallopt"):
        for number, value in _SETTINGS.values():
            if not library.mallopt(number, value):
                library.mallopt(number, _OLD_LARGEST_BYTES)
