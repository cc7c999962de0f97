"""What profiles will take: requests, tokens, hours, money. First passes are counted, the rest is bounded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from configs.errors import ResourceError
from pipeline.profile.llm.config import LLMConfig
from pipeline.profile.llm.replay import Usage
from pipeline.profile.llm.requests import LENGTH

_OF_USERS = ("first", "first_known", "first_tokens", "later", "later_tokens")
"""What a user's :class:`Usage` and an estimate both count."""


@dataclass(frozen=True)
class Estimate:
    """Sums over users; the bounds hold whatever the model answers."""

    retries: int
    max_tokens: int
    tokens_per_second: float | None
    measured: bool
    """Whether the speed is that of the ledger's latest answers; else it is the configuration's."""
    price_per_hour: float | None
    gpus: float
    """0: none is counted, hours are those of the endpoint or the machine."""
    price_per_token: tuple[float, float] | None
    """Of prompts and of answers, where tokens are paid for."""
    first: int = 0
    """Requests of the first pass."""
    first_known: int = 0
    """Of them, answered in the ledger."""
    first_tokens: int = 0
    """Prompt tokens of all requests of the first pass, exact."""
    asked: int = 0
    """Requests that are to be asked next, exact: what several users want is asked once."""
    asked_tokens: int = 0
    """Their prompt tokens, exact."""
    later: int = 0
    """Bound on the requests of merges and updates."""
    later_tokens: int = 0
    """Bound on their prompt tokens."""

    @classmethod
    def nothing(cls, llm: LLMConfig, measured: float | None = None) -> Estimate:
        """No user yet.

        Args:
            measured: prompt and output tokens per second of one engine, for where the configuration tells none.
        """
        execution = llm.execution
        speed = execution.tokens_per_second
        known = None if measured is None else measured * execution.engines
        return cls(llm.gate.retries, llm.sampling.max_tokens, speed or known, speed is None, execution.price_per_hour,
                   execution.gpus, execution.price_per_token)

    def plus(self, users: pa.Table, requests: pa.Table) -> Estimate:
        """With the users of a part of a pass (columns of USAGE) and the requests that they are the first to want."""
        return self._with({name: int(pc.sum(users[name]).as_py() or 0) for name in _OF_USERS}, requests.num_rows,
                          int(pc.sum(requests[LENGTH]).as_py() or 0))

    def with_user(self, usage: Usage, asked: Sequence[int]) -> Estimate:
        """With one user and angle, and the prompt tokens of each request that it is the first to want."""
        return self._with({name: getattr(usage, name) for name in _OF_USERS}, len(asked), sum(asked))

    def _with(self, of_users: Mapping[str, int], asked: int, asked_tokens: int) -> Estimate:
        return replace(self, **{name: getattr(self, name) + count for name, count in of_users.items()},
                       asked=self.asked + asked, asked_tokens=self.asked_tokens + asked_tokens)

    def counts(self) -> dict[str, int]:
        """What users add, for :meth:`counting`."""
        return {name: getattr(self, name) for name in (*_OF_USERS, "asked", "asked_tokens")}

    def counting(self, counts: Mapping[str, Any]) -> Estimate:
        """With what was counted before, at this estimate's speed and prices."""
        return replace(self, **counts)

    @property
    def requests_bound(self) -> int:
        """Most requests, every one of them retried as often as is allowed."""
        return (self.asked + self.later) * (1 + self.retries)

    @property
    def prompt_bound(self) -> int:
        """Most prompt tokens."""
        return (self.asked_tokens + self.later_tokens) * (1 + self.retries)

    @property
    def output_bound(self) -> int:
        """Most output tokens."""
        return self.requests_bound * self.max_tokens

    @property
    def hours(self) -> float | None:
        """At most, of all GPUs together where there are some; None: no speed is known."""
        if self.tokens_per_second is None:
            return None
        return (self.prompt_bound + self.output_bound) / self.tokens_per_second / 3600 * (self.gpus or 1)

    @property
    def price(self) -> float | None:
        """At most; None: not known."""
        if self.price_per_token is not None:
            of_prompt, of_output = self.price_per_token
            return self.prompt_bound * of_prompt + self.output_bound * of_output
        if self.hours is None or self.price_per_hour is None:
            return None
        return self.hours * self.price_per_hour

    def lines(self) -> Iterator[str]:
        """For people."""
        yield (f"first prompts: {self.first:,} requests, {self.first_tokens:,} prompt tokens; to be asked: "
               f"{self.asked:,} requests, {self.asked_tokens:,} prompt tokens")
        yield (f"at most, with merges and {self.retries} retries of each: {self.requests_bound:,} requests, "
               f"{self.prompt_bound:,} prompt tokens, {self.output_bound:,} output tokens")
        money = "price: set engine.execution.price_per_hour" if self.price is None else f"price {self.price:,.2f}"
        if self.hours is None:
            yield "hours: known after the first answers, or set engine.execution.tokens_per_second"
            if self.price is not None:
                yield money
            return
        source = ", as the latest answers came" if self.measured else ""
        unit = "GPU-hours" if self.gpus else "hours"
        yield f"at most {self.hours:,.2f} {unit} at {self.tokens_per_second:,.0f} tokens/s{source}; {money}"

    def demand_confirmation(self, limit: float | None) -> None:
        """
        Raises:
            ResourceError: the price is above the limit, or there is a limit and no price.
        """
        if limit is None:
            return
        if self.price is None:
            raise ResourceError(f"profile: profile.max_cost_without_confirm={limit:g} cannot be kept, as no price is "
                                "known: set profile.engine.execution.price_per_hour and tokens_per_second (of an "
                                "endpoint that counts tokens price_per_million_prompt_tokens and "
                                "price_per_million_output_tokens), or give --yes to go on without a limit")
        if self.price > limit:
            raise ResourceError(f"profile: the plan's price is at most {self.price:,.2f}, above "
                                f"profile.max_cost_without_confirm={limit:g}; give --yes to go on, or see the plan "
                                "with `mentorec profile --dry-run`")
