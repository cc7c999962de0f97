"""Copies of an object store's files on this node: one per content, bounded in size, shared by its processes.

They outlive the run that brought them: the next run of the same artifacts, a search's trials and `recommend` read them
again. The least recently used give way to new ones, never those that a living process has asked for or is making: it
holds a lock on them, which the operating system releases when the process ends, however it ends.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pyarrow.fs as pafs

from cluster.faults import cause
from cluster.locked_folders import abandoned, is_its_lock, new_folder, open_lock
from cluster.small_files import patient_reader
from configs.errors import StorageError

NODE_CACHE = Path(tempfile.gettempdir()) / f"mentorec-cache-{os.getuid()}"
"""Readable by this user alone."""

_COPY = "copy"
_UNFINISHED = "unfinished-"
_HELD: dict[Path, int] = {}
"""Descriptors of this process's shared locks, by entry."""
_THREADS = threading.Lock()
_FULL = (errno.ENOSPC, errno.EDQUOT)


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
            OSError: the store refuses to give the source.
        """
        files = _files(filesystem, source)
        entry = NODE_CACHE / self._tag(filesystem, source, files)
        if not _hold(entry):
            size = sum(info.size for info in files)
            self._make(filesystem, source, entry, size)
            while not _hold(entry):  # another process has removed it already
                self._make(filesystem, source, entry, size)
            _evict(self.max_bytes)  # several may have come at once
        return entry / _COPY

    def _make(self, filesystem: pafs.FileSystem, source: str, entry: Path, size: int) -> None:
        """Old copies go first: the disk may be smaller than the bound."""
        try:
            NODE_CACHE.mkdir(mode=0o700, parents=True, exist_ok=True)
            _evict(self.max_bytes - size)
            try:
                _copy(filesystem, source, entry)
            except OSError as exc:
                if exc.errno not in _FULL:
                    raise
                _evict(0)
                _copy(filesystem, source, entry)
        except OSError as exc:
            if exc.errno is None:  # the store's
                raise
            raise _cannot_copy(source, exc) from exc

    def _tag(self, filesystem: pafs.FileSystem, source: str, files: list[pafs.FileInfo]) -> str:
        """Digest of what the source holds now: names, sizes, times of writing, and the store's own entity tags."""
        digest = hashlib.blake2b(f"{self.origin}:{source}".encode(), digest_size=12)
        for info in files:
            with filesystem.open_input_file(info.path) as file:
                entity = (file.metadata() or {}).get("ETag")
            digest.update(f"\n{info.path}:{info.size}:{info.mtime_ns}:{entity!r}".encode())
        return digest.hexdigest()


def _copy(filesystem: pafs.FileSystem, source: str, entry: Path) -> None:
    fresh, lock = new_folder(_UNFINISHED, NODE_CACHE)
    try:
        if filesystem.get_file_info(source).type == pafs.FileType.Directory:
            (fresh / _COPY).mkdir()
        pafs.copy_files(source, str(fresh / _COPY), source_filesystem=patient_reader(filesystem))
        with suppress(OSError):  # another process of this node was first; its copy is the same
            fresh.rename(entry)
    finally:
        os.close(lock)
        shutil.rmtree(fresh, ignore_errors=True)


def _evict(max_bytes: int) -> None:
    """Remove the least recently used copies until the rest fits, and what dead processes left half-copied."""
    total = 0
    for _, entry in sorted(_entries(), reverse=True):
        if entry.name.startswith(_UNFINISHED):
            _remove(entry)
            continue
        total += _size(entry)
        if total > max_bytes:
            _remove(entry)


def _hold(entry: Path) -> bool:
    """Keep a copy from being removed while this process lives; False: it is not there."""
    with _THREADS:
        try:
            if entry not in _HELD:
                _HELD[entry] = open_lock(entry)
                fcntl.flock(_HELD[entry], fcntl.LOCK_SH)
            if is_its_lock(_HELD[entry], entry):
                os.utime(entry)  # used now: the last to be evicted
                return True
        except (FileNotFoundError, NotADirectoryError):
            pass
        if entry in _HELD:  # it was removed meanwhile
            os.close(_HELD.pop(entry))
        return False


def _remove(entry: Path) -> None:
    """Remove a copy unless a living process holds it; whoever waits for its lock meanwhile will not find it."""
    with suppress(OSError):  # held, or gone; where nothing can be written, the copy that follows says so
        with abandoned(entry):
            gone = entry.rename(entry.with_name(f"{_UNFINISHED}{entry.name.removeprefix(_UNFINISHED)}-{os.getpid()}"))
        shutil.rmtree(gone, ignore_errors=True)


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
    """Bytes of a copy, of what is left of it while another process removes it."""
    total = 0
    for folder, _, names in os.walk(entry):  # passes over what is gone; Path.rglob would raise
        for name in names:
            with suppress(FileNotFoundError):
                total += os.lstat(os.path.join(folder, name)).st_size
    return total


def _cannot_copy(source: str, exc: OSError) -> StorageError:
    return StorageError(f"{source} cannot be copied to {NODE_CACHE} on this node: {cause(exc, str(NODE_CACHE))}; set "
                        "TMPDIR to a disk with room that can be written")
