"""Arms with settings of their own, and those that are shipped. Torch- and Ray-free."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, get_args

from pydantic import Field

from configs.base import Config
from configs.files import merge
from pipeline.train.config import Arm

BUILT_IN: tuple[str, ...] = get_args(Arm)
CONTROLS = dict.fromkeys(("shuffled", "random", "collaborative"), "distilled")
"""Built-in control → the arm that it is a control for."""
_MATCHED: Mapping[str, Any] = {
    "model": {"dropout": 0.1},
    "train": {"epochs": 24, "distill_epochs": 0, "optimizer": {"lr": 1e-3, "schedule": "cosine"}, "finetune_lr": None,
              "init_from": None, "validate_every_epochs": 2}}
SHIPPED: Mapping[str, Mapping[str, Any]] = {
    "text-start": {"train": {"item_init": {"kind": "text"}}},
    "text-only": {
        "model": {"dropout": 0.3},
        "train": {"item_table": {"kind": "mapped_text"}, "optimizer": {"lr": 1e-3}, "distill_epochs": 0,
                  "finetune_lr": None, "init_from": None, "item_init": None}},
    "matched": merge(_MATCHED, {"train": {"ensemble": {
        "members": [{"arm": "plain"}, {"arm": "text-start"}, {"arm": "text-only"}], "start": 1}}}),
    "matched-plain": merge(_MATCHED, {"train": {"ensemble": {
        "members": [{"arm": "plain"}, {"arm": "plain", "seed": 1000}, {"arm": "plain", "seed": 2000}], "start": 0}}})}
"""Recipes that a run may name without writing them down; its own settings of such a name are laid over them, its own
members replace the ensemble.
text-start: item embeddings that start from the items' texts. text-only: every item a trained linear map of its text's
vector. matched: one student that takes over what these two and the plain arm know together. matched-plain: the same of
three plain seeds, without texts; the two further ones are far from the student's, so that no two seeds of a run, less
than 1000 apart, share a member and agree more than chance does. Beside `matched` it is that arm's control. Only
text-start starts from an earlier model of the run's own: text-only has no table to load, the others start from a
member, which does."""


class Recipe(Config):
    """A further arm: the run's settings, some of them changed. Named in `arms`, or a member of another's ensemble."""

    teacher: Arm = "plain"
    """What the profiles do in this arm, as in the built-in arm of that name."""
    model: dict[str, Any] = Field(default_factory=dict)
    """Settings over the run's `model`; another `kind` replaces it whole."""
    train: dict[str, Any] = Field(default_factory=dict)
    """Settings over the run's `train`, for example `ensemble` or `item_init`."""
    control_for: str | None = None
    """The arm whose gain this one could explain by other means: the report tests that arm against it."""


def with_shipped(arms: Sequence[str], own: Mapping[str, Any]) -> dict[str, Any]:
    """The run's own recipes, unchecked, and those of `SHIPPED` that arms, members or they themselves name."""
    found = dict(own)
    asked = [*arms, *own]
    for name in asked:  # grows by the members of what it holds
        given = own.get(name, {})
        if name in SHIPPED and isinstance(given, Mapping):
            found[name] = merge(SHIPPED[name], given)
            if _members(given):  # `start` is a place among the members
                found[name]["train"]["ensemble"] = given["train"]["ensemble"]
            teacher = own.get("matched", {})
            if name == "matched-plain" and {name, "matched"} <= {*arms} and not (
                    isinstance(teacher, Mapping) and teacher.get("control_for")):
                found[name].setdefault("control_for", "matched")
        asked.extend(member for member in _members(found.get(name)) if member not in asked)
    return found


def _members(recipe: Any) -> list[str]:
    """Names of an unchecked recipe's members; none where it is not what it should be, which its check will tell."""
    for key in ("train", "ensemble", "members"):
        recipe = recipe.get(key) if isinstance(recipe, Mapping) else None
    rows = recipe if isinstance(recipe, (list, tuple)) else []
    return [row["arm"] for row in rows if isinstance(row, Mapping) and isinstance(row.get("arm"), str)]
