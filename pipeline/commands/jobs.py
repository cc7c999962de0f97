"""The command and environment of what is sent to a cluster as a job."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from configs.errors import ConfigError, illegal
from configs.files import SHIPPED, resolve_path
from pipeline.config import RunConfig
from pipeline.stages import STAGES, can_cost

_PASSED_ON = ("MENTOREC_DATA",)
"""Environment variables a job gets. Keys never travel this way: Ray shows a job's environment to everyone."""
COMMANDS: Final = ("run", "tune", "prove", *STAGES)
_WITH_PRICE: Final = ("run", "prove", *(name for name in STAGES if can_cost(name)))


def job_environment() -> dict[str, str]:
    """The variables of this process that the job needs."""
    return {name: os.environ[name] for name in _PASSED_ON if name in os.environ}


def check_command(name: str) -> None:
    """Raise ConfigError for a command that is no work for a cluster."""
    if name not in COMMANDS:
        raise ConfigError(illegal("--command", name, COMMANDS))


def search_of(config: str, overrides: Sequence[str], working_dir: Path) -> RunConfig:
    """The run that a search's file starts from.

    Raises:
        ConfigError: the search is not legal, or its run's file is not uploaded with the job.
    """
    from tuning.search import base_run, run_file, with_overrides

    file = resolve_path(config)
    search = with_overrides(file, overrides)
    _uploaded(str(run_file(search, file)), working_dir)
    return base_run(search, file)[1]


def job_command(name: str, config: str, overrides: Sequence[str], resolved: RunConfig, working_dir: Path, here: bool,
                quiet: bool = False, confirmed: bool = False) -> list[str]:
    """``python -m pipeline NAME …`` as the job's entry point.

    Args:
        name: one of COMMANDS.
        resolved: the run's configuration that ``config`` and ``overrides`` give.
        working_dir: the folder that is uploaded; the configuration file must lie in it, or be a shipped one.
        here: the cluster is on this machine, so a relative storage root can be made absolute.
        confirmed: a price above the config's limit was agreed to.

    Raises:
        ConfigError: the file is not uploaded with the job, or its results would be lost with its temporary folder.
    """
    command = ["python", "-m", "pipeline", name, "--config", _uploaded(config, working_dir), *overrides]
    storage = resolved.storage
    location = storage.location()
    if storage.is_relative():
        if not here:
            raise ConfigError(f"storage.uri: got {storage.uri!r}; a job on another machine needs a URI "
                              "(s3://bucket/prefix) or an absolute path that all its nodes share")
        location = str((working_dir / location).absolute())
    if location != storage.uri:  # the job's surroundings may know other variables and another home
        command.append(f"storage.uri={location}")
    return command + ["--quiet"] * quiet + ["--yes"] * (confirmed and name in _WITH_PRICE)


def _uploaded(config: str, working_dir: Path) -> str:
    file = resolve_path(config).resolve()
    if file.is_relative_to(working_dir.resolve()):
        return str(file.relative_to(working_dir.resolve()))
    if file.is_relative_to(SHIPPED.resolve()):
        return f"configs/{file.relative_to(SHIPPED.resolve())}"
    raise ConfigError(f"--config {config}: a job gets only the files below {working_dir}; put the file there")
