"""A run's recommender as a folder that needs nothing else: weights, catalogue, card, and ONNX where asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cluster.config import StorageConfig
from cluster.storage import Storage
from configs.errors import ArtifactError, ConfigError, illegal
from models.sequences import Sequences
from pipeline.api.items import catalogue
from pipeline.api.loading import find_trained, of_artifact, of_run, prepared_of
from pipeline.api.nearest import INDEX, K, NearestItems
from pipeline.evaluate.keys import VERSION
from pipeline.export.card import card_entries, readme
from pipeline.export.onnx import ENCODER_FILE, SCORES_FILE, longest_input, write_onnx
from pipeline.store import columns
from pipeline.store.artifacts import Artifact, open_artifact
from pipeline.store.columns import ITEM_ID
from pipeline.train.export import CARD, ITEMS, WEIGHTS, load_model, read_card, save_model
from pipeline.trained import Trained

README = "README.md"
_INDEX_USERS = 1000
"""Whose lists settle how hard an index looks."""
FILES = {WEIGHTS: "the weights, fp32 (safetensors)", CARD: "the model's settings, data, protocol, metrics, licence",
         ITEMS: "raw ids of items 1…n in order, with title, category and training interactions"}


def export(run: str, target: str, storage: StorageConfig, arm: str | None = None, seed: int | None = None,
           licence: str | None = None, onnx: bool = False, ann: bool = False, overwrite: bool = False) -> list[str]:
    """Write a recommender of a run to a folder that ``pipeline.api.load`` reads.

    Args:
        run: a run's name below the storage root; or a path or URI of a run or of a `train` artifact.
        target: a folder or a URI; created.
        storage: where the run is, for a name; its endpoint and region also serve a run's URI and the target.
        arm, seed: see :func:`pipeline.api.load`.
        licence: of the model, for its card.
        onnx: also write the ONNX graphs.
        ann: also write an index of the items, for approximate lists.
        overwrite: replace what an earlier export has left there.

    Returns:
        Paths of the files.

    Raises:
        ConfigError: the target holds something, or the run has no such arm or seed.
        ArtifactError: the run, its model or its data are missing or damaged.
        MissingExtraError: ``onnx`` or ``ann`` without their packages.
        StorageError: the target cannot be written.
    """
    named = "/" not in run
    trained = of_run(Storage.from_config(storage), run, arm, seed) if named else find_trained(
        run.rstrip("/") if "://" in run else str(Path(run).expanduser().absolute()), arm, seed, storage)
    own_store = storage.endpoint is not None and target.startswith("s3://")
    out = Storage.from_config(storage.model_copy(update={"uri": target}) if own_store else StorageConfig(uri=target))
    _check_target(out, target, overwrite)
    with out.upload_folder("", last=CARD) as folder:
        files = write_folder(folder, trained, run.rstrip("/").rpartition("/")[2], licence, onnx, ann)
    for name in {*out.names("")} - {*files}:  # of the export that this one replaces
        out.delete(name)
    return [f"{out.path('')}/{name}" for name in files]


def write_folder(folder: Path, trained: Trained, name: str, licence: str | None, onnx: bool, ann: bool) -> list[str]:
    """The files, in the order in which they are written; ``name`` is the run's."""
    artifact = trained.artifact
    prepared = prepared_of(artifact)
    own = artifact.local("model")
    student = load_model(own, item_digest=prepared.manifest.id_digest)
    info = card_entries(artifact, prepared, evaluation_of(artifact), licence)
    own_card = read_card(own)
    info |= {key: value for key, value in own_card.items() if key not in ("model", "num_items", "item_digest", "files")}
    items = catalogue(prepared)
    files = dict(FILES)
    if onnx:
        write_onnx(student, folder)
        info["onnx"] = {"longest_input": longest_input(student), "input": "items", "outputs": ["state", "scores"]}
        files |= {ENCODER_FILE: "ONNX: item indices, right-padded with 0 → the user's state",
                  SCORES_FILE: "ONNX: the same → the state, and scores of all items"}
    if ann:
        states_ND = of_artifact(artifact).indexed_vectors(_some_histories(prepared))
        nearest, recall = NearestItems.build(student.item_weights_VD().detach().numpy(), states_ND)
        nearest.save(folder)
        info["ann"] = {"file": INDEX, "library": "faiss", "kind": "IVF, inner product",
                       "recall": {"lists_of": K, "users": len(states_ND), "found": round(recall, 4)}}
        files[INDEX] = (f"faiss (IVF, inner product): items 1…n in order; of {len(states_ND):,} users' lists of {K} it "
                        f"finds {recall:.1%} of the items")
    page = readme(name, {**own_card, **info}, {**files, CARD: FILES[CARD]})
    (folder / README).write_text(page, encoding="utf-8")
    save_model(folder, student.state_dict(), student_config(own_card), items[ITEM_ID], info, items)
    return [*files, README]


def _some_histories(prepared: Artifact) -> Sequences:
    """Of the first training users."""
    for batch in prepared.storage.read_folder(prepared.relative("histories"), [columns.ITEMS], _INDEX_USERS):
        return Sequences.from_lists(batch[columns.ITEMS].to_pylist())
    raise ArtifactError(f"{prepared.folder}: its histories are gone; run `mentorec prepare` again")


def student_config(card: dict[str, Any]) -> Any:
    """The model's settings in a card."""
    from pydantic import TypeAdapter

    from models.config import ModelConfig

    return TypeAdapter(ModelConfig).validate_python(card["model"])


def evaluation_of(trained: Artifact) -> Artifact | None:
    """The evaluation of this very model, where one is finished."""
    storage = trained.storage
    for fingerprint in storage.names("artifacts/evaluate"):
        try:
            found = open_artifact(storage, "evaluate", fingerprint)
        except ArtifactError:
            continue  # damaged: another model's, as likely as not
        if found is not None and found.manifest.key["inputs"].get("train") == trained.fingerprint and \
                found.manifest.key["version"] == VERSION:
            return found
    return None


def _check_target(out: Storage, target: str, overwrite: bool) -> None:
    there = out.names("")
    strange = set(there) - {*FILES, README, ENCODER_FILE, SCORES_FILE, INDEX}
    if there and (strange or not overwrite):
        shown = ", ".join(sorted(strange)[:3] or there[:3])
        remedy = "" if strange else "; --overwrite replaces an earlier export"
        raise ConfigError(illegal("the export's folder", target, "a new or empty folder", f"it holds {shown}{remedy}"))
