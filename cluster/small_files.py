"""Files of S3 that are shorter than a refusal: read whole, and again where a refusal did not fit.

pyarrow reads a range of an object into a buffer of just that length. The text of a refusal (503 SlowDown, some 350
bytes) does not fit into a shorter one; the SDK takes that for a failure of its own and does not ask again, whatever its
retry strategy is.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.fs as pafs

_SMALL_BYTES = 2**20
_DID_NOT_FIT = "AWS Error INTERNAL_FAILURE"
_WAITS_S = tuple(0.05 * 2**n for n in range(11))
"""The same patience as the SDK's own, see ``storage._S3_RETRIES``."""
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
    """A view of S3 that reads small files whole; another filesystem as it is."""
    return pafs.PyFileSystem(_SmallWhole(filesystem)) if isinstance(filesystem, pafs.S3FileSystem) else filesystem


class _SmallWhole(pafs.FileSystemHandler):  # type: ignore[misc]
    """Larger ones are read by ranges, as by S3 itself."""

    def __init__(self, inner: pafs.S3FileSystem) -> None:
        self._inner = inner

    def open_input_file(self, path: str) -> pa.NativeFile:
        file = self._inner.open_input_file(path)
        size = file.size()
        if size > _SMALL_BYTES:
            return file
        with file:
            return pa.BufferReader(read_again(lambda: file.read_at(size, 0)) if size else b"")

    def open_input_stream(self, path: str) -> pa.NativeFile:
        return self.open_input_file(path)

    def get_type_name(self) -> str:
        return str(self._inner.type_name)

    def normalize_path(self, path: str) -> str:
        return str(self._inner.normalize_path(path))

    def get_file_info(self, paths: list[str]) -> list[pafs.FileInfo]:
        return list(self._inner.get_file_info(paths))

    def get_file_info_selector(self, selector: pafs.FileSelector) -> list[pafs.FileInfo]:
        return list(self._inner.get_file_info(selector))

    def _unsupported(self, *_: Any) -> Any:
        raise NotImplementedError("this view only reads")

    create_dir = delete_dir = delete_dir_contents = delete_root_dir_contents = delete_file = move = _unsupported
    copy_file = open_output_stream = open_append_stream = _unsupported
