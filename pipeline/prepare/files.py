"""Which raw files a source consists of, where they are, and whether they can be read at all. Polars-free."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from configs.errors import DataError
from pipeline.prepare.config import (
    AmazonM2Source,
    AmazonReviewsSource,
    KionSource,
    MovieLensSource,
    SequencesSource,
    SourceConfig,
    TableSource,
)

ORIGINS: Final[Mapping[str, str]] = {
    "sequences": "Amazon Beauty 5-core comes from McAuley's Amazon product data, https://jmcauley.ucsd.edu/data/amazon",
    "movielens": "MovieLens comes from GroupLens, https://grouplens.org/datasets/movielens",
    "amazon_reviews": "Amazon reviews and metadata come from McAuley's data, https://jmcauley.ucsd.edu/data/amazon",
    "kion": "Kion is published by MTS, https://github.com/irsafilo/KION_DATASET",
    "amazon_m2": "Amazon-M2 comes from KDD Cup 2023, https://kddcup23.github.io",
    "table": "the path is read as the config gives it",
}
INTERACTIONS: Final = "interactions"
ITEMS: Final = "items"
USERS: Final = "users"
TAGS: Final = "tags"

Files = dict[str, tuple[Path, ...]]
"""Role → the files of that role."""

_VARIABLE = re.compile(r"\$(\w+|\{\w+\})")
_PARQUET = (".parquet", ".pq")
_HEAD_BYTES = 4096


def source_files(source: SourceConfig) -> Files:
    """Role (``interactions``, ``items``, ``users``, ``tags``) → the files, all of which exist.

    Raises:
        DataError: a file is missing, empty or of no readable form, an environment variable is not set.
    """
    if isinstance(source, MovieLensSource):
        names = {INTERACTIONS: "ratings.csv", ITEMS: "movies.csv"} | ({TAGS: "tags.csv"} if source.tags else {})
        return _in_folder(source.folder, names, source.kind)
    if isinstance(source, KionSource):
        names = {INTERACTIONS: "interactions.csv", ITEMS: "items.csv"}
        return _in_folder(source.folder, names | ({USERS: "users.csv"} if source.user_attributes else {}), source.kind)
    if isinstance(source, AmazonM2Source):
        return _in_folder(source.folder, {INTERACTIONS: "sessions_train.csv", ITEMS: "products_train.csv"}, source.kind)
    if isinstance(source, (SequencesSource, AmazonReviewsSource)):
        paths = {INTERACTIONS: source.interactions, ITEMS: source.items}
        return {role: (_file(path, source.kind),) for role, path in paths.items() if path is not None}
    if isinstance(source, TableSource):
        files = {INTERACTIONS: _files(source.interactions)}
        for role, path in ((ITEMS, source.items), (USERS, source.users)):
            if path is not None:
                files[role] = _files(path)
        return files
    return {}


def expand(path: str, kind: str) -> str:
    """``~`` and environment variables filled in, now.

    Raises:
        DataError: a variable is not set.
    """
    expanded = os.path.expanduser(os.path.expandvars(path))
    unset = _VARIABLE.search(expanded)
    if unset:
        name = unset.group(1).strip("{}")
        what = "the folder that holds the data sets" if name == "MENTOREC_DATA" else "the place of the data"
        raise DataError(f"prepare.source: {path!r} needs the environment variable {name}, which is not set; "
                        f"let it name {what}; {ORIGINS[kind]}")
    return expanded


def is_parquet(path: Path) -> bool:
    """By its name."""
    return path.name.lower().endswith(_PARQUET)


def is_jsonl(path: Path) -> bool:
    """By its name; one JSON object per line."""
    return path.name.lower().endswith((".jsonl", ".ndjson", ".json"))


def check_readable(path: Path, encoding: str) -> None:
    """Find the faults that a look at the first and last bytes shows.

    Raises:
        DataError: zero bytes, a Parquet file that is cut off, UTF-16 read as something else.
    """
    size = path.stat().st_size
    if size == 0:
        raise DataError(f"{path}: the file has zero bytes; fetch it again")
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
        file.seek(max(0, size - 4))
        tail = file.read(4)
    if is_parquet(path):
        if head[:4] != b"PAR1" or tail != b"PAR1" or size < 12:
            raise DataError(f"{path}: not a whole Parquet file (its {'end' if head[:4] == b'PAR1' else 'start'} is not "
                            f"the mark PAR1, {size:,} bytes); it was cut off or is of another form: fetch it again")
        return
    looks_wide = head[:2] in (b"\xff\xfe", b"\xfe\xff") or (b"\0" in head and not head.startswith(b"\x1f\x8b"))
    if looks_wide and not encoding.lower().replace("_", "-").startswith(("utf-16", "utf-32")):
        raise DataError(f"{path}: looks like UTF-16 (first bytes {head[:4].hex(' ')}), read as {encoding}; "
                        "set prepare.source.encoding=utf-16, or save the file as UTF-8")


def undecodable(path: Path, shown: Path | None = None) -> str | None:
    """Where a file (called ``shown``) stops being UTF-8, in words; None when all of it is."""
    from codecs import getincrementaldecoder

    decoder, offset = getincrementaldecoder("utf-8")(), 0
    with path.open("rb") as file:
        while True:
            chunk = file.read(1 << 22)
            pending = len(decoder.getstate()[0])
            try:
                decoder.decode(chunk, final=not chunk)
            except UnicodeDecodeError as exc:
                bad = exc.object[exc.start]
                return (f"{shown or path}: byte {offset - pending + exc.start:,} (0x{bad:02x}) is not UTF-8; set "
                        "prepare.source.encoding (for example latin-1), or save the file as UTF-8")
            if not chunk:
                return None
            offset += len(chunk)


def _in_folder(folder: str, names: Mapping[str, str], kind: str) -> Files:
    return {role: (_file(f"{folder}/{name}", kind),) for role, name in names.items()}


def _file(path: str, kind: str) -> Path:
    file = Path(expand(path, kind))
    if not file.is_file():
        raise DataError(f"prepare.source: no file {file} (from {path!r}); MENTOREC_DATA should name the folder that "
                        f"holds the data sets, it is {os.environ.get('MENTOREC_DATA', 'not set')!r}; {ORIGINS[kind]}")
    return file


def _files(pattern: str) -> tuple[Path, ...]:
    expanded = expand(pattern, "table")
    if not glob.has_magic(expanded):
        return (_file(pattern, "table"),)
    found = tuple(Path(name) for name in sorted(glob.glob(expanded, recursive=True)) if os.path.isfile(name))
    if not found:
        raise DataError(f"prepare.source: no file matches {expanded!r}; give a path or a glob of existing files")
    return found
