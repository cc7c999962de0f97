"""Commands that look: at settings, machines, runs and what a storage holds."""

from __future__ import annotations

import json
from functools import partial
from typing import Annotated

import typer

from pipeline.commands.options import ConfigOption, DryRun, Overrides, Quiet

commands = typer.Typer()


@commands.command()
def describe(overrides: Overrides = None, config: ConfigOption = None, dry_run: DryRun = False,
             quiet: Quiet = False) -> None:
    """Stages: resources, columns, keys, reuse."""
    from pipeline.commands.invocation import open_run, print_lines

    run_config = open_run(config, overrides, quiet=quiet, dry_run=dry_run)
    from pipeline.describe import describe as lines

    print_lines(lines(run_config))


@commands.command()
def doctor(overrides: Overrides = None, config: ConfigOption = None, dry_run: DryRun = False, quiet: Quiet = False,
           ray: Annotated[bool, typer.Option("--ray", help="Also join or start Ray and run a task.")] = False,
           cluster: Annotated[bool, typer.Option("--cluster", help="Also ask every node of it.")] = False,
           as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """What is there, what is missing, what to do."""
    from pipeline.commands.invocation import open_run

    run_config = open_run(config, overrides, quiet=quiet, dry_run=dry_run, until="prepare", nameless=True)
    from cluster.doctor import examine, passed
    from pipeline.describe import local_folders
    from pipeline.work.text import table

    checks = list(examine(run_config.storage, run_config.cluster, with_ray=ray, with_nodes=cluster,
                          folders=partial(local_folders, run_config, ("prepare", "profile", "encode"))))
    if as_json:
        print(json.dumps([check.__dict__ for check in checks], indent=2))
    else:
        print(table(("check", "status", "found", "next step"),
                    [(c.name, c.status, c.detail, c.next_step) for c in checks]))
    if not passed(checks):
        raise typer.Exit(1)


@commands.command()
def status(run: Annotated[str, typer.Argument(metavar="RUN", help="A run's name below storage.uri, or its folder.")],
           overrides: Overrides = None, config: ConfigOption = None, dry_run: DryRun = False, quiet: Quiet = False,
           as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """How far a run is, and who is at work on it."""
    from pipeline.commands.invocation import open_run, print_lines

    run_config = open_run(config, overrides, quiet=quiet, dry_run=dry_run, until="prepare", nameless=True)
    from cluster.faults import storage_errors
    from pipeline.commands.status import status as of_run

    with storage_errors(run):
        found = of_run(run, run_config.storage)
    print_lines([json.dumps(found.values(), indent=2)] if as_json else found.lines())


@commands.command()
def clean(overrides: Overrides = None, config: ConfigOption = None,
          run: Annotated[list[str] | None, typer.Option(
              metavar="NAME", help="A run to remove, with what only it needs; may be repeated.")] = None,
          yes: Annotated[bool, typer.Option("--yes", help="Remove it; else only tell.")] = False,
          dry_run: DryRun = False, quiet: Quiet = False) -> None:
    """What no run needs any more: how much it takes, and its removal."""
    from pipeline.commands.invocation import open_run, print_lines

    run_config = open_run(config, overrides, quiet=quiet, dry_run=dry_run, until="prepare", nameless=True)
    from cluster.faults import storage_errors
    from cluster.storage import Storage
    from pipeline.commands.clean import remove, survey

    storage = Storage.from_config(run_config.storage)
    with storage_errors(storage.base):
        found = survey(storage, run or ())
        if yes:
            remove(found)
    print_lines(found.lines(removed=yes))


@commands.command()
def show(kind: Annotated[str, typer.Argument(metavar="user|profile|item|artifact")],
         what: Annotated[str, typer.Argument(metavar="ID|IDX|STAGE/FINGERPRINT")], overrides: Overrides = None,
         config: ConfigOption = None, dry_run: DryRun = False, quiet: Quiet = False,
         index: Annotated[bool, typer.Option("--index", help="Look up the internal index, not the raw id.")] = False,
         ) -> None:
    """A user, a profile, an item or an artifact of a run."""
    from pipeline.commands.invocation import open_run, print_lines

    run_config = open_run(config, overrides, quiet=quiet, dry_run=dry_run, nameless=kind == "artifact")
    from pipeline.commands.show import show as lines

    print_lines(lines(run_config, kind, what, index))
