"""What is asked of the model for one user and angle, and in which order: a generator of prompts.

A history that fits is one prompt. A longer one is divided, and `long_history.strategy` says how the texts of its parts
come together. A part whose answers are all refused is left out, if another part's is not.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass

from configs.errors import ConfigError
from pipeline.profile.llm.chat import ChatTokenizer
from pipeline.profile.llm.config import LLMConfig
from pipeline.profile.llm.dividing import groups, halve, latest, merge_sizes
from pipeline.profile.llm.requests import Kind, Prompt
from pipeline.profile.prompts.prompt_set import Messages, PromptSet
from pipeline.profile.prompts.user_facts import UserFacts

_WIDE = (9999, 9999)
"""A part's number while the division is not known: no number is longer."""
_SLACK_TOKENS = 8
"""Tokens that may come on top where a text meets its fence."""
_SMALL_ITEM = 50
"""Tokens of an item that ought to fit."""
ITEM_TOO_LONG = "one item alone is longer than the token budget"


@dataclass(frozen=True)
class Rejection:
    """There is no profile, and why."""

    reason: str
    final: bool = True
    """False: a text could still come, as a request got no answer."""


Told = str | Rejection
"""A text, or why there is none."""
Steps = Generator[list[Prompt] | Told, list[Told], None]
"""Yields prompts and receives what each has told, as often as need be; last it yields the profile, or a rejection."""


