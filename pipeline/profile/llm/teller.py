"""One user's way from history to profile: a pure function of the history and the answers that are known.

It is played anew in every pass. What is not answered yet is asked for; when nothing is wanted any more, the profile or
the reason for its absence stands. So a killed run, a retry and a refresh are all the same: play again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from configs.errors import ConfigError
from pipeline.profile.llm.chat import ChatTokenizer
from pipeline.profile.llm.config import LLMConfig
from pipeline.profile.llm.dividing import Span, groups, halve, latest, merge_sizes
from pipeline.profile.llm.requests import Answer, Author, Failure, Kind, Request
from pipeline.profile.prompts.gate import Gate
from pipeline.profile.prompts.prompt_set import Messages, PromptSet
from pipeline.profile.prompts.user_facts import UserFacts

_WIDE = (9999, 9999)
"""A part's number while the division is not known: no number is longer."""
_SLACK_TOKENS = 8
"""Tokens that may come on top where a text meets its fence."""
_SMALL_ITEM = 50
"""Tokens of an item that ought to fit."""
ITEM_TOO_LONG = "one item alone is longer than the token budget"
NO_ANSWER = "no answer"


@dataclass
class Spent:
    """What a profile took so far."""

    first: int = 0
    """Requests of the first pass."""
    first_known: int = 0
    """Of them, answered before."""
    first_tokens: int = 0
    requests: int = 0
    """Answered requests, retries included."""
    reused: int = 0
    """Of them, asked for by another attempt than this one."""
    retried: int = 0
    prompt_tokens: int = 0
    output_tokens: int = 0
    refusals: list[str] = field(default_factory=list)
    """Why answers were asked for again, or rejected in the end."""
    later: int = 0
    """Bound on the requests after the first pass, retries apart."""
    later_tokens: int = 0
    """Bound on their prompt tokens."""
    leaf_keys: list[str] = field(default_factory=list)
    left_out: int = 0
    """Interactions that the strategy `cut` does not tell."""


@dataclass(frozen=True)
class Told:
    """Where a profile stands: a text, a reason, or requests that must be answered first."""

    text: str | None
    reason: str | None
    wanted: tuple[Request, ...]
    spent: Spent


class _Unanswered(Exception):
    def __init__(self, wanted: list[Request]) -> None:
        self.wanted = wanted


class _Rejected(Exception):
    pass


@dataclass(frozen=True)
class Teller:
    """Plays users. Stateless but for its lookups."""

    config: LLMConfig
    prompts: PromptSet
    gate: Gate
    chat: ChatTokenizer
    author: Author
    attempt: str
    """Of the artifact that is being made."""
    answer_of: Callable[[str], Answer | Failure | None]

    def tell(self, lines: Sequence[str], titles: Sequence[str], facts: UserFacts, angle: str) -> Told:
        """Play one user and angle.

        Args:
            lines: of the history as the angle sees it, the oldest first; at least one.
            titles: what the profile may not name.
        """
        play = _Play(self, titles, facts, angle)
        try:
            return Told(play.profile(lines), None, (), play.spent)
        except _Rejected as exc:
            return Told(None, str(exc), (), play.spent)
        except _Unanswered as exc:
            return Told(None, None, tuple(exc.wanted), play.spent)


