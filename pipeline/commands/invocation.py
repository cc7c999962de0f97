"""What every command does first: silence, configuration, and the dry run in place of the work."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import typer

from cluster.connect import in_job
from configs.errors import ConfigError, StorageError
from configs.files import SHIPPED
from configs.loader import load
from pipeline.config import RunConfig
from pipeline.plan import steps
from pipeline.stages import STAGES
from pipeline.work.progress import say, set_quiet


def required(config: str | None, pattern: str = "**/*.yaml") -> str:
    """The ``--config`` value.

    Raises:
        ConfigError: none was given; the message lists the shipped ones.
    """
    if config is not None:
        return config
    shipped = ", ".join(sorted(f"configs/{path.relative_to(SHIPPED)}" for path in SHIPPED.glob(pattern)))
    raise ConfigError(f"--config FILE is missing; shipped: {shipped}")


def open_run(config: str | None, overrides: Sequence[str] | None, *, quiet: bool, dry_run: bool,
             until: str | None = None, nameless: bool = False) -> RunConfig:
    """The validated run configuration.

    Args:
        dry_run: print the configuration and the resource plan up to stage ``until``, and end the command.
        nameless: the command also works without a file, on the defaults.

    Raises:
        ConfigError: see :func:`configs.loader.load`; or the run has no stage ``until``.
    """
    set_quiet(quiet)
    given = list(overrides or ())
    run_config = load(RunConfig, None, ["name=unnamed", *given]) if nameless and config is None else load(
        RunConfig, required(config), given)
    if until is not None and not _is_part(run_config, until):
        raise ConfigError(f"{until} is no part of this run: arms holds only plain, which has no teacher; "
                          "add distilled to arms")
    if dry_run:
        from pipeline.describe import dry_run as plan_lines

        print_lines(list(plan_lines(run_config, until)))  # an error comes alone
        raise typer.Exit
    return run_config


def _is_part(config: RunConfig, name: str) -> bool:
    """Whether a run builds something in a stage; the report always is written, an audit is built on request."""
    return STAGES[name].wanted != "as input" or any(step.stage == name for step in steps(config))


def print_lines(lines: Iterable[str]) -> None:
    """Each on stdout, as soon as it is there.

    Raises:
        StorageError: a full disk behind stdout.
    """
    for line in lines:
        try:
            print(line, flush=True)
        except BrokenPipeError:
            raise
        except OSError as exc:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # Python flushes once more at its end
            raise StorageError(f"stdout: {exc.strerror}; what was built is kept, the same command prints again"
                               ) from exc


def warn_of_lost_storage(config: RunConfig) -> None:
    """A job's working folder is a copy that Ray may delete; a relative storage root would go with it."""
    if in_job() and config.storage.is_relative():
        location = config.storage.location()
        say(f"storage.uri={location} lies inside this job's temporary copy, {Path(location).absolute()}; "
            "give an absolute path or a URI to keep the results")
