"""Copies of an object store's files on this node: one per content, bounded in size, shared by its processes."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pyarrow.fs as pafs

from cluster.faults import cause
from configs.errors import StorageError

NODE_CACHE = Path(tempfile.gettempdir()) / f"mentorec-cache-{os.getuid()}"
"""Readable by this user alone."""

_COPY = "copy"
_UNFINISHED = "unfinished-"
_GRACE_S = 600.0
"""A copy asked for so recently may be about to be opened."""
_ABANDONED_S = 86_400.0
"""A copy under way for so long has lost its process."""


@dataclass(frozen=True)
class NodeCopies:
    """Where copies come from, and how much of them a node keeps."""

    origin: str
    """Names the store: the same path of another endpoint is another file."""
    max_bytes: int

    def get(self, filesystem: pafs.FileSystem, source: str) -> Path:
        """The local copy of a file or folder; made anew when the source was replaced since.

        Raises:
            FileNotFoundError: the source is not there.
            StorageError: there is no room for the copy, or its folder cannot be written.
        """
        entry = NODE_CACHE / self._tag(filesystem, source)
        copy = entry / _COPY
        if entry.is_dir():
            os.utime(entry)  # used now: the last to be evicted
            return copy
        try:
            NODE_CACHE.mkdir(mode=0o700, parents=True, exist_ok=True)
            fresh = Path(tempfile.mkdtemp(prefix=_UNFINISHED, dir=NODE_CACHE))
        except OSError as exc:
            raise _cannot_copy(source, exc) from exc
        try:
            if filesystem.get_file_info(source).type == pafs.FileType.Directory:
                (fresh / _COPY).mkdir()
            pafs.copy_files(source, str(fresh / _COPY), source_filesystem=filesystem)
            with suppress(OSError):  # another process of this node was first; its copy is the same
                fresh.rename(entry)
        except OSError as exc:
            raise _cannot_copy(source, exc) from exc
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
        self._evict()
        return copy

    def _tag(self, filesystem: pafs.FileSystem, source: str) -> str:
        """Digest of what the source holds now: names, sizes, times of writing, and the store's own entity tags."""
        digest = hashlib.blake2b(f"{self.origin}:{source}".encode(), digest_size=12)
        for info in _files(filesystem, source):
            with filesystem.open_input_file(info.path) as file:
                entity = (file.metadata() or {}).get("ETag")
            digest.update(f"\n{info.path}:{info.size}:{info.mtime_ns}:{entity!r}".encode())
        return digest.hexdigest()

    def _evict(self) -> None:
        """Remove the least recently used copies until the rest fits, and what dead processes left half-copied."""
        now, total = time.time(), 0
        for used, entry in sorted(_entries(), reverse=True):
            half = entry.name.startswith(_UNFINISHED)
            total += _size(entry)
            if now - used > (_ABANDONED_S if half else _GRACE_S) and (half or total > self.max_bytes):
                shutil.rmtree(entry, ignore_errors=True)


def _files(filesystem: pafs.FileSystem, source: str) -> list[pafs.FileInfo]:
    info = filesystem.get_file_info(source)
    if info.type == pafs.FileType.NotFound:
        raise FileNotFoundError(f"{source} is not there")
    if info.type == pafs.FileType.File:
        return [info]
    inside = filesystem.get_file_info(pafs.FileSelector(source, recursive=True))
    return sorted((i for i in inside if i.type == pafs.FileType.File), key=lambda i: i.path)


def _entries() -> Iterator[tuple[float, Path]]:
    """Every copy with the time of its last use; another process may be removing some."""
    for entry in NODE_CACHE.iterdir():
        with suppress(FileNotFoundError):
            yield entry.stat().st_mtime, entry


def _size(entry: Path) -> int:
    total = 0
    for file in entry.rglob("*"):
        with suppress(FileNotFoundError):
            total += file.lstat().st_size
    return total


def _cannot_copy(source: str, exc: OSError) -> StorageError:
    return StorageError(f"{source} cannot be copied to {NODE_CACHE} on this node: {cause(exc, str(NODE_CACHE))}; lower "
                        "storage.node_copies_gb, or set TMPDIR to a disk with room that can be written")
