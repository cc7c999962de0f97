"""One user, one item or one artifact of a run, as lines of text. Reads only what it prints."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from cluster.storage import Storage
from configs.errors import ArtifactError, ConfigError, DataError, illegal
from pipeline.config import RunConfig
from pipeline.evaluate.definition import RANKS, TOP, TOP_LISTS
from pipeline.plan import plan
from pipeline.store import columns as c
from pipeline.store.arrow import numbers
from pipeline.store.artifacts import Artifact, open_artifact
from pipeline.work.text import shorten

_SHOWN_ITEMS = 20
_TITLE_WIDTH = 70
_INDEX_DIGITS = 9
"""Of internal indices; what is longer is no index, and too large a number for Parquet."""


@dataclass(frozen=True)
class RunArtifacts:
    """The finished artifacts of a run, by step label."""

    artifacts: dict[str, Artifact]

    def named(self, items: Iterable[int]) -> dict[int, str]:
        """Item index → index and title (or raw id) of a few items."""
        wanted = sorted(set(items))
        if not wanted:
            return {}
        rows = _rows(self.artifacts["prepare"], "items.parquet", (c.ITEM_IDX, "in", wanted),
                     [c.ITEM_IDX, c.ITEM_ID, c.TITLE])
        titles = {row[c.ITEM_IDX]: row[c.TITLE] or row[c.ITEM_ID] for row in rows}
        return {item: f"{item} {shorten(titles.get(item, '?'), _TITLE_WIDTH)}" for item in wanted}


def show(config: RunConfig, kind: str, what: str, by_index: bool = False) -> Iterator[str]:
    """The lines of one thing.

    Raises:
        ConfigError: ``kind`` is none of `user`, `profile`, `item`, `artifact`; and as the functions below.
    """
    if kind == "user":
        return show_user(config, what, by_index)
    if kind == "profile":
        return show_profile(config, what, by_index)
    if kind == "item":
        return show_item(config, what, by_index)
    if kind == "artifact":
        return show_artifact(config, what)
    raise ConfigError(illegal("show", kind, ("user", "profile", "item", "artifact")))


def _open(config: RunConfig) -> RunArtifacts:
    steps = plan(config, Storage.from_config(config.storage))
    found = {step.label: step.artifact for step in steps if step.artifact is not None}
    if "prepare" not in found:
        raise ArtifactError(f"run {config.name!r}: nothing is prepared under these settings; "
                            "run `mentorec prepare` with the same --config first")
    return RunArtifacts(found)


def show_user(config: RunConfig, user: str, by_index: bool = False) -> Iterator[str]:
    """A user's attributes, history, profiles, and what each trained recommender offers.

    Raises:
        DataError: no such user.
        ArtifactError: nothing is prepared yet.
    """
    found = _open(config)
    prepared = found.artifacts["prepare"]
    row = _lookup(prepared, "users.parquet", c.USER_ID, c.USER_IDX, user, by_index)
    index = row[c.USER_IDX]
    yield f"user {row[c.USER_ID]} (index {index}), {row[c.COUNT]} training interactions"
    yield from _pairs(row[c.ATTRIBUTES] or ())
    yield from _history(found, _rows(prepared, "interactions.parquet", (c.USER_IDX, "=", index)))
    if "profile" in found.artifacts:
        yield from _profiles(found.artifacts["profile"], index)
    for label, artifact in found.artifacts.items():
        if label.startswith("evaluate/"):
            yield from _recommended(found, label.removeprefix("evaluate/"), artifact, index)


def show_profile(config: RunConfig, user: str, by_index: bool = False) -> Iterator[str]:
    """A user's profile per angle with its length, or why there is none, and the training items it was written from.

    Raises:
        DataError: no such user.
        ArtifactError: nothing is prepared, or no profile is written yet.
    """
    found = _open(config)
    if "profile" not in found.artifacts:
        raise ArtifactError(f"run {config.name!r}: no profiles are written under these settings; "
                            "run `mentorec profile` with the same --config first")
    row = _lookup(found.artifacts["prepare"], "users.parquet", c.USER_ID, c.USER_IDX, user, by_index)
    index = row[c.USER_IDX]
    yield f"user {row[c.USER_ID]} (index {index}), written from {row[c.COUNT]} training interactions"
    yield from _pairs(row[c.ATTRIBUTES] or ())
    events = _rows(found.artifacts["prepare"], "interactions.parquet", (c.USER_IDX, "=", index))
    yield from _history(found, [event for event in events if event[c.SPLIT] == c.TRAIN])
    told = list(_profiles(found.artifacts["profile"], index))
    yield from told or [f"no profile: the user has no training history ({config.prepare.split.kind} split)"]


def show_item(config: RunConfig, item: str, by_index: bool = False) -> Iterator[str]:
    """An item's text, its counts, and in how many users' recommendations it stands.

    Raises:
        DataError: no such item.
        ArtifactError: nothing is prepared yet.
    """
    found = _open(config)
    row = _lookup(found.artifacts["prepare"], "items.parquet", c.ITEM_ID, c.ITEM_IDX, item, by_index)
    cold = " (cold: training never sees it)" if row[c.COUNT] == 0 else ""
    yield f"item {row[c.ITEM_ID]} (index {row[c.ITEM_IDX]}), {row[c.COUNT]} training interactions{cold}"
    yield from _pairs({c.TITLE: row[c.TITLE], c.CATEGORY: row[c.CATEGORY], **dict(row[c.FIELDS] or ())}.items())
    for label, artifact in found.artifacts.items():
        if label.startswith("evaluate/"):
            users = listed = 0
            for batch in artifact.read_batches(TOP_LISTS, [TOP]):
                users += len(batch)
                listed += int((numbers(batch[TOP].flatten()) == row[c.ITEM_IDX]).sum())
            yield f"  {label.removeprefix('evaluate/')}: in the list of {listed} of {users} users"


def show_artifact(config: RunConfig, address: str) -> Iterator[str]:
    """An artifact's manifest by ``stage/fingerprint``; the fingerprint's first digits are enough.

    Raises:
        ConfigError: not of that form, unknown, or several artifacts begin so.
    """
    storage = Storage.from_config(config.storage)
    stage, _, start = address.strip("/").partition("/")
    stages = storage.names("artifacts")
    if not start or stage not in stages:
        raise ConfigError(f"artifact {address!r}: expected STAGE/FINGERPRINT; stages in {storage.path('artifacts')}: "
                          f"{', '.join(stages) or 'none'}")
    fits = [name for name in storage.names(f"artifacts/{stage}") if name.startswith(start)]
    if len(fits) != 1:
        shown = ", ".join(fits or storage.names(f"artifacts/{stage}"))
        raise ConfigError(f"artifact {address!r}: {len(fits)} artifacts begin so; there are: {shown}")
    artifact = open_artifact(storage, stage, fits[0])
    if artifact is None:
        yield f"{stage}/{fits[0]}: unfinished; the run that began it goes on with the same command"
        key = storage.read_json(f"artifacts/{stage}/{fits[0]}/key.json")
        yield yaml.safe_dump({"key": key}, sort_keys=False, allow_unicode=True)
        return
    yield f"{stage}/{fits[0]}: {storage.path(artifact.folder)}"
    yield yaml.safe_dump(artifact.manifest.__dict__, sort_keys=False, allow_unicode=True)


def _lookup(prepared: Artifact, file: str, id_column: str, index_column: str, wanted: str,
            by_index: bool) -> dict[str, Any]:
    """The row of a raw id, or of an internal index."""
    is_index = wanted.isdecimal() and len(wanted) <= _INDEX_DIGITS
    if not by_index:
        rows = _rows(prepared, file, (id_column, "=", wanted))
    else:
        rows = _rows(prepared, file, (index_column, "=", int(wanted))) if is_index else []
    if rows:
        return rows[0]
    what = index_column.partition("_")[0]
    kept = prepared.manifest.counts[f"{what}s"]
    first = next(prepared.read_batches(file, [id_column]))[id_column].to_pylist()[:3]
    raise DataError(f"no {what} {wanted!r} among the {kept} kept ones; raw ids look like "
                    f"{', '.join(map(repr, first))}; with --index, 0…{kept - 1} are legal")


def _rows(artifact: Artifact, name: str, where: tuple[str, str, object], columns: list[str] | None = None
          ) -> list[dict[str, Any]]:
    return list(artifact.read_rows(name, where, columns).to_pylist())


def _history(found: RunArtifacts, history: list[dict[str, Any]]) -> Iterator[str]:
    """The latest interactions with their split and signal."""
    history = sorted(history, key=lambda event: event[c.POSITION])
    if len(history) > _SHOWN_ITEMS:
        yield f"  … {len(history) - _SHOWN_ITEMS} earlier interactions"
    history = history[-_SHOWN_ITEMS:]
    named = found.named(event[c.ITEM_IDX] for event in history)
    for event in history:
        signal = "" if event[c.SIGNAL] is None else f"  signal {event[c.SIGNAL]:g}"
        yield f"  {event[c.SPLIT]:<10} {named[event[c.ITEM_IDX]]}{signal}"


def _profiles(profiles: Artifact, user: int) -> Iterator[str]:
    for row in _rows(profiles, "profiles", (c.USER_IDX, "=", user)):
        yield f"profile ({row[c.ANGLE]}, {len(row[c.PROFILE].split())} words, {len(row[c.PROFILE])} characters):"
        yield from (f"  {line}" for line in row[c.PROFILE].splitlines())
    for row in _rows(profiles, "rejected.parquet", (c.USER_IDX, "=", user)):
        yield f"no profile ({row[c.ANGLE]}): {row[c.REASON]}"


def _recommended(found: RunArtifacts, who: str, evaluated: Artifact, user: int) -> Iterator[str]:
    for row in _rows(evaluated, RANKS, (c.USER_IDX, "=", user)):
        yield f"{who}: target {found.named([row[c.TARGET]])[row[c.TARGET]]} at rank {row[c.RANK]}"
    for row in _rows(evaluated, TOP_LISTS, (c.USER_IDX, "=", user)):
        best: Sequence[int] = row[TOP][:5]
        named = found.named(best)
        yield from (f"  {place}. {named[item]}" for place, item in enumerate(best, 1))


def _pairs(pairs: Iterable[tuple[str, object]]) -> Iterator[str]:
    for name, value in pairs:
        yield f"  {name}: {shorten(str(value), 200)}"
