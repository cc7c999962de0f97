"""What a disk or an object store refused, in one line: from the errors of whichever library was at it."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from configs.errors import MentorecError, ResourceError, StorageError

STORAGE = "storage.uri"
_ROOM = "make room there or set {place} to another place; the same command then goes on"
_REASONS: dict[int, tuple[str, str]] = {
    errno.ENOSPC: ("the disk is full", _ROOM),
    errno.EDQUOT: ("your disk quota is spent", _ROOM),
    errno.EROFS: ("the file system is read-only", "set {place} to a place that can be written"),
    errno.EACCES: ("no permission", "change its owner or mode, or set {place} to a folder of your own"),
    errno.EPERM: ("no permission", "change its owner or mode, or set {place} to a folder of your own"),
    errno.EIO: ("the device reports an input/output error", "check the disk; the same command goes on elsewhere"),
    errno.ENOTDIR: ("a part of the path is a file", "set {place} to a folder"),
    errno.EISDIR: ("a folder is in the way", "remove it, or set {place} to another place"),
    errno.ENAMETOOLONG: ("the path is too long", "set {place} to a shorter one"),
    errno.EMFILE: ("too many files are open", "raise the limit (ulimit -n)"),
    errno.EFBIG: ("the file would be larger than allowed", "raise the limit (ulimit -f)"),
    errno.ESTALE: ("the network file system lost it", "mount it anew; the same command goes on"),
}
"""Error number → cause and remedy; ``{place}`` is what a person sets to write elsewhere."""
_WORDS = {
    "no space left on device": errno.ENOSPC, "os error 28": errno.ENOSPC, "disk quota exceeded": errno.EDQUOT,
    "read-only file system": errno.EROFS, "permission denied": errno.EACCES, "outofdiskerror": errno.ENOSPC,
    "file name too long": errno.ENAMETOOLONG, "too many open files": errno.EMFILE, "file too large": errno.EFBIG,
}
"""What libraries that hide the number say."""
CREDENTIALS = "check storage.uri, its endpoint and the credentials in the environment"
_STORE = "AWS Error "
"""In what pyarrow says of every request that S3 refused or did not answer."""
_FEW_INODES = 16
"""A disk with fewer left takes no further file, whatever room it has; what a run gives back at its end are a few."""
_NUMBER = re.compile(r"\[errno (\d+)\]", re.IGNORECASE)
_PATH = re.compile(r"(?<![\w:/])(/[^\s'\"`:,;]+)")


def explained(exc: OSError, path: str) -> str:
    """One line for a failed write at ``path``: the true cause, and the remedy that fits it."""
    number = _number(exc)
    if number is None:
        return f"{path} cannot be written: {_line(exc)}; set {STORAGE} to another place"
    return _message(number, path, STORAGE)


def unread(exc: OSError, path: str) -> str:
    """One line for a failed read of ``path``, as :func:`explained`."""
    number = _number(exc)
    if number is not None:
        return _message(number, path, STORAGE, "read")
    remedy = CREDENTIALS if _STORE in str(exc) else "check the store, and whether the file is whole"
    return f"{path} cannot be read: {_line(exc)}; {remedy}"


def cause(exc: BaseException, path: str) -> str:
    """Why a write at ``path`` failed, without a remedy: the disk is full, no permission, …"""
    number = _number(exc)
    if number is None:
        return _line(exc)
    return _reason(number, path)


def fault(exc: BaseException, root: str, place: str = STORAGE) -> StorageError | None:
    """The refusal of a disk or an object store inside an exception, whatever library raised it and whatever wraps it;
    None: no such thing.

    Args:
        root: the path to name where the exception names none.
        place: what a person sets to write elsewhere.
    """
    for found in _inside(exc):
        if isinstance(found, MentorecError):
            return None  # it says what it has to say
        told = [line for line in str(found).splitlines() if _STORE in line]
        if told:
            return StorageError(f"the object store refused a request: {told[-1].strip()[:300]}; {CREDENTIALS}")
        number = _number(found)
        if number is not None:
            return StorageError(_message(number, _named(found) or root, place))
    return None


def environment_fault(exc: BaseException) -> ResourceError | None:
    """A runtime environment that Ray could not set up, inside an exception; None: no such thing."""
    for found in _inside(exc):
        if type(found).__name__ == "RuntimeEnvSetupError":
            return ResourceError(f"a stage's runtime environment cannot be set up: {_line(found)[:500]}; correct its "
                                 "execution.runtime_env; what is built is kept")
    return None


def _inside(exc: BaseException) -> Iterator[BaseException]:
    """The exception and all that it wraps."""
    seen: set[int] = set()
    pending: list[BaseException | None] = [exc]
    while pending:
        found = pending.pop(0)
        if found is None or id(found) in seen:
            continue
        seen.add(id(found))
        yield found
        pending += [getattr(found, "cause", None), found.__cause__, found.__context__]  # Ray's task errors have `cause`


@contextmanager
def storage_errors(root: str, place: str = STORAGE) -> Iterator[None]:
    """Turn the refusals of a disk or an object store inside the block into a StorageError; arguments as for
    :func:`fault`.

    Raises:
        StorageError: the disk below ``root`` is full or read-only, a folder may not be written, a token has expired, …
    """
    try:
        yield
    except Exception as exc:
        refused = fault(exc, root, place)
        if refused is None:
            raise
        raise refused from exc


def _number(exc: BaseException) -> int | None:
    if isinstance(exc, OSError) and exc.errno in _REASONS:
        return exc.errno
    if isinstance(exc, OSError) and exc.errno is not None:
        return None
    return _number_in(f"{type(exc).__name__}: {exc}".lower())


def _number_in(text: str) -> int | None:
    written = _NUMBER.search(text)
    if written and int(written[1]) in _REASONS:
        return int(written[1])
    return next((number for words, number in _WORDS.items() if words in text), None)


def _named(exc: BaseException) -> str | None:
    if isinstance(exc, OSError) and isinstance(exc.filename, str):
        return exc.filename
    lines = [line for line in str(exc).splitlines() if _number_in(line.lower()) is not None]
    found = _PATH.search(lines[-1]) if lines else None  # a remote error's text begins with its traceback
    return found[1].rstrip(".)]") if found else None


def _message(number: int, path: str, place: str, done: str = "written") -> str:
    return f"{path} cannot be {done}: {_reason(number, path)}; {_REASONS[number][1].format(place=place)}"


def _reason(number: int, path: str) -> str:
    return _REASONS[number][0] + (_free(path) if number == errno.ENOSPC else "")


def _free(path: str) -> str:
    """How much is left on the disk of a path, where that can be asked."""
    there = next((parent for parent in (Path(path), *Path(path).parents) if parent.exists()), None)
    if there is None or "://" in path:
        return ""
    usage, disk = shutil.disk_usage(there), os.statvfs(there)
    files = f" and {disk.f_favail:,} of {disk.f_files:,} inodes" if disk.f_favail < _FEW_INODES <= disk.f_files else ""
    return f" ({usage.free / 2**20:,.1f} of {usage.total / 2**20:,.1f} MiB{files} free)"


def _line(exc: BaseException) -> str:
    return " ".join(str(exc).split())[:300]
