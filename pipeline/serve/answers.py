"""Questions and their answers, many at a time; and the model behind them, replaced while they go on.

A question holds raw ids. Questions with the same filter are ranked together.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass

from cluster.config import StorageConfig
from cluster.storage import Storage
from configs.errors import ArtifactError, DataError, MentorecError
from pipeline.api.filters import Filter
from pipeline.api.loading import of_folder
from pipeline.api.recommendations import MODEL, POPULARITY, Recommendations
from pipeline.api.recommender import Recommender
from pipeline.train.export import CARD


@dataclass(frozen=True)
class Question:
    """Which ``k`` items come after a history?"""

    history: tuple[str, ...]
    k: int
    filter: Filter


@dataclass(frozen=True)
class Answer:
    """Aligned lists, best first."""

    ids: list[str]
    scores: list[float]
    titles: list[str | None]
    by: str
    """``model`` or ``popularity``."""
    unknown: int
    """Items of the history that the model does not know."""
    model: str
    """Fingerprint of the `train` artifact that answers."""


class Answers:
    """A model that answers, and its successor."""

    def __init__(self, source: str, device: str = "cpu", approximate: bool = False) -> None:
        """
        Raises:
            ArtifactError: no exported folder, a damaged one, or one without the index that approximate lists need.
            ResourceError: a GPU is asked for and not there.
        """
        self._source, self._device, self._approximate = source.rstrip("/"), device, approximate
        self._lock = threading.Lock()
        self._stamp, self._recommender = self._load()

    @property
    def recommender(self) -> Recommender:
        """The model of now."""
        return self._recommender

    @property
    def fingerprint(self) -> str:
        """Of the model of now."""
        return str(self._recommender.card.get("fingerprint", "unknown"))

    def answer(self, questions: Sequence[Question]) -> list[Answer | MentorecError]:
        """One answer per question, in order; a question that cannot be answered gets its error."""
        found: list[Answer | MentorecError] = [DataError("no answer")] * len(questions)
        groups: dict[Filter, list[int]] = {}
        for place, question in enumerate(questions):
            groups.setdefault(question.filter, []).append(place)
        with self._lock:
            recommender, fingerprint = self._recommender, self.fingerprint
            for chosen, places in groups.items():
                histories = [questions[place].history for place in places]
                try:  # a list of k items is the head of every longer one
                    longest = max(questions[place].k for place in places)
                    lists = recommender.recommend(histories, longest, chosen, self._approximate)
                except DataError as exc:
                    for place in places:
                        found[place] = exc
                    continue
                for row, place in enumerate(places):
                    found[place] = _answer(lists, row, questions[place].k, fingerprint)
        return found

    def refresh(self) -> bool:
        """Load the folder's model if it is another one than before; whether it was.

        Raises:
            MentorecError: it cannot be loaded; the old one goes on answering.
        """
        if self._card() == self._stamp:
            return False
        stamp, recommender = self._load()
        with self._lock:
            self._stamp, self._recommender = stamp, recommender
        return True

    def _load(self) -> tuple[bytes, Recommender]:
        stamp, recommender = self._card(), of_folder(self._storage().local(""), self._device)
        if self._approximate:
            recommender.require_index()
        return stamp, recommender

    def _card(self) -> bytes:
        """``model.json``, which an export writes last."""
        storage = self._storage()
        if not storage.exists(CARD):
            raise ArtifactError(f"model: {self._source} holds no {CARD}; legal: a folder or URI that `mentorec export` "
                                "has written")
        return storage.read_bytes(CARD)

    def _storage(self) -> Storage:
        return Storage.from_config(StorageConfig(uri=self._source))


def _answer(lists: Recommendations, row: int, k: int, fingerprint: str) -> Answer:
    items = [item for item in lists.items_NK[row, :k].tolist() if item]
    return Answer([lists.catalogue.ids[item - 1] for item in items], lists.scores_NK[row, : len(items)].tolist(),
                  [lists.catalogue.title(item) for item in items],
                  POPULARITY if lists.popular_N[row] else MODEL, int(lists.unknown_N[row]), fingerprint)
