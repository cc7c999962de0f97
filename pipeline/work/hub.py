"""Models by hub id, local folder or package: which files a name means, and what identifies their content.

Imports no torch; ``huggingface_hub`` only for a hub id.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from configs.errors import ConfigError, ResourceError, illegal
from pipeline.store.digests import DigestCache
from pipeline.work import packaged

COMMIT_SCHEME = "commit:"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class ModelFiles:
    """What a library loads."""

    name_or_path: str
    commit: str | None = None
    """Of a hub model."""

    @property
    def to_fetch(self) -> str:
        """What an error adds that may be for want of a hub's files; nothing is downloaded while a run is under way."""
        return "" if self.commit is None else f" (of a hub's model: mentorec fetch {self.name_or_path})"


def identity(setting: str, model: str, revision: str | None, digests: DigestCache | None = None) -> str:
    """What a model's content is, for fingerprints: a digest of local files, or a hub model's commit.

    Args:
        setting: names the model in errors, such as ``profile.engine.model``.

    Raises:
        ConfigError: no such folder, package, hub model or revision.
        MissingExtraError: the package that holds the model is not installed.
        ResourceError: a package's model that was not fetched; a hub model that is not cached, and the hub cannot be
            asked.
    """
    folder = local_folder(setting, model, revision)
    if folder is not None:
        return (digests or DigestCache()).folder(folder)
    return COMMIT_SCHEME + commit(setting, written_out(model), revision)


def locate(setting: str, model: str, revision: str | None, known: str) -> ModelFiles:
    """The files to load, given what :func:`identity` returned when the stage was planned."""
    folder = local_folder(setting, model, revision)
    if folder is not None:
        return ModelFiles(str(folder))
    return ModelFiles(written_out(model), known.removeprefix(COMMIT_SCHEME))


def local_folder(setting: str, model: str, revision: str | None) -> Path | None:
    """The model's folder on this machine; None for a hub id. Raises as :func:`identity` does."""
    if model.startswith(packaged.SCHEME):
        refuse_revision(setting, model, revision)
        return packaged.folder(setting, model.removeprefix(packaged.SCHEME))
    expanded = written_out(model)
    if os.path.isdir(expanded):
        refuse_revision(setting, model, revision)
        return Path(expanded).absolute()
    if expanded.startswith(("/", ".", "~")) or not _HUB_ID.fullmatch(expanded):
        raise _no_model(setting, model)
    return None


def written_out(model: str) -> str:
    """A model's name with environment variables and ``~`` filled in."""
    return os.path.expanduser(os.path.expandvars(model))


def _no_model(setting: str, model: str) -> ConfigError:
    return ConfigError(illegal(setting, model, "a folder that exists, a hub id such as intfloat/multilingual-e5-large, "
                               f"{packaged.SCHEME}NAME (mentorec fetch --list)"))


def refuse_revision(setting: str, model: str, revision: str | None) -> None:
    """Raise ConfigError where a revision goes with anything but a hub id."""
    if revision is not None:
        raise ConfigError(f"{setting.rpartition('.')[0]}.revision: got {revision!r} for {model!r}; a revision goes "
                          "with a hub id only, leave it out")


def commit(setting: str, model: str, revision: str | None) -> str:
    """The commit of a hub model: of the local cache when it is there, so that a run does not change because the hub
    has; else the hub is asked. Raises as :func:`identity` does."""
    if revision is not None and _COMMIT.fullmatch(revision):
        return revision
    import huggingface_hub
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        cached = huggingface_hub.try_to_load_from_cache(model, "config.json", revision=revision)
    except HFValidationError as exc:
        raise _no_model(setting, model) from exc
    if isinstance(cached, str):
        return Path(cached).parent.name
    try:
        found = huggingface_hub.HfApi().model_info(model, revision=revision, timeout=_TIMEOUT_S).sha
    except (RepositoryNotFoundError, RevisionNotFoundError) as exc:
        raise ConfigError(f"{setting}: the hub has no model {model!r} with revision {revision or 'main'!r} that can "
                          "be read without a login; check the name, or give a local folder") from exc
    except Exception as exc:
        raise ResourceError(f"{setting}: {model!r} is not in the local cache and the hub cannot be asked "
                            f"({type(exc).__name__}); bring it where there is a network (mentorec fetch {model}), or "
                            f"set {setting} to a local folder") from exc
    if found is None:
        raise ResourceError(f"{setting}: the hub names no commit for {model!r}; set a commit as the revision")
    return found
