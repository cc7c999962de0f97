"""A storage root behind one small interface: local folders and object stores by the same code (pyarrow)."""

from __future__ import annotations

import copyreg
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, cast

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from cluster.config import StorageConfig
from cluster.faults import CREDENTIALS, explained, unread
from cluster.node_copies import NodeCopies
from cluster.small_files import patient_reader
from cluster.uploads import upload_folder
from configs.errors import StorageError

_S3_RETRIES = 12
"""Of each request to S3: of a store that fails every fifth the usual two end a run. The first at once, then after 0.05
seconds and so on, each wait twice the one before: a request refused now and then costs next to nothing (half a second
and more by the usual way, minutes in a run), and one that is refused for 102 seconds is still asked again."""
_S3_SILENCE_S = 60.0
"""After which an answer is given up and asked for again; the usual 3 seconds are short where machines are busy."""


@dataclass(frozen=True)
class Storage:
    """A filesystem and a base path; relative POSIX paths below it name everything. Picklable: actors hold it."""

    filesystem: pafs.FileSystem
    base: str
    lease_timeout_s: float = 300.0
    """See ``StorageConfig``."""
    copies: NodeCopies = NodeCopies("", 2**40)
    """Of this store's files on a node, where it is no local folder."""

    @classmethod
    def from_config(cls, config: StorageConfig) -> Storage:
        """Open the root named by ``config.uri``.

        Raises:
            ConfigError: an environment variable in the URI is not set.
            StorageError: a URI scheme that pyarrow does not know, or an endpoint given for a local folder.
        """
        location = config.location()
        copies = NodeCopies(f"{config.endpoint} {config.region}",
                            int(config.node_copies_gb * 2**30))
        if config.endpoint is not None or config.region is not None:
            if not location.startswith("s3://"):
                raise StorageError(f"storage.uri: got {config.uri!r}; endpoint and region go with an s3:// URI only")
            filesystem = pafs.S3FileSystem(endpoint_override=config.endpoint, region=config.region,
                                           allow_delayed_open=True)  # one request per small file, not three
            return cls(_patient(filesystem), location.removeprefix("s3://").rstrip("/"), config.lease_timeout_s, copies)
        if "://" in location:
            uri = location
            if uri.startswith("s3://"):
                uri += f"{'&' if '?' in uri else '?'}allow_delayed_open=true"
            try:
                filesystem, base = pafs.FileSystem.from_uri(uri)
            except (pa.ArrowInvalid, OSError) as exc:
                raise StorageError(f"storage.uri: got {config.uri!r}; legal: a local folder, s3://, gs://, hdfs://, "
                                   f"file://; {exc}") from exc
            return cls(_patient(filesystem), base.rstrip("/"), config.lease_timeout_s, copies)
        return cls(pafs.LocalFileSystem(), os.path.abspath(location), config.lease_timeout_s, copies)

    @property
    def is_local(self) -> bool:
        """Whether paths of this storage are paths of this machine."""
        return isinstance(self.filesystem, pafs.LocalFileSystem)

    @property
    def reader(self) -> pafs.FileSystem:
        """The filesystem for whoever only reads: one of S3 that does not stumble over small files."""
        return patient_reader(self.filesystem)

    def path(self, relative: str) -> str:
        """The filesystem's own path of a relative one.

        Raises:
            StorageError: the path would leave the storage root.
        """
        parts = PurePosixPath(relative).parts
        if relative.startswith("/") or ".." in parts or "\0" in relative:
            raise StorageError(f"path {relative!r} would leave the storage root; use a relative path without '..'")
        return f"{self.base}/{relative}" if relative else self.base

    def exists(self, relative: str) -> bool:
        """Whether a file or folder is there."""
        return bool(self._info(self.path(relative)).type != pafs.FileType.NotFound)

    def names(self, relative: str) -> list[str]:
        """Sorted names of the direct children of a folder; empty when it is absent."""
        infos = self._info(pafs.FileSelector(self.path(relative), allow_not_found=True))
        return sorted(info.base_name for info in infos)

    def files(self, relative: str) -> list[str]:
        """Sorted relative paths of all files below a folder."""
        return list(self.file_sizes(relative))

    def file_sizes(self, relative: str) -> dict[str, int]:
        """Relative path → bytes of all files below a folder, sorted; empty when it is absent."""
        selector = pafs.FileSelector(self.path(relative), allow_not_found=True, recursive=True)
        sizes = {i.path.removeprefix(self.base + "/"): i.size for i in self._info(selector)
                 if i.type == pafs.FileType.File}
        return dict(sorted(sizes.items()))

    def size(self, relative: str) -> int:
        """Bytes in all files below a folder; 0 where there is none."""
        return sum(self.file_sizes(relative).values())

    def make_dir(self, relative: str) -> None:
        """Create a folder and its parents."""
        with self.writing(relative) as path:
            self.filesystem.create_dir(path, recursive=True)

    def delete(self, relative: str) -> None:
        """Remove a file or a folder with all below it; absent is fine."""
        with self.writing(relative) as path:
            info = self._info(path)
            if info.type == pafs.FileType.Directory:
                self.filesystem.delete_dir(path)
            elif info.type != pafs.FileType.NotFound:
                self.filesystem.delete_file(path)

    def read_bytes(self, relative: str) -> bytes:
        """A whole file."""
        with self.reading(relative) as path, self.reader.open_input_stream(path) as stream:
            return cast(bytes, stream.read())

    def write_bytes(self, relative: str, data: bytes) -> None:
        """A whole file, visible only when complete (written beside, then moved)."""
        with self.writing(relative) as path:
            self._make_folder(path.rsplit("/", 1)[0])
            if not self.is_local:  # an object appears only once its upload has finished
                with self.filesystem.open_output_stream(path) as stream:
                    stream.write(data)
                return
            partial = f"{path}.{os.getpid()}.partial"
            try:
                with open(partial, "wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(partial, path)
            except OSError:
                Path(partial).unlink(missing_ok=True)
                raise

    def read_json(self, relative: str) -> Any:
        """A JSON file."""
        return json.loads(self.read_bytes(relative))

    def write_json(self, relative: str, value: Any) -> None:
        """A JSON file, whole or not at all."""
        self.write_bytes(relative, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())

    def read_table(self, relative: str, columns: list[str] | None = None) -> pa.Table:
        """A Parquet file or a folder of Parquet files as one table."""
        with self.reading(relative) as path:
            if self._info(path).type != pafs.FileType.File:
                return pq.read_table(path, columns=columns, filesystem=self.reader)
            # Without pyarrow.dataset, which imports pandas where that is installed: sixty megabytes in every worker.
            with self.reader.open_input_file(path) as source:
                table = pq.ParquetFile(source).read(columns)
        if lacking := set(columns or ()) - set(table.column_names):
            raise pa.ArrowInvalid(f"{path} lacks the columns {', '.join(sorted(lacking))}")
        return table

    def read_batches(self, relative: str, columns: list[str], rows: int = 2**16) -> Iterator[pa.RecordBatch]:
        """The rows of one Parquet file, so many at a time; a row group is in memory at once."""
        with self.reading(relative) as path, self.reader.open_input_file(path) as source:
            yield from pq.ParquetFile(source, pre_buffer=False).iter_batches(rows, columns=columns)

    def read_folder(self, relative: str, columns: list[str], rows: int = 2**16) -> Iterator[pa.RecordBatch]:
        """:meth:`read_batches` of a folder's files in their order, one after the other: a dataset's threads read ahead,
        and of an object store through Python, also when this process ends before it has all."""
        for file in self.files(relative):
            yield from self.read_batches(file, columns, rows)

    def read_rows(self, relative: str, where: tuple[str, str, object], columns: list[str] | None = None) -> pa.Table:
        """Rows of a Parquet file or folder by a condition, such as ``(column, "in", values)``; other row groups are not
        read."""
        with self.reading(relative) as path:
            return pq.read_table(path, filesystem=self.reader, columns=columns, filters=[where])

    def write_table(self, relative: str, table: pa.Table, **options: Any) -> None:
        """A Parquet file."""
        with self.writing(relative) as path:
            self._make_folder(path.rsplit("/", 1)[0])
            pq.write_table(table, path, filesystem=self.filesystem, **options)

    @contextmanager
    def table_writer(self, relative: str, schema: pa.Schema) -> Iterator[Callable[[pa.Table], None]]:
        """Writes the tables that it is given, one row group each, into one Parquet file. After an error it holds those
        that came before."""
        with self.writing(relative) as path:
            self._make_folder(path.rsplit("/", 1)[0])
            writer = pq.ParquetWriter(path, schema, filesystem=self.filesystem)

        def write(table: pa.Table) -> None:
            with self.writing(relative):
                writer.write_table(table)

        try:
            yield write
        finally:
            with self.writing(relative):
                writer.close()

    def local(self, relative: str) -> Path:
        """A path on this machine holding the file or folder, as it is now; an object store's is copied once per node.

        Raises:
            FileNotFoundError: an object store has no such file.
            StorageError: the copy cannot be written, or the store does not give the file.
        """
        with self.reading(relative) as source:
            return Path(source) if self.is_local else self.copies.get(self.filesystem, source)

    @contextmanager
    def upload_folder(self, relative: str, last: str | None = None) -> Iterator[Path]:
        """A local folder whose files are below ``relative`` afterwards (the folder itself when storage is local).

        Args:
            last: name of a file that readers look for: an object store has it when it has the others.
        """
        if self.is_local:
            target = Path(self.path(relative))
            target.mkdir(parents=True, exist_ok=True)
            yield target
            return
        with upload_folder() as folder:
            yield folder
            ending = None
            if last is not None:
                ending = (folder / last).read_bytes()
                (folder / last).unlink()
            with self.writing(relative) as path:
                self._make_folder(path)
                pafs.copy_files(str(folder), path, destination_filesystem=self.filesystem)
            if ending is not None:
                self.write_bytes(f"{relative}/{last}".lstrip("/"), ending)

    def _make_folder(self, path: str) -> None:
        """For files to be. S3 needs none, and would be asked once for each level of its path."""
        if not isinstance(self.filesystem, pafs.S3FileSystem):
            self.filesystem.create_dir(path, recursive=True)

    def _info(self, where: str | pafs.FileSelector) -> Any:
        try:
            return self.filesystem.get_file_info(where)
        except OSError as exc:
            raise StorageError(f"{self.base} cannot be reached: {exc}; {CREDENTIALS}") from exc

    @contextmanager
    def reading(self, relative: str) -> Iterator[str]:
        """The filesystem's path of what is being read.

        Raises:
            FileNotFoundError: it is not there.
            StorageError: no permission, a token that has expired, a silent endpoint, …
        """
        path = self.path(relative)
        try:
            yield path
        except FileNotFoundError:
            raise
        except OSError as exc:
            raise StorageError(unread(exc, path)) from exc

    @contextmanager
    def writing(self, relative: str) -> Iterator[str]:
        """The filesystem's path of what is being written.

        Raises:
            StorageError: the disk is full, the root is read-only, the bucket is missing, the endpoint is silent, …
        """
        path = self.path(relative)
        try:
            yield path
        except OSError as exc:
            raise StorageError(explained(exc, path)) from exc


def _patient(filesystem: pafs.FileSystem) -> pafs.FileSystem:
    """The same with ``_S3_RETRIES``, which a URI cannot hold, and ``_S3_SILENCE_S`` where it tells nothing else."""
    return _of_options(_options(filesystem)) if isinstance(filesystem, pafs.S3FileSystem) else filesystem


def _options(filesystem: pafs.S3FileSystem) -> dict[str, Any]:
    options: dict[str, Any] = filesystem.__reduce__()[1][0]
    return options | ({"request_timeout": _S3_SILENCE_S} if options["request_timeout"] < 0 else {})


def _of_options(options: dict[str, Any]) -> pafs.S3FileSystem:
    return pafs.S3FileSystem(**options, retry_strategy=pafs.AwsDefaultS3RetryStrategy(max_attempts=_S3_RETRIES))


# Its own pickle forgets how often, and Ray's workers get the filesystem so, with the storage and without.
copyreg.pickle(pafs.S3FileSystem, lambda filesystem: (_of_options, (_options(filesystem),)))