class _Play:
    """One user and angle in one pass."""

    def __init__(self, teller: Teller, titles: Sequence[str], facts: UserFacts, angle: str) -> None:
        self._t = teller
        self._titles, self._facts, self._angle = titles, facts, angle
        self._budget = teller.config.prompt_budget
        self._max_tokens = teller.config.sampling.max_tokens
        self.spent = Spent()

    def profile(self, lines: Sequence[str]) -> str:
        whole = self._leaf(lines, None)
        if len(whole.tokens) <= self._budget:
            return self._first([whole])[0]
        strategy = self._t.config.long_history.strategy
        if strategy == "cut":
            return self._first([self._cut(lines)])[0]
        return self._merged(lines) if strategy == "agg_after" else self._updated(lines)

    def _cut(self, lines: Sequence[str]) -> Request:
        span = latest(len(lines), lambda s: len(self._leaf(lines[s[0]:s[1]], None).tokens) <= self._budget)
        if span is None:
            raise self._too_long()
        self.spent.left_out = span[0]
        return self._leaf(lines[span[0]:], None)

    def _merged(self, lines: Sequence[str]) -> str:
        spans = self._divide(len(lines), lambda s: self._tokens("leaf", lines[s[0]:s[1]], _WIDE) <= self._budget)
        base, per_text = self._merge_tokens()
        most = (self._budget - base) // per_text
        if most < 2:
            raise ConfigError(f"profile.engine: a merge of two texts of sampling.max_tokens={self._max_tokens} tokens "
                              f"takes {base + 2 * per_text} tokens, and {self._budget} are there for a prompt; raise "
                              "max_model_len, lower sampling.max_tokens, or take long_history.strategy=agg_with or cut")
        sizes = merge_sizes(len(spans), most)
        self.spent.later = len(sizes)
        self.spent.later_tokens = sum(base + size * per_text for size in sizes)
        texts = self._first([self._leaf(lines[start:stop], (number, len(spans)))
                             for number, (start, stop) in enumerate(spans, 1)])
        while len(texts) > 1:
            texts = self._answers([self._merge(texts[start:stop], base + (stop - start) * per_text)
                                   if stop - start > 1 else texts[start] for start, stop in groups(len(texts), most)])
        return texts[0]

    def _updated(self, lines: Sequence[str]) -> str:
        room = self._budget - self._max_tokens - _SLACK_TOKENS
        spans = self._divide(len(lines), lambda s: self._tokens("update", lines[s[0]:s[1]], _WIDE) <= room)
        parts = [(number, len(spans)) for number in range(1, len(spans) + 1)]
        caps = [self._tokens("update", lines[start:stop], part) + self._max_tokens + _SLACK_TOKENS
                for (start, stop), part in zip(spans, parts, strict=True)]
        self.spent.later = len(spans) - 1
        self.spent.later_tokens = sum(caps[1:])
        start, stop = spans[0]
        text = self._first([self._leaf(lines[start:stop], parts[0])])[0]
        for (start, stop), part, cap in zip(spans[1:], parts[1:], caps[1:], strict=True):
            text = self._answers([self._update(text, lines[start:stop], part, cap)])[0]
        return text

    def _divide(self, count: int, fits: Callable[[Span], bool]) -> list[Span]:
        spans = halve(count, fits)
        if spans is None:
            raise self._too_long()
        return spans

    def _too_long(self) -> Exception:
        """Not even one item fits: is it the item or the instructions?"""
        bare = len(self._leaf([], None).tokens)
        if bare + _SMALL_ITEM < self._budget:
            return _Rejected(ITEM_TOO_LONG)
        return ConfigError(f"profile.engine: the instructions alone take {bare} of the {self._budget} tokens there are "
                           "for a prompt; raise max_model_len, or lower sampling.max_tokens")

    # --- prompts ---

    def _leaf(self, lines: Sequence[str], part: tuple[int, int] | None) -> Request:
        return self._request(self._t.prompts.leaf(lines, self._facts, self._angle, part), "leaf")

    def _merge(self, texts: Sequence[str], cap: int) -> Request:
        def written(limit: int) -> Messages:
            return self._t.prompts.merge([self._t.chat.clip(text, limit) for text in texts], self._facts, self._angle)

        return self._within(written, cap, "merge")

    def _update(self, text: str, lines: Sequence[str], part: tuple[int, int], cap: int) -> Request:
        def written(limit: int) -> Messages:
            return self._t.prompts.update(self._t.chat.clip(text, limit), lines, self._facts, self._angle, part)

        return self._within(written, cap, "update")

    def _within(self, written: Callable[[int], Messages], cap: int, kind: Kind) -> Request:
        """The prompt with texts cut so that it keeps to the bound that was planned."""
        limit = self._max_tokens
        request = self._request(written(limit), kind)
        while len(request.tokens) > cap and limit > 1:
            limit = limit * 9 // 10
            request = self._request(written(limit), kind)
        return request

    def _tokens(self, kind: Kind, lines: Sequence[str], part: tuple[int, int]) -> int:
        prompts = self._t.prompts
        messages = (prompts.leaf(lines, self._facts, self._angle, part) if kind == "leaf"
                    else prompts.update("x", lines, self._facts, self._angle, part))
        return len(self._t.chat.ids(messages))

    def _merge_tokens(self) -> tuple[int, int]:
        """Tokens of a merge beside its texts, and of each text with its fence at most."""
        two, three = (len(self._t.chat.ids(self._t.prompts.merge(["x"] * n, self._facts, self._angle)))
                      for n in (2, 3))
        fence = three - two + _SLACK_TOKENS
        return two - 2 * (three - two), fence + self._max_tokens

    def _request(self, messages: Messages, kind: Kind, seed: int | None = None) -> Request:
        seed = self._t.config.sampling.seed if seed is None else seed
        return Request("", messages, self._t.chat.ids(messages), seed, kind)

    # --- answers ---

    def _first(self, requests: list[Request]) -> list[str]:
        """The answers to the first pass, counted."""
        author, seed = self._t.author, self._t.config.sampling.seed
        self.spent.leaf_keys = [author.key(request.messages, seed) for request in requests]
        self.spent.first = len(requests)
        self.spent.first_tokens = sum(len(request.tokens) for request in requests)
        self.spent.first_known = sum(isinstance(self._t.answer_of(key), Answer) for key in self.spent.leaf_keys)
        return self._answers(requests)

    def _answers(self, asked: Sequence[Request | str]) -> list[str]:
        """The texts of all requests; texts pass through.

        Raises:
            _Unanswered: some are not answered yet.
            _Rejected: one has no good answer.
        """
        texts: list[str] = []
        wanted: list[Request] = []
        for request in asked:
            if isinstance(request, str):
                texts.append(request)
                continue
            found = self._answer(request)
            if isinstance(found, Request):
                wanted.append(found)
            else:
                texts.append(found)
        if wanted:
            raise _Unanswered(wanted)
        return texts

    def _answer(self, request: Request) -> str | Request:
        """The first answer that passes the gate, or the request that must be answered next."""
        reason = ""
        for retry in range(self._t.config.gate.retries + 1):
            seed = request.seed + retry
            key = self._t.author.key(request.messages, seed)
            found = self._t.answer_of(key)
            if found is None:
                return Request(key, request.messages, request.tokens, seed, request.kind)
            self.spent.requests += 1
            self.spent.retried += retry > 0
            if isinstance(found, Failure):
                reason = f"{NO_ANSWER}: {found.error}"
            else:
                self.spent.reused += found.attempt != self._t.attempt
                self.spent.prompt_tokens += found.prompt_tokens
                self.spent.output_tokens += found.output_tokens
                verdict = self._t.gate.check(found.text, found.finish_reason, self._titles)
                if verdict.text is not None:
                    return verdict.text
                reason = str(verdict.reason)
            self.spent.refusals.append(NO_ANSWER if isinstance(found, Failure) else reason)
        raise _Rejected(reason)
