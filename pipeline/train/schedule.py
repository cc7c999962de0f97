"""What changes over the optimizer steps: the phase, α and the learning rate. Pure functions of the step."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pipeline.train.config import Arm, TrainConfig


@dataclass(frozen=True)
class Schedule:
    """The two phases of ECIR'26, eq. 6, counted in optimizer steps from 0. Every arm has the same phases."""

    config: TrainConfig
    arm: Arm
    steps_per_epoch: int

    @property
    def switch_step(self) -> int:
        """First step of the fine-tuning phase."""
        return self.config.distill_epochs * self.steps_per_epoch

    def distils(self, step: int) -> bool:
        """Whether eq. 5 holds at this step (first phase of an arm with a teacher)."""
        return self.arm != "plain" and step < self.switch_step

    def alpha(self, step: int) -> float:
        """α of eq. 5; 0 where nothing is distilled. Decaying schedules reach 0 at the switch."""
        if not self.distils(step):
            return 0.0
        passed = step / self.switch_step
        if self.config.alpha_schedule == "linear":
            return self.config.alpha * (1.0 - passed)
        if self.config.alpha_schedule == "cosine":
            return self.config.alpha * 0.5 * (1.0 + math.cos(math.pi * passed))
        return self.config.alpha

    def matches(self, step: int) -> bool:
        """Whether the step learns from the ensemble."""
        ensemble = self.config.ensemble
        return ensemble is not None and (ensemble.epochs is None or step < ensemble.epochs * self.steps_per_epoch)

    def learning_rate(self, step: int) -> float:
        """Linear warm-up to the phase's rate, which the schedule then lowers. The warm-up starts over with a fresh
        optimizer at the switch."""
        optimizer = self.config.optimizer
        tuning = step >= self.switch_step
        rate = self.config.finetune_lr if tuning and self.config.finetune_lr is not None else optimizer.lr
        age = step - self.switch_step if tuning and self.config.switch_optimizer == "reset" else step
        if optimizer.schedule == "cosine":
            rate *= 0.5 * (1.0 + math.cos(math.pi * step / (self.config.epochs * self.steps_per_epoch)))
        return rate * min(1.0, (age + 1) / optimizer.warmup_steps) if optimizer.warmup_steps else rate

    def fresh_optimizer(self, epoch: int) -> bool:
        """Whether AdamW starts anew before this epoch (from 0)."""
        return self.config.switch_optimizer == "reset" and epoch == self.config.distill_epochs and epoch > 0
