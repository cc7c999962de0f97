"""A server's answer as it came → what is kept of it, whatever the server made of the protocol."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from pipeline.profile.prompts.reasoning import tagged

_MOST_TOKENS = 2**31 - 1
_REASONING = ("reasoning_content", "reasoning")
"""Where servers that part the reasoning from the answer put it."""


class OddAnswerError(ValueError):
    """What came is no answer; asked again, the server may give one."""


@dataclass(frozen=True)
class Completion:
    """An answer."""

    text: str
    """Reasoning included, between tags."""
    finish_reason: str | None
    prompt_tokens: int | None
    """None where the server does not say."""
    output_tokens: int | None


def read_completion(raw: bytes) -> Completion:
    """Read the body of a response.

    Raises:
        OddAnswerError: it holds no message.
    """
    try:
        answer = json.loads(raw.decode("utf-8-sig"))
    except (ValueError, RecursionError) as exc:
        raise OddAnswerError(f"an answer that is no JSON ({type(exc).__name__})") from exc
    if not isinstance(answer, dict):
        raise OddAnswerError("an answer that is no object")
    if answer.get("error"):
        raise OddAnswerError(f"an error for an answer: {json.dumps(answer['error'])}")
    choices = answer.get("choices")
    if not isinstance(choices, list) or not choices:
        raise OddAnswerError("an answer without choices")
    choice = choices[0]
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(message, dict):
        raise OddAnswerError("an answer without a message")
    finish, usage = choice.get("finish_reason"), answer.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    return Completion(_text(message), storable(finish) if isinstance(finish, str) else None,
                      _count(usage.get("prompt_tokens")), _count(usage.get("completion_tokens")))


def storable(text: str) -> str:
    """The text with halves of characters (lone surrogates) replaced: UTF-8 has no form for them."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _text(message: dict[str, Any]) -> str:
    answer = _joined(message.get("content")) or _joined(message.get("refusal"))
    reasoning = next((found for name in _REASONING if (found := _joined(message.get(name)))), "")
    return storable(tagged(reasoning, answer) if reasoning else answer)


def _joined(content: Any) -> str:
    """Text, or the text of a list's parts; parts of other kinds (images, reasoning) say nothing."""
    if isinstance(content, list):
        return "".join(map(_joined, content))
    if isinstance(content, dict):
        content = content.get("text")
    return content if isinstance(content, str) else ""


def _count(value: Any) -> int | None:
    try:
        count = int(float(value))
    except (TypeError, ValueError, OverflowError):
        return None
    return count if 0 <= count <= _MOST_TOKENS else None
