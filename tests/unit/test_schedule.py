"""Phases, α and learning rate as functions of the step; which epoch is kept."""

from __future__ import annotations

from math import cos, pi
from typing import Any

import pytest

from pipeline.train.checkpoint import Progress
from pipeline.train.config import OptimizerConfig, TrainConfig
from pipeline.train.schedule import Schedule
from pipeline.train.selection import Selection

STEPS = 10


def schedule(arm: Any = "distilled", **fields: Any) -> Schedule:
    return Schedule(TrainConfig(**{"epochs": 6, "distill_epochs": 2, "alpha": 0.6} | fields), arm, STEPS)


def test_alpha_is_zero_after_the_switch() -> None:
    constant = schedule()
    assert [constant.alpha(s) for s in (0, 19, 20, 59)] == [0.6, 0.6, 0.0, 0.0]
    assert constant.distils(19) and not constant.distils(20)


def test_decaying_alpha_starts_whole_and_reaches_zero_at_the_switch() -> None:
    linear, cosine = schedule(alpha_schedule="linear"), schedule(alpha_schedule="cosine")
    assert linear.alpha(0) == cosine.alpha(0) == 0.6
    assert linear.alpha(5) == pytest.approx(0.6 * (1 - 5 / 20))
    assert cosine.alpha(5) == pytest.approx(0.6 * 0.5 * (1 + cos(pi * 5 / 20)))
    assert linear.alpha(20) == cosine.alpha(20) == 0.0


def test_the_plain_arm_has_no_alpha_and_the_same_phases() -> None:
    plain, distilled = (schedule(arm, finetune_lr=1e-4, switch_optimizer="reset") for arm in ("plain", "distilled"))
    assert [plain.alpha(s) for s in range(60)] == [0.0] * 60
    assert [plain.learning_rate(s) for s in range(60)] == [distilled.learning_rate(s) for s in range(60)]
    assert [plain.fresh_optimizer(e) for e in range(6)] == [distilled.fresh_optimizer(e) for e in range(6)]


def test_warm_up_is_linear() -> None:
    warming = schedule(optimizer=OptimizerConfig(lr=1e-3, warmup_steps=4))
    assert [warming.learning_rate(s) for s in range(5)] == pytest.approx([1e-3 * k / 4 for k in (1, 2, 3, 4, 4)])


def test_the_fine_tuning_rate_starts_at_the_switch() -> None:
    slower = schedule(finetune_lr=1e-4)
    assert slower.learning_rate(19) == 1e-3
    assert slower.learning_rate(20) == 1e-4


def test_a_fresh_optimizer_warms_up_again() -> None:
    fields: dict[str, Any] = {"optimizer": OptimizerConfig(lr=1e-3, warmup_steps=4), "finetune_lr": 1e-4}
    assert schedule(**fields).learning_rate(20) == 1e-4
    assert schedule(**fields, switch_optimizer="reset").learning_rate(20) == pytest.approx(1e-4 / 4)


def test_the_optimizer_is_fresh_only_at_a_switch() -> None:
    assert [schedule(switch_optimizer="reset").fresh_optimizer(e) for e in range(4)] == [False, False, True, False]
    assert not any(schedule(switch_optimizer="keep").fresh_optimizer(e) for e in range(4))
    assert not schedule(switch_optimizer="reset", distill_epochs=0).fresh_optimizer(0)


def run(values: list[float | None], cases: int = 10, **fields: Any) -> Progress:
    """Feed one validation value per epoch (None: not validated) until training stops."""
    config = TrainConfig(**{"epochs": len(values), "distill_epochs": 2, "validation_metric": "ndcg@10"} | fields)
    selection, progress = Selection(config, cases), Progress("x")
    for value in values:
        progress.epochs += 1
        selection.update(progress, {} if value is None else {"ndcg@10": value})
        if progress.stopped_early:
            break
    return progress


def test_the_best_epoch_is_chosen_after_the_switch_only() -> None:
    progress = run([0.9, 0.8, 0.1, 0.3, 0.2])
    assert (progress.best_epoch, progress.best_metrics) == (4, {"ndcg@10": 0.3})
    assert [(h["epoch"], h["phase"]) for h in progress.history] == [(1, 1), (2, 1), (3, 2), (4, 2), (5, 2)]


def test_of_equal_epochs_the_first_is_kept() -> None:
    assert run([0.0, 0.0, 0.2, 0.2, 0.2]).best_epoch == 3


def test_early_stopping_counts_after_the_switch_only() -> None:
    patience: dict[str, Any] = {"early_stopping": {"patience_epochs": 2}}
    progress = run([0.9, 0.8, 0.3, 0.2, 0.1, 0.0, 0.0], **patience)
    assert progress.stopped_early and progress.epochs == 5 and progress.best_epoch == 3
    assert not run([0.9, 0.8, 0.3, 0.2, 0.4, 0.3], **patience).stopped_early


def test_early_stopping_counts_after_an_ensembles_phase_too() -> None:
    fields: dict[str, Any] = {"early_stopping": {"patience_epochs": 2}, "distill_epochs": 0,
                              "ensemble": {"members": [{"arm": "plain"}], "epochs": 4}}
    progress = run([0.5, 0.4, 0.3, 0.2, 0.1, 0.6, 0.5, 0.4, 0.3], **fields)
    assert progress.stopped_early and (progress.epochs, progress.best_epoch) == (8, 6)
    worse = run([0.5, 0.4, 0.3, 0.2, 0.1, 0.1, 0.6], **fields)
    assert worse.stopped_early and (worse.epochs, worse.best_epoch) == (6, 1)


def test_small_gains_are_kept_but_do_not_extend_the_patience() -> None:
    progress = run([0, 0, 0.30, 0.305, 0.309, 0.5], early_stopping={"patience_epochs": 2, "min_delta": 0.01})
    assert progress.stopped_early and progress.epochs == 5 and progress.best_epoch == 5


def test_epochs_without_validation_change_nothing() -> None:
    progress = run([None, 0.5, None, 0.2, None, 0.1], early_stopping={"patience_epochs": 2})
    assert progress.best_epoch == 4 and not progress.stopped_early


def test_the_last_epoch_is_kept_for_upstream_and_without_validation_users() -> None:
    assert run([0.5, 0.4, 0.3, 0.2], compat="upstream", early_stopping={"patience_epochs": 0}).best_epoch == 4
    assert run([None] * 4, cases=0).best_epoch == 4
