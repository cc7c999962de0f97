"""A user's conversation replayed against the answers that are known: as far as they reach.

Every pass replays it from the start. What is not answered yet is asked for; when nothing is wanted any more, the
profile or the reason for its absence stands. So a killed run, a retry and a refresh are all the same: replay.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from pipeline.profile.llm.chat import ChatTokenizer
from pipeline.profile.llm.config import LLMConfig
from pipeline.profile.llm.conversation import Conversation, Rejection, Told
from pipeline.profile.llm.requests import Answer, Author, Failure, Prompt, Request
from pipeline.profile.prompts.gate import Gate
from pipeline.profile.prompts.prompt_set import PromptSet
from pipeline.profile.prompts.user_facts import UserFacts
from pipeline.profile.remedies import NO_ANSWER


@dataclass
class Usage:
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
    reasoning: int = 0
    """Answers that held the model's reasoning, which was cut."""
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
    """Interactions that the profile could not tell of, see ``Conversation.left_out``."""


@dataclass(frozen=True)
class ProfileState:
    """Where a profile stands: a text, a reason, or requests that must be answered first."""

    usage: Usage
    text: str | None = None
    reason: str | None = None
    wanted: tuple[Request, ...] = ()


@dataclass(frozen=True)
class Replayer:
    """Replays users. Stateless but for its lookups."""

    config: LLMConfig
    prompts: PromptSet
    gate: Gate
    chat: ChatTokenizer
    author: Author
    attempt: str
    """Of the artifact that is being made."""
    answer_of: Callable[[str], Answer | Failure | None]

    def replay(self, lines: Sequence[str], titles: Sequence[str], facts: UserFacts, angle: str) -> ProfileState:
        """Replay one user and angle.

        Args:
            lines: of the history as the angle sees it, the oldest first; at least one.
            titles: what the profile may not name.

        Raises:
            ConfigError: the context window cannot hold a prompt.
        """
        conversation = Conversation(self.config, self.prompts, self.chat, facts, angle)
        steps = conversation.steps(lines)
        step = next(steps)
        usage = Usage(later=conversation.later, later_tokens=conversation.later_tokens)
        if isinstance(step, list):
            self._count_first(step, usage)
        while isinstance(step, list):
            told: list[Told] = []
            wanted: list[Request] = []
            for prompt in step:
                answer = self._accepted(prompt, titles, usage)
                if isinstance(answer, Rejection) and not answer.final:
                    return ProfileState(usage, reason=answer.reason)
                if isinstance(answer, Request):
                    wanted.append(answer)
                else:
                    told.append(answer)
            if wanted:
                return ProfileState(usage, wanted=tuple(wanted))
            step = steps.send(told)
        usage.left_out = conversation.left_out
        if isinstance(step, Rejection):
            return ProfileState(usage, reason=step.reason)
        return ProfileState(usage, text=step)

    def _accepted(self, prompt: Prompt, titles: Sequence[str], usage: Usage) -> str | Request | Rejection:
        """The first answer that passes the gate; else the request that must be answered next, or why none passed."""
        rejection = Rejection("")
        for retry in range(self.config.gate.retries + 1):
            seed = self.config.sampling.seed + retry
            key = self.author.key(prompt.messages, seed)
            answer = self.answer_of(key)
            if answer is None:
                return Request(key, seed, prompt)
            usage.requests += 1
            usage.retried += retry > 0
            if isinstance(answer, Failure):
                rejection = Rejection(f"{NO_ANSWER}: {answer.error}", final=False)
                usage.refusals.append(NO_ANSWER)
                continue
            usage.reused += answer.attempt != self.attempt
            usage.prompt_tokens += answer.prompt_tokens
            usage.output_tokens += answer.output_tokens
            verdict = self.gate.check(answer.text, answer.finish_reason, titles)
            usage.reasoning += verdict.reasoning
            if verdict.text is not None:
                return verdict.text
            rejection = Rejection(str(verdict.reason))
            usage.refusals.append(rejection.reason)
        return rejection

    def _count_first(self, prompts: Sequence[Prompt], usage: Usage) -> None:
        usage.leaf_keys = [self.author.key(prompt.messages, self.config.sampling.seed) for prompt in prompts]
        usage.first = len(prompts)
        usage.first_tokens = sum(len(prompt.tokens) for prompt in prompts)
        usage.first_known = sum(isinstance(self.answer_of(key), Answer) for key in usage.leaf_keys)
