"""Content digests of raw files and model folders, so that one changed byte is another fingerprint.

Reading gigabytes again for every command would be slow, so digests are remembered under what the filesystem says of
a file: path, size, times of change and inode.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from cluster.storage import Storage
from configs.errors import DataError

CACHE_FILE = "cache/digests.json"
_CHUNK_BYTES = 1 << 20
_SETTLED_NS = 50_000_000
"""A file changed less than this before it was read may change again within the same tick of the clock."""


def digest_file(path: Path) -> str:
    """32 hexadecimal digits of a file's bytes.

    Raises:
        DataError: the file cannot be read.
    """
    hasher = hashlib.blake2b(digest_size=16)
    try:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                hasher.update(chunk)
    except OSError as exc:
        raise DataError(f"{path}: cannot be read ({exc.strerror}); check the path and its permissions") from exc
    return hasher.hexdigest()


class DigestCache:
    """Digests remembered below the storage root; without a storage, for this object's life only."""

    def __init__(self, storage: Storage | None = None) -> None:
        self._storage = storage
        self._known = self._load()

    def files(self, paths: Iterable[Path]) -> list[str]:
        """The digests of files, each read again only when the filesystem says that it changed."""
        digests: list[str] = []
        new: dict[str, str] = {}
        try:
            for path in paths:
                digest, found = self._digest(path)
                digests.append(digest)
                new |= found
        finally:  # what was read before a file that cannot be is kept
            if new:
                self._save(new)
        return digests

    def folder(self, path: Path) -> str:
        """The digest of a folder: of its files' relative names and bytes, hidden files left out."""
        hasher = hashlib.blake2b(digest_size=16)
        inside = sorted(p.relative_to(path) for p in path.rglob("*") if p.is_file())
        told = [name for name in inside if not any(part.startswith(".") for part in name.parts)]
        for name, digest in zip(told, self.files(path / name for name in told), strict=True):
            hasher.update(f"{name.as_posix()}\0{digest}\n".encode())
        return hasher.hexdigest()

    def _digest(self, path: Path) -> tuple[str, dict[str, str]]:
        """A file's digest, and what is to be remembered of it."""
        state = _state(path)
        if state in self._known:
            return self._known[state], {}
        digest = digest_file(path)
        changed_ns = max(path.stat().st_mtime_ns, path.stat().st_ctime_ns)
        settled = _state(path) == state and time.time_ns() - changed_ns > _SETTLED_NS
        return digest, {state: digest} if settled else {}

    def _load(self) -> dict[str, str]:
        if self._storage is None or not self._storage.exists(CACHE_FILE):
            return {}
        try:
            known = self._storage.read_json(CACHE_FILE)
        except json.JSONDecodeError:
            return {}  # a cache: what it held is computed again
        return {str(k): str(v) for k, v in known.items()} if isinstance(known, dict) else {}

    def _save(self, new: dict[str, str]) -> None:
        paths = {_path(state) for state in new}
        known: dict[str, Any] = {**self._load(), **self._known}
        self._known = {state: digest for state, digest in known.items() if _path(state) not in paths} | new
        if self._storage is not None:
            self._storage.write_json(CACHE_FILE, self._known)


def _path(state: str) -> str:
    return state.rsplit("|", 4)[0]


def _state(path: Path) -> str:
    try:
        stat = os.stat(path)
    except OSError as exc:
        raise DataError(f"{path}: cannot be read ({exc.strerror}); check the path and its permissions") from exc
    return f"{os.path.abspath(path)}|{stat.st_size}|{stat.st_mtime_ns}|{stat.st_ctime_ns}|{stat.st_ino}"
