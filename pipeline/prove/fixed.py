"""What a proof tests, written down before its first step: what is tested may not follow what was seen."""

from __future__ import annotations

from typing import Any

from cluster.storage import Storage
from configs.errors import ConfigError
from pipeline.config import RunConfig
from pipeline.family import compared
from pipeline.plan import run_folder
from pipeline.store.artifacts import changed_keys

FAMILY = "proof.json"
"""In the run's folder: the settings and the comparisons that they give."""
_ELSEWHERE = ("storage", "cluster", "recommend")
_SHOWN = ("sample_users", "sample_profiles")
"""Settings of the report that change no figure."""


def family(config: RunConfig) -> list[tuple[str, str]]:
    """The tested comparisons, first arm − second."""
    return compared(config.arms, {arm: config.control_for(arm) for arm in config.arms})


def fix(config: RunConfig, storage: Storage) -> None:
    """Write the settings and comparisons down, or check them against those that were.

    Raises:
        ConfigError: a proof of this name was begun with others.
    """
    require_as_fixed(config, storage)
    path = f"{run_folder(config)}/{FAMILY}"
    if not storage.exists(path):
        storage.write_json(path, _settings(config))


def require_as_fixed(config: RunConfig, storage: Storage) -> None:
    """
    Raises:
        ConfigError: the run's folder is that of a proof with other settings or comparisons.
    """
    path = f"{run_folder(config)}/{FAMILY}"
    changed = changed_keys(storage.read_json(path), _settings(config)) if storage.exists(path) else []
    if changed:
        raise ConfigError(f"{storage.path(path)}: this proof was begun with other settings "
                          f"({'; '.join(changed[:3])}); what is tested may not follow what was seen: give it "
                          "another name (name=…), or delete its folder")


def _settings(config: RunConfig) -> dict[str, Any]:
    values = {name: value for name, value in config.key().items() if name not in _ELSEWHERE}
    values["report"] = {name: value for name, value in values["report"].items() if name not in _SHOWN}
    return {"comparisons": [f"{first} − {second}" for first, second in family(config)], "settings": values}
