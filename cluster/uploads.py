"""Folders of files on their way to an object store, below this machine's folder for temporary files.

One goes when its upload ends. What a killed process leaves, gigabytes perhaps, goes at the next upload of the same
user: a living process holds a lock, which the operating system releases when the process ends, however it ends.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cluster.node_copies import open_lock

_PREFIX = f"mentorec-upload-{os.getuid()}-"
_FILES = "files"


@contextmanager
def upload_folder() -> Iterator[Path]:
    """An empty folder, readable by this user alone, which goes afterwards with all that is in it."""
    _remove_abandoned()
    folder, lock = _locked()
    try:
        (folder / _FILES).mkdir()
        yield folder / _FILES
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _locked() -> tuple[Path, int]:
    """A new folder, and the descriptor of its lock."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
        with suppress(FileNotFoundError):
            lock = open_lock(folder)
            fcntl.flock(lock, fcntl.LOCK_EX)
            if os.fstat(lock).st_nlink:
                return folder, lock
            os.close(lock)  # another process has removed the folder, not locked yet, as an abandoned one


def _remove_abandoned() -> None:
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with suppress(OSError):  # it is locked, is going already, or is no folder
            if folder.lstat().st_uid != os.getuid():
                continue
            lock = open_lock(folder)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(lock)
