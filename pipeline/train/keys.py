"""What a trained model depends on. Imports no torch or Ray."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from configs.errors import ConfigError, illegal
from models.config import ModelConfig, counted_source
from pipeline.store.artifacts import StageKey, is_fingerprint
from pipeline.store.digests import digest_file
from pipeline.train.config import Arm, TrainConfig

VERSIONS = (6, 7)
"""Of most trainings, and of those whose result has changed since: see `_version`."""
MODEL_FILES = ("model.json", "model.safetensors", "items.parquet")
"""Files of an exported model folder."""
_NEXT_ITEM = "sasrec, esasrec, gru4rec"


def key(config: TrainConfig, model: ModelConfig, arm: Arm, seed: int, prepare_fp: str,
        reduce_fp: str | None, items_fp: str | None = None, texts_fp: str | None = None,
        members: Sequence[str] = ()) -> StageKey:
    """The key of one arm and seed. The plain arm depends on no teacher.

    Args:
        reduce_fp: of the teacher's vectors.
        items_fp: of the reduced item texts; used where ``config.item_init`` asks for them.
        texts_fp: of the encoded item texts; used where ``config.reads_texts``.
        members: of the ensemble's members; their names in the run are no part of the key.

    Raises:
        ConfigError: an arm with a teacher and no ``reduce`` fingerprint, ``item_init`` without item texts, or
            ``init_from`` names no model.
    """
    inputs = {"prepare": prepare_fp}
    if config.profile_input is not None:
        _check_profile_input(arm, model)
    if arm != "plain" or config.profile_input is not None:
        if reduce_fp is None:
            raise ConfigError(f"arm {arm!r} needs the profile vectors of `reduce`; the plain arm alone does without")
        inputs["reduce"] = reduce_fp
    digests: dict[str, str] = {}
    if config.init_from is not None:
        if is_fingerprint(config.init_from):
            inputs["init_from"] = config.init_from
        else:
            digests["init_from"] = _digest_model(Path(config.init_from))
    values = config.arm_key(arm)
    del values["init_from"]
    if config.item_init is None:
        del values["item_init"]
    elif items_fp is None:
        raise ConfigError("train.item_init needs the reduced vectors of the items' texts (`reduce/items`)")
    else:
        inputs["items"] = items_fp
    if config.reads_texts:
        if texts_fp is None:
            raise ConfigError("train.item_table: mapped_text, train.ensemble.baselines: content and "
                              "train.place_untrained need the vectors of the items' texts (`encode/items`)")
        inputs["texts"] = texts_fp
    if config.item_table is None:
        del values["item_table"]
    if config.profile_input is None:
        del values["profile_input"]
    if not config.place_untrained:
        del values["place_untrained"]
    if not config.place_untrained or config.place_scale == 1:
        del values["place_scale"]
    if config.ensemble is None:
        del values["ensemble"]
    else:
        inputs |= {f"member_{place}": fingerprint for place, fingerprint in enumerate(members)}
        own = config.ensemble.key() | {"members": [m.weight for m in config.ensemble.members]}
        values["ensemble"] = {name: value for name, value in own.items() if name != "baselines" or value}
        if config.ensemble.baselines and model.kind == "bert4rec":
            raise ConfigError(illegal("model.kind with train.ensemble.baselines", model.kind, _NEXT_ITEM,
                                      "they score the next item; leave the baselines out"))
    workers = config.execution.num_workers
    if config.execution.most_workers > 1 and model.dropout > 0:  # each draws its own dropout
        values["workers"] = workers if isinstance(workers, int) else "elastic"
    settings = {"train": values, "model": model.key(), "arm": arm, "seed": seed}
    return StageKey("train", _version(config, arm), settings, inputs, digests)


def _version(config: TrainConfig, arm: Arm) -> int:
    """What was trained with none of these is as it was: it is not trained again."""
    ensemble = config.ensemble
    changed = (
        config.place_untrained,  # the items that were never a target, no longer those without an interaction
        counted_source(config.loss) == "in_batch",  # Q of the targets; BCE's mean over what was drawn
        ensemble is not None and ensemble.epochs is not None,  # patience begins when matching has ended
        ensemble is not None and ensemble.temperature < 1,  # large scores no longer overflow
        ensemble is not None and arm != "plain" and config.beta,  # β of the loss that is beside it
    )
    return VERSIONS[any(changed)]


def _check_profile_input(arm: Arm, model: ModelConfig) -> None:
    if arm != "plain":
        raise ConfigError(f"train.profile_input: this arm distils profiles (teacher {arm}), and an arm either distils "
                          "them or reads them; set profile_input in a recipe whose teacher is plain")
    if model.kind == "bert4rec":
        raise ConfigError(illegal("model.kind with train.profile_input", model.kind, _NEXT_ITEM))


def _digest_model(folder: Path) -> str:
    hasher = hashlib.blake2b(digest_size=8)
    for name in MODEL_FILES:
        path = folder / name
        if not path.is_file():
            raise ConfigError(f"train.init_from: got {str(folder)!r}, which has no {name}; legal: the fingerprint of a "
                              "`train` artifact, or the path of its exported `model` folder")
        hasher.update(digest_file(path).encode())
    return hasher.hexdigest()
