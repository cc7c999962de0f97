"""Folders of living processes: each holds a lock in its own, which the operating system releases when the process ends,
however it ends."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

LOCK = "lock"


def open_lock(folder: Path) -> int:
    """The descriptor of a folder's lock."""
    return os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def new_folder(prefix: str, place: Path) -> tuple[Path, int]:
    """A new folder, readable by this user alone, and the descriptor of its lock, which is held."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=place))
        with suppress(FileNotFoundError):
            lock = open_lock(folder)
            fcntl.flock(lock, fcntl.LOCK_EX)
            if is_its_lock(lock, folder):
                return folder, lock
            os.close(lock)  # another process has removed the folder, not locked yet, as an abandoned one


def is_its_lock(lock: int, folder: Path) -> bool:
    """Whether the folder is still the one whose lock was opened; whoever waited for it may have lost the folder."""
    with suppress(FileNotFoundError, NotADirectoryError):
        return os.fstat(lock).st_ino == (folder / LOCK).stat().st_ino
    return False


@contextmanager
def abandoned(folder: Path) -> Iterator[None]:
    """Holds the lock of a folder that nobody holds.

    Raises:
        BlockingIOError: a living process holds it.
        OSError: the folder is gone, is none, or may not be written.
    """
    lock = open_lock(folder)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(lock)
