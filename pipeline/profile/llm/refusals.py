"""What a server's refusal means: ask again, give the request up, or end the stage."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

from configs.errors import ConfigError, ResourceError

_AGAIN = frozenset({408, 409, 429})
_FOR_ALL: Final = {
    401: "the key is not accepted: export the right one under the name in engine.execution.api_key_env",
    403: "access is denied: see the key (engine.execution.api_key_env) and what it may use (engine.model)",
    404: "there is no such path or model: see engine.base_url, which ends with the version, and engine.model",
    405: "the path takes no questions: see engine.base_url, which ends with the version",
    422: "the server takes no such request: see engine.send_seed, engine.structured_output and engine.sampling",
}
"""Statuses that every further request would get too, and what helps."""
_OF_ONE: Final = frozenset({403, 422})
"""Of them, what a server that has answered others says of one request: its moderation, its limits."""
_NO_MONEY = re.compile(r"insufficient[_ ](?:quota|balance|funds|credits?)|billing_hard_limit", re.IGNORECASE)
KEPT: Final = "what was answered is kept"
"""Ends each error that ends the stage."""


class RetryableError(Exception):
    """An attempt that may be made again."""

    def __init__(self, why: str, wait_s: float | None = None) -> None:
        super().__init__(why)
        self.wait_s = wait_s


class NoServerError(RetryableError):
    """Nobody listens."""


class RefusedError(Exception):
    """A request that the server will never answer."""


def refusal(url: str, status: int, said: str, headers: Mapping[str, str], location: str, has_answered: bool
            ) -> Exception:
    """What a status other than 200 means.

    Args:
        said, location: the answer's words and where it sends the request, without secrets.
        has_answered: whether this server has answered another request.
    """
    words = f"HTTP {status}: {said}"
    if status == 402 or _NO_MONEY.search(words):
        return _used_up(url, words)
    if status in _AGAIN or status >= 500:
        return RetryableError(f"HTTP {status}", retry_after_s(headers.get("Retry-After")))
    if status in _FOR_ALL and not (has_answered and status in _OF_ONE):
        return ConfigError(f"profile: {url}: {words}; {_FOR_ALL[status]}; {KEPT}")
    if 300 <= status < 400:
        return ConfigError(f"profile: {url}: HTTP {status}: the server sends requests on to {location}; set "
                           f"engine.base_url to what answers itself; {KEPT}")
    return RefusedError(words)


def odd_answer(url: str, words: str) -> Exception:
    """What an answer that is no completion means."""
    return _used_up(url, words) if _NO_MONEY.search(words) else RetryableError(words)


def _used_up(url: str, words: str) -> ResourceError:
    """No money is left."""
    return ResourceError(f"profile: {url}: {words}; the account is used up: fill it up, or take another key "
                         f"(engine.execution.api_key_env), and run again; {KEPT}")


def retry_after_s(value: str | None) -> float | None:
    """Seconds of a Retry-After header: a number of them, or an HTTP date."""
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            date = parsedate_to_datetime(value)
        except ValueError:
            return None
        seconds = (date.replace(tzinfo=date.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
    return max(0.0, seconds) if math.isfinite(seconds) else None
