"""Memory that a process frees is used again, and not given back and asked for anew."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

from pipeline.work.memory import FROM_THE_START
from tests.tools import ROOT

MIB, TIMES = 64, 10
PR_SET_THP_DISABLE = 41
AGAIN_AND_AGAIN = f"""
import ctypes, resource, sys
library = ctypes.CDLL(None)
library.malloc.restype, library.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
library.free.argtypes = [ctypes.c_void_p]
library.prctl({PR_SET_THP_DISABLE}, *map(ctypes.c_ulong, (1, 0, 0, 0)))  # a huge page is one fault
if "keep" in sys.argv:
    from pipeline.work.memory import keep_freed_memory
    keep_freed_memory()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range({TIMES}):
    piece = library.malloc({MIB} << 20)
    ctypes.memset(piece, 1, {MIB} << 20)
    library.free(piece)
print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) * resource.getpagesize() >> 20)
"""


def _touched_mib(*arguments: str, **variables: str) -> int:
    """What a process asks of the system that takes and frees a piece again and again."""
    done = subprocess.run([sys.executable, "-c", AGAIN_AND_AGAIN, *arguments], capture_output=True, text=True,
                          check=True, env={**os.environ, "PYTHONPATH": str(ROOT), **variables})
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc" or tuple(map(int, platform.libc_ver()[1].split("."))) < (2, 36),
                    reason="an older glibc, or none")
def test_a_large_piece_is_asked_for_once() -> None:
    assert _touched_mib() >= MIB * TIMES
    assert _touched_mib("keep") <= 2 * MIB
    assert _touched_mib(**FROM_THE_START) <= 2 * MIB
