"""Ranking of the validation users during training: sharded over ranks, the same figures for any number of them.

Legend: N cases.
"""

from __future__ import annotations

import numpy as np
import torch

from configs.errors import TrainingError
from models import metrics
from models.base import Student
from models.profile_reader import ProfileReader, ReadingScorer, ReadingStudent
from models.protocols import SequenceEncoder
from models.ranking import rank_users
from models.scoring import EncoderScorer
from models.sequences import Cases
from pipeline.train.config import TrainConfig
from pipeline.train.seeds import Stream, generator
from pipeline.train.session import sum_ranks

BLOCK_CASES = 512
"""Cases are ranked in fixed blocks that ranks take in turn, so a block's arithmetic is the same on any rank."""
ITEM_CHUNK = 8192
CUTOFFS = (5, 10, 20)


class Validator:
    """Recall, NDCG and MRR of an encoder on the validation users, or on a seeded sample of them."""

    def __init__(self, cases: Cases, config: TrainConfig, seed: int, rank: int, world_size: int) -> None:
        chosen_N = np.arange(len(cases))
        if config.validation_users is not None and config.validation_users < len(cases):
            rng = generator(seed, Stream.VALIDATION_SAMPLE)
            chosen_N = rng.choice(len(cases), config.validation_users, replace=False)
        chunk = (cases.targets[chosen_N] - 1) // ITEM_CHUNK
        chosen_N = chosen_N[np.lexsort((chosen_N, cases.histories.lengths_of(chosen_N), chunk))]
        self.num_cases = len(chosen_N)
        self._filter_seen = config.filter_seen
        self._blocks = [(start, cases.take(chosen_N[start : start + BLOCK_CASES]))
                        for start in range(rank * BLOCK_CASES, len(chosen_N), world_size * BLOCK_CASES)]

    def __call__(self, encoder: SequenceEncoder, device: torch.device, reader: ProfileReader | None = None
                 ) -> dict[str, float]:
        """``recall@5`` … ``mrr@20``, equal on every rank; every rank must call it.

        Args:
            encoder: the student.
            device: to encode on.
            reader: what it reads of the users' profiles.

        Raises:
            TrainingError: a score of some rank's users is NaN or infinite; every rank raises it.
        """
        ranks_N = np.zeros(self.num_cases, np.int64)
        trouble: TrainingError | None = None
        try:
            if reader is None:
                self._rank(EncoderScorer(encoder, device), ranks_N)
            else:
                assert isinstance(encoder, Student)
                self._rank(ReadingScorer(ReadingStudent(encoder, reader), device), ranks_N)
        except TrainingError as exc:
            trouble = exc
        if sum_ranks(np.array([trouble is not None], np.int64))[0]:  # the others must not wait for this one's ranks
            raise trouble or TrainingError("validation: another worker's scores are NaN or infinite")
        return metrics.mean(metrics.per_user(sum_ranks(ranks_N), CUTOFFS))

    def _rank(self, scorer: EncoderScorer, ranks_N: np.ndarray) -> None:
        for start, cases in self._blocks:
            if isinstance(scorer, ReadingScorer):
                scorer.give(cases.histories, cases.users)
            found = rank_users(scorer, cases, batch_users=BLOCK_CASES, item_chunk=ITEM_CHUNK, top_k=0)
            ranks_N[start : start + len(cases)] = found.rank if self._filter_seen else found.rank_unfiltered
