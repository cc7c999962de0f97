"""What it takes to write users' prompts: made ready once per attempt, opened by every actor and by the plan."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.profile.config import Angle, ProfileConfig
from pipeline.profile.histories import Histories
from pipeline.profile.llm.chat import ChatTokenizer
from pipeline.profile.llm.config import LLMConfig
from pipeline.profile.llm.replay import ProfileState, Replayer, Usage
from pipeline.profile.llm.requests import Answer, Author, Failure
from pipeline.profile.prompts.cleaning import Cleaner
from pipeline.profile.prompts.gate import Gate
from pipeline.profile.prompts.item_lines import ItemLines
from pipeline.profile.prompts.prompt_set import PromptSet
from pipeline.profile.prompts.user_facts import UserTable
from pipeline.profile.writing import nothing_to_see
from pipeline.store.artifacts import Artifact
from pipeline.store.columns import ATTRIBUTES, FIELDS, TITLE
from pipeline.work.hub import ModelFiles

_BATCH_ROWS = 8192


@dataclass(frozen=True)
class PromptBuilder:
    """Everything that prompts depend on but the histories and the answers. Picklable; large things go by path."""

    config: ProfileConfig
    llm: LLMConfig
    author: Author
    tokenizer: ModelFiles
    setting: str
    """Names the tokenizer in errors."""
    as_tokens: bool
    """Whether the engine takes prompts as tokens; else as messages."""

    def chat(self) -> ChatTokenizer:
        """The tokenizer, loaded."""
        return ChatTokenizer(self.setting, self.tokenizer)

    def build(self, prepared: Artifact, folder: Path) -> dict[str, int]:
        """Write item lines and user facts below ``folder``; returns facts for the manifest."""
        cleaner = Cleaner(tuple(self.chat().special_tokens))
        items = prepared.storage.read_batches(prepared.relative("items.parquet"), [TITLE, FIELDS], _BATCH_ROWS)
        facts = ItemLines.build(items, folder, self.llm.prompt, cleaner)
        if self.llm.prompt.attributes:
            users = prepared.storage.read_batches(prepared.relative("users.parquet"), [ATTRIBUTES], _BATCH_ROWS)
            UserTable.build(users, folder, self.llm.prompt)
        return facts

    def open(self, folder: Path, attempt: str, answer_of: Callable[[str], Answer | Failure | None]) -> HistoryReplayer:
        """Open what :meth:`build` wrote."""
        chat = self.chat()
        cleaner = Cleaner(tuple(chat.special_tokens))
        prompts = PromptSet.of(self.llm.prompt, self.config.form, cleaner.special_tokens)
        gate = Gate(self.llm.gate, self.llm.prompt, self.config.form, cleaner)
        return HistoryReplayer(self.config, Replayer(self.llm, prompts, gate, chat, self.author, attempt, answer_of),
                               ItemLines.open(folder, self.llm.prompt, cleaner),
                               UserTable.open(folder, self.llm.prompt))


@dataclass(frozen=True)
class HistoryReplayer:
    """Replays the users of a batch of histories."""

    config: ProfileConfig
    replayer: Replayer
    items: ItemLines
    users: UserTable

    def replay(self, histories: Histories, reviews: Sequence[str | None] | None, angle: Angle
               ) -> list[tuple[ProfileState, str]]:
        """Per user: where the profile stands, and a digest of the part of the history that the prompt tells.

        Args:
            histories: of the users; empty ones get a reason.
            reviews: aligned with the interactions.
        """
        rows = np.arange(len(histories.items_M), dtype=np.int32)
        places = Histories(histories.users_N, histories.offsets_N1, rows, histories.signals_M)
        if self.config.recent_items is not None:
            places = places.last(self.config.recent_items)
        seen = places.angle(angle)
        return [self._one(histories, reviews, seen.items_M[seen.offsets_N1[n]:seen.offsets_N1[n + 1]],
                          bool(histories.lengths_N[n]), angle, int(user))
                for n, user in enumerate(histories.users_N)]

    def _one(self, histories: Histories, reviews: Sequence[str | None] | None, rows: np.ndarray, some: bool,
             angle: Angle, user: int) -> tuple[ProfileState, str]:
        items = histories.items_M[rows]
        if not len(rows):
            return ProfileState(Usage(), reason=nothing_to_see(not some, angle)), ""
        if not self.items.known(items).any():
            return ProfileState(Usage(), reason="no item text"), ""
        signals = [None if np.isnan(signal) else float(signal) for signal in histories.signals_M[rows]]
        own = [reviews[row] for row in rows] if reviews is not None else None
        lines = self.items.lines(items, signals, own)
        digest = _digest(items, histories.signals_M[rows])
        return self.replayer.replay(lines, self.items.titles(items), self.users.facts(user), angle), digest


def _digest(items: np.ndarray, signals: np.ndarray) -> str:
    return hashlib.blake2b(items.tobytes() + signals.tobytes(), digest_size=8).hexdigest()