class Conversation:
    """A pure function of the history and the texts that come back, so it can be replayed at any time."""

    def __init__(self, config: LLMConfig, prompts: PromptSet, chat: ChatTokenizer, facts: UserFacts, angle: str
                 ) -> None:
        self._strategy = config.long_history.strategy
        self._budget, self._max_tokens = config.prompt_budget, config.sampling.max_tokens
        self._prompts, self._chat, self._facts, self._angle = prompts, chat, facts, angle
        self.later = 0
        """Bound on the prompts after the first ones, known once these are yielded."""
        self.later_tokens = 0
        """Bound on their tokens."""
        self.left_out = 0
        """Interactions that the strategy `cut` leaves out, or that stand in parts without an accepted answer; known at
        the end."""

    def steps(self, lines: Sequence[str]) -> Steps:
        """The way from a history (one line per interaction, the oldest first; at least one) to its profile.

        Raises:
            ConfigError: no prompt can hold what it must.
        """
        whole = self._leaf(lines, None)
        if len(whole.tokens) <= self._budget:
            yield (yield [whole])[0]
        elif self._strategy == "cut":
            yield from self._latest(lines)
        elif self._strategy == "agg_after":
            yield from self._merged(lines)
        else:
            yield from self._updated(lines)

    def _latest(self, lines: Sequence[str]) -> Steps:
        """One prompt of the latest lines that fit."""
        span = latest(len(lines), lambda s: len(self._leaf(lines[s[0]:s[1]], None).tokens) <= self._budget)
        if span is None:
            yield self._nothing_fits()
            return
        self.left_out = span[0]
        yield (yield [self._leaf(lines[span[0]:], None)])[0]

    def _merged(self, lines: Sequence[str]) -> Steps:
        """A prompt per part; then their texts are merged, level by level, until one is left."""
        spans = halve(len(lines), lambda s: self._tokens("leaf", lines[s[0]:s[1]], _WIDE) <= self._budget)
        if spans is None:
            yield self._nothing_fits()
            return
        base, per_text = self._merge_tokens()
        most = (self._budget - base) // per_text
        if most < 2:
            raise ConfigError(f"profile.engine: a merge of two texts of sampling.max_tokens={self._max_tokens} tokens "
                              f"takes {base + 2 * per_text} tokens, and {self._budget} are there for a prompt; raise "
                              "max_model_len, lower sampling.max_tokens, or take long_history.strategy=agg_with or cut")
        sizes = merge_sizes(len(spans), most)
        self.later = len(sizes)
        self.later_tokens = sum(base + size * per_text for size in sizes)
        told = yield [self._leaf(lines[start:stop], (number, len(spans)))
                      for number, (start, stop) in enumerate(spans, 1)]
        self.left_out = sum(stop - start for (start, stop), text in zip(spans, told, strict=True)
                            if isinstance(text, Rejection))
        texts = [text for text in told if isinstance(text, str)]
        while len(texts) > 1:
            found = groups(len(texts), most)
            told = yield [self._merge(texts[start:stop], base + (stop - start) * per_text)
                          for start, stop in found if stop - start > 1]
            if refused := [text for text in told if isinstance(text, Rejection)]:
                yield refused[0]
                return
            merged = iter([text for text in told if isinstance(text, str)])
            texts = [next(merged) if stop - start > 1 else texts[start] for start, stop in found]
        yield texts[0] if texts else told[0]

    def _updated(self, lines: Sequence[str]) -> Steps:
        """A prompt of the first part; then each further part goes on from the text before."""
        room = self._budget - self._max_tokens - _SLACK_TOKENS
        spans = halve(len(lines), lambda s: self._tokens("update", lines[s[0]:s[1]], _WIDE) <= room)
        if spans is None:
            yield self._nothing_fits()
            return
        parts = [(number, len(spans)) for number in range(1, len(spans) + 1)]
        caps = [self._tokens("update", lines[start:stop], part) + self._max_tokens + _SLACK_TOKENS
                for (start, stop), part in zip(spans, parts, strict=True)]
        self.later = len(spans) - 1
        self.later_tokens = sum(caps[1:])
        told: Told | None = None
        for (start, stop), part, cap in zip(spans, parts, caps, strict=True):
            own = lines[start:stop]
            prompt = self._update(told, own, part, cap) if isinstance(told, str) else self._leaf(own, part)
            answer = (yield [prompt])[0]
            if isinstance(answer, Rejection):
                self.left_out += stop - start
            if not isinstance(told, str) or isinstance(answer, str):
                told = answer
        assert told is not None
        yield told

    def _nothing_fits(self) -> Rejection:
        """Not even one item fits: is it the item or the instructions?"""
        bare = len(self._leaf([], None).tokens)
        if bare + _SMALL_ITEM < self._budget:
            return Rejection(ITEM_TOO_LONG)
        raise ConfigError(f"profile.engine: the instructions alone take {bare} of the {self._budget} tokens there are "
                          "for a prompt; raise max_model_len, or lower sampling.max_tokens")

    # --- prompts ---

    def _leaf(self, lines: Sequence[str], part: tuple[int, int] | None) -> Prompt:
        return self._prompt(self._prompts.leaf(lines, self._facts, self._angle, part), "leaf")

    def _merge(self, texts: Sequence[str], cap: int) -> Prompt:
        def written(limit: int) -> Messages:
            return self._prompts.merge([self._chat.clip(text, limit) for text in texts], self._facts, self._angle)

        return self._within(written, cap, "merge")

    def _update(self, text: str, lines: Sequence[str], part: tuple[int, int], cap: int) -> Prompt:
        def written(limit: int) -> Messages:
            return self._prompts.update(self._chat.clip(text, limit), lines, self._facts, self._angle, part)

        return self._within(written, cap, "update")

    def _within(self, written: Callable[[int], Messages], cap: int, kind: Kind) -> Prompt:
        """The prompt with texts cut so that it keeps to the bound that was planned."""
        limit = self._max_tokens
        prompt = self._prompt(written(limit), kind)
        while len(prompt.tokens) > cap and limit > 1:
            limit = limit * 9 // 10
            prompt = self._prompt(written(limit), kind)
        return prompt

    def _prompt(self, messages: Messages, kind: Kind) -> Prompt:
        return Prompt(messages, self._chat.ids(messages), kind)

    def _tokens(self, kind: Kind, lines: Sequence[str], part: tuple[int, int]) -> int:
        messages = (self._prompts.leaf(lines, self._facts, self._angle, part) if kind == "leaf"
                    else self._prompts.update("x", lines, self._facts, self._angle, part))
        return len(self._chat.ids(messages))

    def _merge_tokens(self) -> tuple[int, int]:
        """Tokens of a merge beside its texts, and of each text with its fence at most."""
        two, three = (len(self._chat.ids(self._prompts.merge(["x"] * n, self._facts, self._angle))) for n in (2, 3))
        fence = three - two + _SLACK_TOKENS
        return two - 2 * (three - two), fence + self._max_tokens
