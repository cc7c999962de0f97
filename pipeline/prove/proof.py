"""A proof: the run's arms and seeds made complete, the comparisons written down before anything is trained, the run.

Everything is trained, chosen and reported as in any run; the comparisons follow from the arms alone, so no figure can
choose them. Imports no torch or Ray.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median
from typing import Any

from cluster.storage import Storage
from configs.errors import ConfigError
from configs.loader import dump, validate
from pipeline.config import RunConfig
from pipeline.describe import resource_plan
from pipeline.members import shared
from pipeline.plan import PlannedStep, plan
from pipeline.prove.controls import Controls
from pipeline.prove.fixed import family, fix, require_as_fixed
from pipeline.run import RunResult, run
from pipeline.train.definition import TrainStep
from pipeline.work.progress import duration, say
from pipeline.work.text import table

SUFFIX = "-proof"


@dataclass(frozen=True)
class Proof:
    """What is proved, as a run."""

    config: RunConfig
    """The run with every control among its arms."""

    @property
    def family(self) -> list[tuple[str, str]]:
        """The tested comparisons, first arm − second."""
        return family(self.config)


def derive(config: RunConfig) -> Proof:
    """The proof of a run's teachers.

    Raises:
        ConfigError: no arm has a teacher, or a derived arm's name or settings cannot stand.
    """
    teachers = [arm for arm in config.arms if arm != "plain" and config.control_for(arm) is None]
    if not teachers:
        raise ConfigError(f"arms: got {', '.join(config.arms)}; a proof needs an arm with a teacher: `distilled`, or "
                          "one of `recipes` that is no control")
    for arm in config.trained_arms():
        if config.for_arm(arm).train.init_from not in (None, config.train.init_from):
            raise ConfigError(f"recipes.{arm}.train.init_from: what that model has read would reach every control of "
                              "an arm that starts from it; a proof needs all arms to start alike: leave it out, or set "
                              "train.init_from for all")
    seeds = list(config.seeds)
    seeds += range(max(seeds) + 1, max(seeds) + 1 + max(config.prove.seeds - len(seeds), 0))
    controls = Controls(config, seeds)
    found = [name for arm in teachers for kind in config.prove.controls if (name := controls.of(arm, kind))]
    values = config.model_dump(mode="json") | {
        "name": f"{config.name}{SUFFIX}", "seeds": seeds, "arms": list(dict.fromkeys(("plain", *config.arms, *found))),
        "recipes": {name: recipe.model_dump(mode="json") for name, recipe in controls.recipes.items()}}
    proof = Proof(validate(RunConfig, values, " in the proof"))
    for each in shared(proof.config):
        raise ConfigError(
            f"{each.arm}: its seeds {each.seeds[0]} and {each.seeds[1]} both learn from {each.member} with seed "
            f"{each.seed}, so they agree more than chance does and intervals would be too narrow; give the members of "
            f"its ensemble seeds that are {max(seeds) - min(seeds) + 1} apart or more, or the run seeds that are "
            "closer")
    return proof


def prove(proof: Proof, confirmed: bool = False) -> RunResult:
    """Fix the comparisons, then run; calling it again goes on where it stopped.

    Args:
        confirmed: a planned price above ``profile.max_cost_without_confirm`` was agreed to.

    Raises:
        ConfigError: a proof of this name was begun with other settings.
        MentorecError: of the stage that cannot go on.
    """
    def begin(steps: list[PlannedStep]) -> None:
        fix(proof.config, Storage.from_config(proof.config.storage))
        say(f"prove: {len(proof.family)} comparisons, {trainings(steps)}")

    return run(proof.config, confirmed=confirmed, on_plan=begin)


def dry_run_lines(proof: Proof) -> Iterator[str]:
    """The proof as a run's configuration, its plan, and last what is compared, as blocks of text."""
    storage = Storage.from_config(proof.config.storage)
    require_as_fixed(proof.config, storage)
    steps = plan(proof.config, storage)
    yield dump(proof.config)
    yield from resource_plan(proof.config, steps)
    yield from lines(proof, steps)


def lines(proof: Proof, steps: list[PlannedStep]) -> Iterator[str]:
    """Arms, seeds, comparisons and trainings, as blocks of text."""
    config = proof.config
    yield table(("arm", "control for", "teacher", "epochs", "members"), [_row(config, arm) for arm in config.arms])
    yield f"seeds: {', '.join(map(str, config.seeds))}; every arm has each"
    yield (f"{len(proof.family)} comparisons are tested, fixed now: "
           + ", ".join(f"{first} − {second}" for first, second in proof.family)
           + "; beside them plain − plain over other seeds, which must not be shown"
           + " (with fewer than four seeds it is no test)" * (len(config.seeds) < 4))
    yield trainings(steps)


def _row(config: RunConfig, arm: str) -> tuple[str, ...]:
    own, teacher = config.for_arm(arm).train, config.teacher(arm)
    parts: list[str] = [teacher] if teacher != "plain" else []
    for name in ("item_init", "item_table", "profile_input", "ensemble"):
        setting = getattr(own, name)
        control = getattr(setting, "control", "none")
        if setting is not None:
            parts.append(name if control == "none" else f"{name} ({control})")
    members = [f"{m.arm}+{m.seed}" if m.seed else m.arm for m in config.members(arm)]
    for baseline in own.ensemble.baselines if own.ensemble is not None else ():
        control = getattr(baseline, "control", "none")
        members.append(baseline.kind if control == "none" else f"{baseline.kind} ({control})")
    return arm, config.control_for(arm) or "–", ", ".join(parts) or "none", str(own.epochs), ", ".join(members) or "–"


def trainings(steps: list[PlannedStep]) -> str:
    """How many trainings there are, and how long those to come may take by what finished ones took."""
    each: dict[str, PlannedStep] = {step.key.fingerprint: step for step in steps if step.stage == "train"}
    finished = [_info(step) for step in each.values() if step.artifact is not None]
    epochs = sum(step.step.config.train.epochs for step in each.values() if step.artifact is None)
    said = f"{len(each)} trainings, {len(finished)} of them there; {epochs:,} epochs to come at most"
    seconds = [info["seconds"] / info["epochs"] for info in finished if info.get("seconds") and info.get("epochs")]
    if epochs and seconds:
        said += f", about {duration(epochs * median(seconds))} at {duration(median(seconds))} an epoch, as those took"
    return said


def _info(step: PlannedStep) -> dict[str, Any]:
    assert step.artifact is not None and isinstance(step.step, TrainStep)
    return step.artifact.manifest.info
