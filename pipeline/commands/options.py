"""Options that several commands take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

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
