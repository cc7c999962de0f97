"""From a folder, a run or an artifact to a :class:`Recommender`."""

from __future__ import annotations

import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from cluster.config import StorageConfig
from cluster.storage import Storage
from configs.errors import ArtifactError, ConfigError, illegal
from configs.loader import validate
from pipeline.api.items import Items
from pipeline.api.nearest import NearestItems, available
from pipeline.api.recommender import Recommender
from pipeline.config import RunConfig
from pipeline.plan import RUN_FOLDER, STEPS
from pipeline.store.artifacts import Artifact, open_artifact
from pipeline.train.export import CARD, ITEMS, load_model, read_card, require_files
from pipeline.trained import Trained, choose

_TRAIN = re.compile(r"(?P<root>.+)/artifacts/train/(?P<fingerprint>[0-9a-f]{16})(/.*)?")


def load(source: str | Path | Artifact, arm: str | None, seed: int | None, device: str) -> Recommender:
    """See :func:`pipeline.api.load`."""
    if isinstance(source, Artifact):
        return of_artifact(source, device)
    where = str(source).rstrip("/")
    if "://" not in where:
        where = str(Path(where).expanduser().absolute())
    folder = Storage.from_config(StorageConfig(uri=where))
    if folder.exists(CARD) and "/artifacts/train/" not in where:
        if arm is not None or seed is not None:
            raise ArtifactError(f"{where} holds one exported model; leave arm and seed out: a run's folder has them")
        return of_folder(folder.local(""), device)
    return of_artifact(find_trained(where, arm, seed).artifact, device)


def of_folder(folder: Path, device: str = "cpu") -> Recommender:
    """The model of an exported folder.

    Raises:
        ArtifactError: a file is missing or damaged, or of another export than the card.
    """
    card = read_card(folder)
    try:
        table = pq.ParquetFile(folder / ITEMS).read()
    except (OSError, pa.ArrowInvalid) as exc:
        raise ArtifactError(f"{folder / ITEMS}: cannot be read: {exc}; export the run again") from exc
    model = load_model(folder)
    require_files(folder, card)
    nearest = None
    if "ann" in card and available():
        nearest = NearestItems.open(folder, *model.item_weights_VD().shape)
    return Recommender(model, Items.from_table(table, str(folder / ITEMS)), card, device, nearest)


def of_artifact(trained: Artifact, device: str = "cpu") -> Recommender:
    """The model of a `train` artifact, with titles and counts of the data it was trained on.

    Raises:
        ArtifactError: the data are gone, or are another catalogue's.
    """
    prepared = prepared_of(trained)
    folder = trained.local("model")
    model = load_model(folder, item_digest=prepared.manifest.id_digest)
    return Recommender(model, Items.of_prepared(prepared), read_card(folder), device)


def prepared_of(trained: Artifact) -> Artifact:
    """The `prepare` artifact that a model was trained on. Raises ArtifactError where it is gone."""
    fingerprint = str(trained.manifest.key["inputs"]["prepare"])
    prepared = open_artifact(trained.storage, "prepare", fingerprint)
    if prepared is None:
        raise ArtifactError(f"{trained.folder}: its data, artifacts/prepare/{fingerprint}, are gone; run `mentorec "
                            "prepare` again with the run's configuration")
    return prepared


def find_trained(where: str, arm: str | None = None, seed: int | None = None,
                 storage: StorageConfig | None = None) -> Trained:
    """The `train` artifact that a path or URI names: a run's folder, or the artifact's own.

    Args:
        storage: whose endpoint and region serve an ``s3://`` URI.

    Raises:
        ArtifactError: neither, or nothing is trained there.
        ConfigError: the run has no such arm or seed.
    """
    def opened(root: str) -> Storage:
        own = storage if storage is not None and root.startswith("s3://") else StorageConfig(uri=root)
        return Storage.from_config(own.model_copy(update={"uri": root}))

    if found := _TRAIN.fullmatch(where):
        artifact = open_artifact(opened(found["root"]), "train", found["fingerprint"])
        if artifact is None:
            raise ArtifactError(f"{where}: training there is unfinished; the command that began it goes on")
        values = artifact.manifest.key["config"]
        if arm is not None or seed is not None:
            raise ConfigError(f"{where} is one trained model, {values['arm']} of seed {values['seed']}; leave arm and "
                              "seed out: a run's folder has them")
        return Trained(f"train/{values['arm']}/seed-{values['seed']}", artifact)
    if found := RUN_FOLDER.fullmatch(where):
        return of_run(opened(found["root"]), found["name"], arm, seed)
    raise ArtifactError(illegal("recommender", where, "a folder that `mentorec export` has written, a run's folder "
                                "such as results/runs/demo, or a `train` artifact's"))


def of_run(storage: Storage, name: str, arm: str | None = None, seed: int | None = None) -> Trained:
    """A recommender that a run's last commands have trained, by the run's name. Raises as :func:`find_trained`."""
    folder = f"runs/{name}"
    if not storage.exists(f"{folder}/references.json"):
        there = ", ".join(storage.names("runs")) or "none"
        raise ArtifactError(illegal("run", name, f"one of those in {storage.path('runs')}: {there}"))
    config = validate(RunConfig, storage.read_json(f"{folder}/config.json"), f" in {folder}/config.json")
    planned = storage.read_json(f"{folder}/{STEPS}")["needed"] if storage.exists(f"{folder}/{STEPS}") else {}
    found = {}
    for label, fingerprint in storage.read_json(f"{folder}/references.json").items():
        if not label.startswith("train/") or fingerprint not in planned.get(label, [fingerprint])[:1]:
            continue  # the latter: of earlier settings, and not trained under the latest yet
        artifact = open_artifact(storage, "train", fingerprint)
        if artifact is not None:
            found[label] = artifact
    return choose(config, found, arm, seed)
