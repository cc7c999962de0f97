"""Folders of files on their way to an object store, below this machine's folder for temporary files.

One goes when its upload ends. What a killed process leaves, gigabytes perhaps, goes at the next upload of the same
user: a living process holds a lock, which the operating system releases when the process ends, however it ends.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cluster.locked_folders import abandoned, new_folder

_PREFIX = f"mentorec-upload-{os.getuid()}-"
_FILES = "files"


@contextmanager
def upload_folder() -> Iterator[Path]:
    """An empty folder, readable by this user alone, which goes afterwards with all that is in it."""
    _remove_abandoned()
    folder, lock = new_folder(_PREFIX, Path(tempfile.gettempdir()))
    try:
        (folder / _FILES).mkdir()
        yield folder / _FILES
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _remove_abandoned() -> None:
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with suppress(OSError):  # it is locked, is going already, or is no folder
            if folder.lstat().st_uid == os.getuid():
                with abandoned(folder):
                    shutil.rmtree(folder, ignore_errors=True)
