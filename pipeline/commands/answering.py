"""Commands for what a trained recommender does."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.commands.options import ConfigOption, DryRun, Overrides, Quiet

commands = typer.Typer()


@commands.command()
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


@commands.command()
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


@commands.command()
def serve(model: Annotated[str, typer.Argument(metavar="FOLDER", help="An exported model, or its URI.")],
          overrides: Overrides = None, config: ConfigOption = None, dry_run: DryRun = False,
          quiet: Quiet = False) -> None:
    """A recommender behind HTTP, on Ray Serve."""
    from configs import yaml12
    from configs.loader import dump, load
    from pipeline.commands.invocation import print_lines
    from pipeline.serve.config import ServeConfig
    from pipeline.work.progress import set_quiet

    set_quiet(quiet)
    settings = load(ServeConfig, config, [f"model={yaml12.inline(model)}", *(overrides or ())])
    if dry_run:
        print(dump(settings))
        return
    from pipeline.commands.serve import serve as lines

    print_lines(lines(settings))
