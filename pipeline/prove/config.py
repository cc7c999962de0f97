"""Settings of a proof."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import Field

from configs.base import Config, each_once

Control = Literal["shuffled", "random", "collaborative", "ids", "longer"]
"""What else could explain a teacher's gain. shuffled: texts and profiles of others; random: noise of the same spectrum;
collaborative: a truncated SVD of the training matrix in the place of the vectors; ids: the arm without texts, its
ensemble as large, of members that read none, with item-kNN in the place of a baseline that does; longer: the plain arm
trained for as many epochs as the teacher's arm and its members together."""


class ProveConfig(Config):
    """`mentorec prove`: every teacher of the run against plain and against all that could explain its gain."""

    seeds: int = Field(default=5, ge=2)
    """Training seeds at least: the run's own, then the numbers after them. Every arm has the same ones, so arms are
    compared from equal starts over equal batches."""
    controls: Annotated[tuple[Control, ...], each_once("kind")] = get_args(Control)
    """Kinds of controls, of those that an arm allows."""
