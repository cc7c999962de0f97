"""Which raw files a source consists of, where they are, and whether they can be read at all. Polars-free."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
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
"""Role → the files of that role, by absolute paths: Ray's workers have another working folder."""

MOVIELENS_LAYOUTS: Final[tuple[Mapping[str, str], ...]] = (
    {INTERACTIONS: "ratings.csv", ITEMS: "movies.csv", TAGS: "tags.csv"},
    {INTERACTIONS: "ratings.dat", ITEMS: "movies.dat", TAGS: "tags.dat", USERS: "users.dat"},
    {INTERACTIONS: "u.data", ITEMS: "u.item", USERS: "u.user"},
)
"""Role → file, of the data sets since 2011, of ML-1M and ML-10M, of ML-100K."""

_URI = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]+)://")
_VARIABLE = re.compile(r"\$(\w+|\{\w+\})")


def source_files(source: SourceConfig) -> Files:
    """Role (``interactions``, ``items``, ``users``, ``tags``) → the files, all of which exist.

    Raises:
        DataError: a file is missing, empty or of no readable form, an environment variable is not set.
    """
    if isinstance(source, MovieLensSource):
        return _movielens(source)
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
        DataError: a variable is not set, or the path is a URI of a store.
    """
    expanded = os.path.expanduser(os.path.expandvars(path)).removeprefix("file://")
    unset = _VARIABLE.search(expanded)
    if unset:
        name = unset.group(1).strip("{}")
        what = "the folder that holds the data sets" if name == "MENTOREC_DATA" else "the place of the data"
        raise DataError(f"prepare.source: {path!r} needs the environment variable {name}, which is not set; "
                        f"let it name {what}; {ORIGINS[kind]}")
    if uri := _URI.match(expanded):
        raise DataError(f"prepare.source: got {path!r}; legal: local paths only; copy the files from {uri[1]}:// to a "
                        "disk of this machine or mount them there, and name that path")
    return expanded


def _movielens(source: MovieLensSource) -> Files:
    folder = Path(expand(source.folder, source.kind))
    layout = next((names for names in MOVIELENS_LAYOUTS if (folder / names[INTERACTIONS]).is_file()),
                  MOVIELENS_LAYOUTS[0])
    wanted = [INTERACTIONS, ITEMS] + [TAGS] * source.tags + [USERS] * source.user_attributes
    lacking = [role for role in wanted if role not in layout]
    if lacking:
        setting = {TAGS: "tags", USERS: "user_attributes"}[lacking[0]]
        raise DataError(f"prepare.source.{setting}: the folder of a {layout[INTERACTIONS]} holds no {lacking[0]}"
                        f"; set prepare.source.{setting}=false")
    return _in_folder(source.folder, {role: layout[role] for role in wanted}, source.kind)


def _in_folder(folder: str, names: Mapping[str, str], kind: str) -> Files:
    return {role: (_file(f"{folder}/{name}", kind),) for role, name in names.items()}


def _file(path: str, kind: str) -> Path:
    file = Path(expand(path, kind))
    if file.is_dir():
        raise DataError(f"prepare.source: {file} is a folder; name the file inside it, or read a folder of parts with "
                        "source.kind=table")
    if not file.is_file():
        raise DataError(f"prepare.source: no file {file} (from {path!r}); MENTOREC_DATA should name the folder that "
                        f"holds the data sets, it is {os.environ.get('MENTOREC_DATA', 'not set')!r}; {ORIGINS[kind]}")
    return file.absolute()


def _files(pattern: str) -> tuple[Path, ...]:
    """The file of a path, the files of a folder, or those that match a glob; links are followed, no folder twice."""
    expanded = expand(pattern, "table")
    if os.path.isdir(expanded):
        found = _below(expanded)
        if not found:
            raise DataError(f"prepare.source: the folder {expanded!r} holds no files (those that begin with '_' or '.' "
                            "are passed over); name a folder of parts, or a file")
        return found
    if os.path.lexists(expanded) or not glob.has_magic(expanded):
        return (_file(pattern, "table"),)
    found = _matching(expanded)
    if not found:
        raise DataError(f"prepare.source: no file matches {expanded!r} (those that begin with '_' or '.', or lie in "
                        "such a folder, are passed over); give a path, a folder or a glob of existing files")
    return found


def _below(root: str) -> tuple[Path, ...]:
    """The visible files of a folder, in the order of a sorted walk."""
    found: list[Path] = []
    entered = set[str]()
    for folder, folders, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in entered:
            folders.clear()
            continue
        entered.add(real)
        folders[:] = sorted(filter(_is_visible, folders))
        found += (Path(folder).absolute() / name for name in sorted(filter(_is_visible, names)))
    return tuple(found)


def _matching(pattern: str) -> tuple[Path, ...]:
    """The visible files that match, sorted; of one that links lead to in several ways the shortest."""
    names = (name for name in glob.glob(pattern, recursive=True)
             if os.path.isfile(name) and _is_asked_for(Path(name), Path(pattern)))
    ways: dict[tuple[str, str], str] = {}
    for name in sorted(names, key=lambda name: (name.count(os.sep), name)):
        folder, last = os.path.split(name)
        ways.setdefault((os.path.realpath(folder), last), name)
    return tuple(Path(name).absolute() for name in sorted(ways.values()))


def _is_visible(name: str) -> bool:
    """Not a mark such as `_SUCCESS`, nor a hidden checksum."""
    return not name.startswith(("_", "."))


def _is_asked_for(path: Path, pattern: Path) -> bool:
    """Whether what a glob found is visible from its first wildcard on, but for what it calls hidden itself."""
    fixed = next(place for place, part in enumerate(pattern.parts) if glob.has_magic(part))
    folders = all(_is_visible(part) or _matches_any(part, pattern.parts[fixed:-1]) for part in path.parts[fixed:-1])
    return folders and (_is_visible(path.name) or not _is_visible(pattern.name))


def _matches_any(hidden: str, patterns: Sequence[str]) -> bool:
    return any(not _is_visible(pattern) and fnmatchcase(hidden, pattern) for pattern in patterns)
