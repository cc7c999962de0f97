"""A trained model that answers: lists, scores, user vectors, similar items. Raw ids go in and come out.

Legend: N sequences, K list length, D vector width, P items that are scored.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import torch

from configs.errors import DataError, ResourceError, illegal
from models.matmul import HAS_BF16
from models.products import exact_scores
from models.protocols import SequenceEncoder
from models.ranking import SHARD_USERS, Choice, Lists, recommend_found
from models.ranking import recommend as best_lists
from models.scoring import EncoderScorer
from models.sequences import Sequences
from models.threads import on_threads
from pipeline.api.filters import Filter, text_id
from pipeline.api.items import Items
from pipeline.api.nearest import NearestItems
from pipeline.api.recommendations import Recommendations
from pipeline.work.threads import torch_threads

_LARGE_CATALOGUE = 100_000
"""From here on candidates are sought in bf16 where the CPU has it; the lists are the same."""
_KEPT_CHOICES = 4
"""Filtered catalogues that are kept for the next call, each a copy of the vectors it lets through."""
MAX_K = 10_000


class Recommender:
    """A trained encoder and the catalogue that it knows. It holds no state of a user: a history is all it needs.

    Calls do not change it, apart from a cache; use one thread at a time (torch's own threads share the work).
    """

    def __init__(self, encoder: SequenceEncoder, items: Items, card: dict[str, Any] | None = None,
                 device: torch.device | str = "cpu", nearest: NearestItems | None = None) -> None:
        """
        Args:
            encoder: one of ours, or any module that follows ``models.protocols.SequenceEncoder``.
            items: its catalogue.
            card: what is known of the model.
            device: where it reads histories; lists are made on the CPU.
            nearest: an index of its items, for approximate lists.

        Raises:
            DataError: the encoder has another number of items.
            ResourceError: a GPU is asked for and not there.
        """
        if encoder.num_items != len(items):
            raise DataError(illegal("items", len(items), f"{encoder.num_items}, as many as the encoder scores"))
        if torch.device(device).type == "cuda" and not torch.cuda.is_available():
            raise ResourceError(f"device: got {str(device)!r}, and torch sees no GPU here; legal: cpu")
        self.items, self.card, self._nearest = items, dict(card or {}), nearest
        self._scorer = EncoderScorer(encoder, device)
        self._precision: Any = "bf16" if HAS_BF16 and len(items) >= _LARGE_CATALOGUE else "fp32"
        self._choices: dict[Filter, tuple[Choice, int]] = {}

    def recommend(self, sequences: Any, k: int = 10, filter: Filter | None = None, approximate: bool = False
                  ) -> Recommendations:
        """The best ``k`` items after each sequence.

        Args:
            sequences: one sequence of raw item ids per user, in time order: lists, arrays, a polars or Arrow column of
                lists. Unknown items are left out and counted; a sequence without any known item gets the most popular
                items that the filter lets through.
            k: list length, 1…10,000; a list is shorter where the filter leaves fewer items.
            filter: what may be recommended; None: all that the sequence does not hold.
            approximate: look into the index of an exported folder (``mentorec export --ann``); a list may
                miss an item. Lists of a filter by items, categories or days stay exact.

        Raises:
            DataError: bad sequences, ``k`` or filter; one line names the value and what is legal. Or ``approximate``
                and no index.
            TrainingError: the model's numbers are not finite.
        """
        indexed = self.items.indexed(sequences)
        return self.recommend_indexed(indexed.sequences, indexed.unknown_N, k, filter, approximate)

    def recommend_indexed(self, sequences: Sequences, unknown_N: np.ndarray, k: int = 10, filter: Filter | None = None,
                          approximate: bool = False) -> Recommendations:
        """:meth:`recommend` for sequences of items 1…n; ``unknown_N``: items that were left out of each, int32."""
        if isinstance(k, bool) or not isinstance(k, (int, np.integer)) or not 1 <= k <= MAX_K:
            raise DataError(illegal("k", k, f"a whole number, 1…{MAX_K:,}"))
        if approximate:
            self.require_index()
        asked = filter or Filter()
        choice, strange = self._choice(asked)
        nearest = self._nearest if approximate and choice is None else None

        def of_shard(start: int) -> Lists:  # the shards of `evaluate`, so that lists are its own to the last bit
            if nearest is not None:
                return recommend_found(self._scorer, sequences.part(start, start + SHARD_USERS), int(k), nearest.search,
                                       filter_seen=asked.seen)
            return best_lists(self._scorer, sequences.part(start, start + SHARD_USERS), int(k),
                              filter_seen=asked.seen, precision=self._precision, choice=choice)

        starts = list(range(0, len(sequences), SHARD_USERS))
        parts = _in_order(of_shard, starts) if nearest is None else [of_shard(start) for start in starts]
        items_NK = np.concatenate([np.zeros((0, k), np.int32), *(part.items_NK for part in parts)])
        scores_NK = np.concatenate([np.zeros((0, k)), *(part.scores_NK for part in parts)]).astype(np.float32)
        popular_N = sequences.lengths == 0
        if popular_N.any():
            items_NK[popular_N], scores_NK[popular_N] = self._popular(choice, int(k))
        return Recommendations(items_NK, scores_NK, popular_N, unknown_N, strange, self.items)

    def require_index(self) -> None:
        """Raise DataError where approximate lists cannot be had."""
        if self._nearest is None:
            raise DataError("approximate: no index of the model's items was found; legal: a folder that `mentorec "
                            "export --ann` has written, with the extra `ann` installed; or approximate=false")

    def score(self, sequence: Iterable[object], items: Iterable[object]) -> np.ndarray:
        """Scores of chosen items after one sequence, float32 [P]: inner products, comparable within the sequence.

        Unknown items of the sequence are left out; an unknown item's score is NaN.

        Raises:
            DataError: the model knows no item of the sequence, or an id is neither text nor a whole number.
        """
        known = self.items.indexed([list(sequence)]).sequences
        if not len(known.values):
            raise DataError("score: the model knows no item of the sequence, so it has nothing to score by; "
                            "recommend() answers such a sequence by popularity")
        columns_P = np.array([self.items.index_of.get(text_id(raw), 0) for raw in items], np.int64) - 1
        scores_P = np.full(len(columns_P), np.nan, np.float32)
        there = np.flatnonzero(columns_P >= 0)
        with torch_threads(1):
            states_1D = self._scorer.states(known, np.zeros(1, np.int64)).cpu()
        scores_P[there] = exact_scores(states_1D, self._scorer.catalogue(0).items_VD, np.zeros(len(there), np.int64),
                                       columns_P[there])
        return scores_P

    def user_vectors(self, sequences: Any) -> np.ndarray:
        """The state that scores each user's next item, float32 [N, D]; NaN where the model knows no item."""
        return self.indexed_vectors(self.items.indexed(sequences).sequences)

    def indexed_vectors(self, sequences: Sequences) -> np.ndarray:
        """:meth:`user_vectors` for sequences of items 1…n."""
        vectors_ND = self._scorer.states(sequences, np.arange(len(sequences))).cpu().numpy()
        vectors_ND[sequences.lengths == 0] = np.nan
        return vectors_ND

    def similar_items(self, item: object, k: int = 10) -> pl.DataFrame:
        """The ``k`` items whose vectors lie closest to an item's, itself left out: item_id, cosine, title.

        Raises:
            DataError: an unknown item, or ``k`` below 1.
        """
        if k < 1:
            raise DataError(illegal("k", k, "1 or more"))
        index = self.items.find(item)
        items_VD = self._scorer.catalogue(0).items_VD
        cosine_V = torch.nn.functional.cosine_similarity(items_VD, items_VD[index - 1 : index], dim=1)
        cosine_V[index - 1] = -torch.inf
        best = cosine_V.topk(min(k, len(cosine_V) - 1))
        found = [place + 1 for place in best.indices.tolist()]
        return pl.DataFrame({"item_id": pl.Series([self.items.ids[i - 1] for i in found], dtype=pl.String),
                             "cosine": pl.Series(best.values.tolist(), dtype=pl.Float32),
                             "title": pl.Series([self.items.title(i) for i in found], dtype=pl.String)})

    def _choice(self, asked: Filter) -> tuple[Choice | None, int]:
        """The catalogue that a filter leaves, None: all of it; and unknown ids of the filter."""
        if asked.whole_catalogue:
            return None, 0
        key = replace(asked, seen=True)
        if key not in self._choices:
            items_C, strange = self.items.among(key)
            while len(self._choices) >= _KEPT_CHOICES:
                self._choices.pop(next(iter(self._choices)))
            self._choices[key] = Choice.of(self._scorer, items_C), strange
        return self._choices[key]

    def _popular(self, choice: Choice | None, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The most popular items that may be recommended and their counts, [K] each."""
        ordered = self.items.popular_V
        if choice is not None:
            ordered = ordered[np.isin(ordered, choice.items_C)]
        items_K, scores_K = np.zeros(k, np.int32), np.full(k, np.nan, np.float32)
        items_K[: len(ordered[:k])] = ordered[:k]
        scores_K[: len(ordered[:k])] = self.items.counts_V[ordered[:k] - 1]
        return items_K, scores_K


def _in_order(work: Any, starts: list[int]) -> list[Lists]:
    """A shard per thread; each is computed by one thread, as `evaluate` does it."""
    if len(starts) > 1:
        return on_threads(work, starts)
    with torch_threads(1):
        return [work(start) for start in starts]
