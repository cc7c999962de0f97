"""Ranges of S3's files that are shorter than a refusal: read again where a refusal did not fit.

pyarrow reads a range of an object into a buffer of just that length. The text of a refusal (503 SlowDown, some 350
bytes) does not fit into a shorter one; the SDK takes that for a failure of its own and does not ask again, whatever its
retry strategy is. Small files are such ranges, and so are the ends of larger ones and columns with little in them.
"""

from __future__ import annotations

import atexit
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar, cast

import pyarrow as pa
import pyarrow.fs as pafs

_SMALL_BYTES = 2**20
_DID_NOT_FIT = "AWS Error INTERNAL_FAILURE"
_WAITS_S = tuple(0.05 * 2**n for n in range(11))
"""The same patience as the SDK's own, see ``storage._S3_RETRIES``."""
_LAST_S, _QUIET_S = 10.0, 1.0
"""At the end of a process: the most that it waits for what it still reads, and how long nothing must have been read."""
_T = TypeVar("_T")


def read_again(read: Callable[[], _T]) -> _T:
    """What ``read`` returns, which is called anew after a refusal that did not fit.

    Raises:
        OSError: the store has refused it for more than a minute, or for another reason.
    """
    for wait_s in _WAITS_S:
        try:
            return read()
        except OSError as exc:
            if _DID_NOT_FIT not in str(exc):
                raise
        time.sleep(wait_s)
    return read()


def patient_reader(filesystem: pafs.FileSystem) -> pafs.FileSystem:
    """A view of S3 whose files are read by :func:`read_again`; another filesystem as it is."""
    return pafs.PyFileSystem(_Patient(filesystem)) if isinstance(filesystem, pafs.S3FileSystem) else filesystem


class _Calls:
    """Of Arrow's threads into Python. If the interpreter ends before one returns, as after a scan that was given up,
    the process aborts or hangs: it ends when they have, and whoever would read on is refused."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._under_way, self._last, self._over = 0, -_QUIET_S, False
        atexit.register(self._end)

    def __enter__(self) -> None:
        self._count(1)
        if self._over and not _in_main_thread():
            self._count(-1)
            raise OSError("this process ends")

    def __exit__(self, *_: object) -> None:
        self._count(-1)

    def _count(self, change: int) -> None:
        if not _in_main_thread():
            with self._lock:
                self._under_way += change
                self._last = time.monotonic()

    def _end(self) -> None:
        self._over, until = True, time.monotonic() + _LAST_S
        while (now := time.monotonic()) < until and (self._under_way or now < self._last + _QUIET_S):
            time.sleep(_QUIET_S / 20)


def _in_main_thread() -> bool:
    return threading.get_ident() == threading.main_thread().ident


_CALLS = _Calls()


class _PatientFile:
    """What ``pa.PythonFile`` asks of a file, one range at a time."""

    def __init__(self, file: pa.NativeFile) -> None:
        self._file = file
        self.seek, self.tell, self.close = file.seek, file.tell, file.close

    def read(self, count: int) -> bytes:
        with _CALLS:
            return read_again(lambda: cast(bytes, self._file.read(count)))

    def read_buffer(self, count: int) -> pa.Buffer:
        with _CALLS:
            return read_again(lambda: self._file.read_buffer(count))

    @property
    def closed(self) -> bool:
        return bool(self._file.closed)


class _Patient(pafs.FileSystemHandler):  # type: ignore[misc]
    """Small files are read whole, larger ones by ranges."""

    def __init__(self, inner: pafs.S3FileSystem) -> None:
        self._inner = inner

    def open_input_file(self, path: str) -> pa.NativeFile:
        with _CALLS:
            file = self._inner.open_input_file(path)
            size = file.size()
            if size > _SMALL_BYTES:
                return pa.PythonFile(_PatientFile(file), mode="r")
            with file:
                return pa.BufferReader(read_again(lambda: file.read_at(size, 0)) if size else b"")

    def open_input_stream(self, path: str) -> pa.NativeFile:
        return self.open_input_file(path)

    def get_type_name(self) -> str:
        return str(self._inner.type_name)

    def normalize_path(self, path: str) -> str:
        return str(self._inner.normalize_path(path))

    def get_file_info(self, paths: list[str]) -> list[pafs.FileInfo]:
        with _CALLS:
            return list(self._inner.get_file_info(paths))

    def get_file_info_selector(self, selector: pafs.FileSelector) -> list[pafs.FileInfo]:
        with _CALLS:
            return list(self._inner.get_file_info(selector))

    def _unsupported(self, *_: Any) -> Any:
        raise NotImplementedError("this view only reads")

    create_dir = delete_dir = delete_dir_contents = delete_root_dir_contents = delete_file = move = _unsupported
    copy_file = open_output_stream = open_append_stream = _unsupported
