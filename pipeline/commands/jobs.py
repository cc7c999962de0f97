"""The command and environment of what is sent to a cluster as a job."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from cluster.ignored import ALWAYS, left_out
from configs import yaml12
from configs.errors import ConfigError, illegal
from configs.files import SHIPPED, files_of
from pipeline.commands.invocation import open_run
from pipeline.config import RunConfig
from pipeline.stages import STAGES, can_cost

_PASSED_ON = ("MENTOREC_DATA",)
"""Environment variables a job gets. Keys never travel this way: Ray shows a job's environment to everyone."""
COMMANDS: Final = ("run", "tune", "prove", *STAGES)
_WITHOUT_PRICE: Final = tuple(name for name in STAGES if not can_cost(name))


Read = tuple[RunConfig, list[tuple[str, Path]]]
"""The run that a command is about, and every file that it is read from, the command's own first, each behind the
setting that names it."""


def job_environment() -> dict[str, str]:
    """The variables of this process that the job needs."""
    return {name: os.environ[name] for name in _PASSED_ON if name in os.environ}


def job_command(name: str, read: Callable[[], Read], overrides: Sequence[str], working_dir: Path, here: bool,
                quiet: bool = False, confirmed: bool = False) -> list[str]:
    """``python -m pipeline NAME …`` as the job's entry point.

    Args:
        name: one of COMMANDS.
        read: what the command is about; called once the rest is found legal. Its files must lie in ``working_dir`` or
            be shipped ones.
        working_dir: the folder that is uploaded.
        here: the cluster's head is on this machine, so a relative storage root can be made absolute.
        confirmed: a price above the config's limit was agreed to.

    Raises:
        ConfigError: the command or its configuration is not legal, a file is not uploaded with the job, or the results
            would be lost with its temporary folder.
    """
    if name not in COMMANDS:
        raise ConfigError(illegal("--command", name, COMMANDS))
    if confirmed and name in _WITHOUT_PRICE:
        raise ConfigError(f"--yes: {name} has no price; leave it out")
    run_config, files = read()
    uploaded = [_uploaded(setting, file, working_dir) for setting, file in files]
    command = ["python", "-m", "pipeline", name, "--config", uploaded[0], *overrides]
    storage = run_config.storage
    location = storage.location()
    if storage.is_relative():
        if not here:
            raise ConfigError(f"storage.uri: got {storage.uri!r}; a job on another machine needs a URI "
                              "(s3://bucket/prefix) or an absolute path that all its nodes share; set storage.uri (no "
                              "Ray of this machine listens at that address, though a tunnel may)")
        location = str((working_dir / location).absolute())
    if location != storage.uri:  # the job's surroundings may know other variables and another home
        command.append(f"storage.uri={yaml12.inline(location)}")
    return command + ["--quiet"] * quiet + ["--yes"] * confirmed


def read_run(name: str, config: str, overrides: Sequence[str], quiet: bool = False) -> Read:
    """What ``run``, ``prove`` or a stage is about."""
    run_config = open_run(config, overrides, quiet=quiet, dry_run=False, until=name if name in STAGES else None)
    if name == "prove":
        from pipeline.prove.proof import derive

        run_config = derive(run_config).config
    return run_config, [("--config", file) for file in files_of(config)]


def _uploaded(setting: str, file: Path, working_dir: Path) -> str:
    """Where the job finds the file."""
    file, working_dir = file.resolve(), working_dir.resolve()
    if file.is_relative_to(SHIPPED.resolve()):
        return f"configs/{file.relative_to(SHIPPED.resolve())}"
    if not file.is_relative_to(working_dir):
        raise ConfigError(f"{setting}: {file}: a job gets only the files below {working_dir}; put the file there")
    if left_out(file, working_dir):
        raise ConfigError(f"{setting}: {file}: a job does not get what .gitignore or .rayignore name, nor what lies in "
                          f"{', '.join(ALWAYS)}; copy the file to another folder below {working_dir}")
    return str(file.relative_to(working_dir))
