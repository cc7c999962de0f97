"""The command line, which kills itself while it publishes an artifact: ``python -m tests.killed_publishing STAGE MOMENT
ARGS…``. MOMENT ``upload``: one file of the stage's is there, the others are not; ``manifest``: all but the manifest."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs

from cluster import storage as storages
from cluster.storage import Storage
from pipeline.commands.cli import main


def die() -> None:
    """As by the kernel's out-of-memory killer."""
    os.kill(os.getpid(), signal.SIGKILL)


def break_uploads(stage: str) -> None:
    """Of the next folder that goes to the stage's artifacts, one file arrives."""
    def copy_one(folder: str, path: str, **options: Any) -> None:
        files = sorted(file for file in Path(folder).rglob("*") if file.is_file())
        if f"/artifacts/{stage}/" not in path or len(files) < 2:
            pafs.copy_files(folder, path, **options)
            return
        pafs.copy_files(str(files[0]), f"{path}/{files[0].relative_to(folder)}", **options)
        die()

    class Copying:
        """pyarrow's filesystems, as the storage sees them."""

        copy_files = staticmethod(copy_one)

        def __getattr__(self, name: str) -> Any:
            return getattr(pafs, name)

    storages.pafs = Copying()  # type: ignore[assignment]


def break_manifests(stage: str) -> None:
    """The stage's manifest is not written any more."""
    write = Storage.write_json

    def write_or_die(self: Storage, relative: str, value: Any) -> None:
        if relative.startswith(f"artifacts/{stage}/") and relative.endswith("/manifest.json"):
            die()
        write(self, relative, value)

    Storage.write_json = write_or_die  # type: ignore[method-assign]


if __name__ == "__main__":
    {"upload": break_uploads, "manifest": break_manifests}[sys.argv[2]](sys.argv[1])
    main(sys.argv[3:])
