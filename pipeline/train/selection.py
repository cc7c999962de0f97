"""Which epoch is kept and when to stop: on validation, in the fine-tuning phase only."""

from __future__ import annotations

from pipeline.train.checkpoint import Progress
from pipeline.train.config import TrainConfig


class Selection:
    """Keeps the epoch with the best validation metric; stops after ``patience_epochs`` without a better one.

    The last epoch is kept with ``compat: upstream``, and where there is nobody to validate on.
    """

    def __init__(self, config: TrainConfig, num_cases: int) -> None:
        self._config = config
        self._keep_last = config.compat == "upstream" or num_cases == 0

    def phase(self, epoch: int) -> int:
        """1: distillation, 2: fine-tuning; epochs count from 1."""
        return 1 if epoch <= self._config.distill_epochs else 2

    def update(self, progress: Progress, validated: dict[str, float]) -> bool:
        """Note the epoch that has just ended and its validation metrics (empty: not validated).

        Returns:
            Whether the present weights are the ones to keep.
        """
        phase = self.phase(progress.epochs)
        if validated:
            progress.history.append({"epoch": progress.epochs, "phase": phase, **validated})
        better = bool(validated) and phase == 2 and self._is_better(progress, validated)
        if better or self._keep_last:
            progress.best_epoch, progress.best_metrics = progress.epochs, validated or None
        return better or self._keep_last

    def _is_better(self, progress: Progress, validated: dict[str, float]) -> bool:
        stopping, value = self._config.early_stopping, validated[self._config.validation_metric]
        if progress.reference is None or value > progress.reference + stopping.min_delta:
            progress.reference, progress.stale = value, 0
        elif progress.epochs > self._config.last_switch:
            progress.stale += 1
            progress.stopped_early = 0 < stopping.patience_epochs <= progress.stale
        best = progress.best_metrics
        return best is None or value > best[self._config.validation_metric]
