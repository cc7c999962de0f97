"""`recommend`: which model, whose lists, into which file."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from cluster.connect import connect
from cluster.faults import storage_errors
from cluster.nodes import OneView
from cluster.storage import Storage
from configs.errors import ConfigError
from pipeline.api.filters import Filter
from pipeline.api.items import Items
from pipeline.api.loading import of_folder, prepared_of
from pipeline.api.recommendations import remarks
from pipeline.config import RunConfig
from pipeline.plan import plan
from pipeline.recommend.config import RecommendConfig
from pipeline.recommend.keys import digest_texts, key
from pipeline.recommend.output import check_output, write_output
from pipeline.recommend.sequences import NamedHistories, read_ids, read_sequences, run_histories
from pipeline.recommend.stage import Model
from pipeline.recommend.stage import recommend as answer
from pipeline.store.artifacts import Artifact, ArtifactDir, StageKey
from pipeline.store.digests import digest_file
from pipeline.train.keys import MODEL_FILES
from pipeline.trained import choose
from pipeline.work.building import find_or_build
from pipeline.work.progress import say


def recommend(config: RunConfig, output: str, model: Path | None = None, sequences: Path | None = None,
              users: str | None = None, user: Sequence[str] = ()) -> Iterator[str]:
    """Write the lists; yields the output's path.

    Args:
        model: an exported folder; None: the run's own recommender.
        sequences: file of new sequences; None: the run's users.
        users: file of user ids, one per line.
        user: user ids.

    Raises:
        ConfigError: options at odds, or an output of unknown form.
        DataError: a file, a user or the filter; see :mod:`pipeline.recommend.sequences`.
        ArtifactError: nothing is trained under these settings.
    """
    settings = config.recommend
    _check_options(settings, model, sequences, users, user)
    out, name = check_output(output, config.storage)
    storage = Storage.from_config(config.storage)
    with storage_errors(storage.base):
        chosen, digests = _filter(settings)
        if model is not None:
            served = of_folder(model)
            items, loaded = served.items, Model(model.absolute())
            identity = {"model": digest_texts(digest_file(model / file) for file in MODEL_FILES)}
            prepared = None
        else:
            trained = _trained(config, storage)
            prepared = prepared_of(trained)
            loaded, identity = Model(trained), {"train": trained.fingerprint}
            items = Items.of_prepared(prepared)
        asked, source = _asked(settings, items, prepared, sequences, users, user)
        _, strange = (items.among(chosen) if not chosen.whole_catalogue else (None, 0))
        lists = _find_or_build(config, storage, key(settings, identity, digests | source), loaded, asked, chosen)
        write_output(out, name, lists, items, settings.titles)
    for line in remarks(**lists.manifest.info, sequences=len(asked.names), k=settings.k, filter_ids=strange):
        say(f"recommend: {line}")
    yield f"{len(asked.names):,} lists: {out.path(name)}"


def _check_options(settings: RecommendConfig, model: Path | None, sequences: Path | None, users: str | None,
                   user: Sequence[str]) -> None:
    if sequences is not None and (users is not None or user):
        raise ConfigError("--sequences and --users or --user: got both; legal: new sequences, or users of the run")
    if model is not None and sequences is None:
        raise ConfigError("--model FOLDER knows no users; give new sequences with --sequences FILE, or the run's "
                          "configuration with --config")
    if model is not None and (settings.arm is not None or settings.seed is not None):
        raise ConfigError("--model FOLDER holds one model; leave out recommend.arm and recommend.seed, which choose "
                          "among a run's")


def _trained(config: RunConfig, storage: Storage) -> Artifact:
    """The recommender of the run under these very settings."""
    found = {step.label: step.artifact for step in plan(config, storage, "train") if step.artifact is not None}
    label, artifact = choose(config, found, config.recommend.arm, config.recommend.seed)
    say(f"recommend: {label} of run {config.name}")
    return artifact


def _filter(settings: RecommendConfig) -> tuple[Filter, dict[str, str]]:
    """The filter, and digests of its files."""
    lists = {name: read_ids(f"recommend.{name}", path) for name in ("allow", "deny")
             if (path := getattr(settings, name)) is not None}
    chosen = Filter(seen=settings.filter_seen, allow=lists.get("allow"), deny=lists.get("deny", ()),
                    categories=settings.categories or None, new_days=settings.new_days,
                    active_days=settings.active_days)
    return chosen, {name: digest_texts(sorted(ids)) for name, ids in lists.items()}


def _asked(settings: RecommendConfig, items: Items, prepared: Artifact | None, sequences: Path | None,
           users: str | None, user: Sequence[str]) -> tuple[NamedHistories, dict[str, str]]:
    """Whose lists, and what that depends on beside the model."""
    if sequences is not None:
        asked = read_sequences(sequences, items)
        return asked, {"sequences": _digest(asked)}
    assert prepared is not None
    chosen = list(dict.fromkeys([*(read_ids("--users", users) if users is not None else ()), *user]))
    asked = run_histories(prepared, settings.history, chosen if users is not None or user else None)
    return asked, {"users": digest_texts(chosen)} if chosen else {}


def _digest(asked: NamedHistories) -> str:
    """Of names and sequences as they are answered: another form of the same file is the same work."""
    hasher = hashlib.blake2b(digest_texts(asked.names).encode(), digest_size=8)
    for values in (asked.sequences.values, asked.sequences.offsets, asked.unknown_N):
        hasher.update(values.tobytes())
    return hasher.hexdigest()


def _find_or_build(config: RunConfig, storage: Storage, stage_key: StageKey, model: Model, asked: NamedHistories,
                   chosen: Filter) -> Artifact:
    def build(out: ArtifactDir) -> Artifact:
        if not config.recommend.execution.actors:
            return answer(config.recommend, model, asked, chosen, out)
        with connect(config.cluster):
            OneView(storage).require()
            return answer(config.recommend, model, asked, chosen, out)

    return find_or_build(storage, stage_key, "recommend", build, resumable=True,
                         found=f"these lists are there already, {stage_key.folder}")
