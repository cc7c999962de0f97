"""How the C library treats memory that torch frees."""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""glibc's names for its settings (``mallopt(3)``)."""
_KEPT_BYTES, _LARGEST_BYTES = 2**28, 2**25
"""What may lie free before the system gets it back, and the largest piece that is treated so, glibc's own limit."""

FROM_THE_START = {"MALLOC_MMAP_THRESHOLD_": str(2**32), "MALLOC_TRIM_THRESHOLD_": str(2**33),
                  "MALLOC_TOP_PAD_": str(2**28)}
"""The same by the environment, for a process that others start: a language model's steps take more at a time."""


def keep_freed_memory() -> None:
    """For the rest of the process, let tensors lie where freed ones have lain.

    A step of training or ranking frees what it has taken, megabytes at a time. glibc gives such pieces back to the
    system, and the next step pays for every page again: a tenth of the time of a step on a CPU. Without glibc nothing
    changes.
    """
    if sys.platform == "linux" and hasattr(library := ctypes.CDLL(None), "mallopt"):
        library.mallopt(_MMAP_THRESHOLD, _LARGEST_BYTES)
        library.mallopt(_TRIM_THRESHOLD, _KEPT_BYTES)
