"""The quality gate: is what a model wrote a profile, and if not, why not."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Literal, get_args

from pipeline.profile.prompts import record
from pipeline.profile.prompts.cleaning import Cleaner
from pipeline.profile.prompts.config import Form, GateConfig, PromptConfig
from pipeline.profile.prompts.faults import is_refusal, repeated_share, word_count
from pipeline.profile.prompts.language import detector, in_other_language
from pipeline.profile.prompts.reasoning import without_reasoning
from pipeline.profile.prompts.title_leaks import leaked

Reason = Literal["empty", "only reasoning", "whitespace", "cut off", "refusal", "not the schema", "repetition",
                 "too short", "wrong language", "title leaked"]
"""Why a text does not pass: the first that applies, in this order."""
REASONS: Final[tuple[Reason, ...]] = get_args(Reason)
MIN_WORDS: Final[dict[Form, int]] = {"long": 30, "short": 10}
_CUT_OFF = "length"
_FILTERED = "content_filter"
_SENTENCE_END = re.compile(r"[.!?…](?=[\"'”’»)]*(?:\s|$))[\"'”’»)]*|[。！？][」』”]*")
_MARKUP = re.compile(r"^(?:#+|>+|[*•-](?= )|\d+[.)](?= ))\s*|\*\*|__|\*(?=\w)|(?<=\w)\*")


@dataclass(frozen=True)
class Verdict:
    """The text that is encoded, or the reason why there is none."""

    text: str | None
    reason: Reason | None = None
    reasoning: bool = False
    """Whether the answer held the model's reasoning, which was cut."""


@dataclass(frozen=True)
class Gate:
    """Checks what a model wrote. Picklable; a process loads the language detector when it first needs it."""

    config: GateConfig
    prompt: PromptConfig
    form: Form
    cleaner: Cleaner = field(default_factory=Cleaner)

    def ready(self) -> None:
        """Load what checks need, so that what is missing is told before anything is asked of a model.

        Raises:
            MissingExtraError: the language detector is not installed.
        """
        if self.config.enabled and self.config.language:
            detector()

    def check(self, text: str | None, finish_reason: str | None, titles: Sequence[str] = ()) -> Verdict:
        """Judge one answer.

        Args:
            text: as the model gave it.
            finish_reason: as the server gave it; ``length``: the token limit cut the text.
            titles: distinctive titles of the user's items, of :meth:`ItemLines.titles`.
        """
        if not text:
            return Verdict(None, "refusal" if finish_reason == _FILTERED else "empty")
        answer, reasoning = without_reasoning(text)
        if reasoning and not answer.strip():
            return Verdict(None, "only reasoning", True)
        if not self.cleaner.paragraphs(answer):
            return Verdict(None, "whitespace", reasoning)
        cut = finish_reason == _CUT_OFF
        check = self._check_short if self.form == "short" else self._check_long
        return replace(check(answer, cut, titles), reasoning=reasoning)

    def _check_long(self, text: str, cut: bool, titles: Sequence[str]) -> Verdict:
        lines = (_MARKUP.sub("", line).strip() for line in self.cleaner.paragraphs(text))
        told = "\n".join(line for line in lines if any(map(str.isalnum, line)))
        if not told:
            return Verdict(None, "whitespace")
        told = _whole_sentences(told) if cut else told
        return self._verdict(told, told, told, titles)

    def _check_short(self, text: str, cut: bool, titles: Sequence[str]) -> Verdict:
        parsed = record.parse(text)
        if parsed is None:
            refused = self.config.enabled and is_refusal(text)
            return Verdict(None, "cut off" if cut else "refusal" if refused else "not the schema")
        values = {name: self.cleaner.line(value) for name, value in record.field_texts(parsed).items()}
        sentences = f"{values['summary']}\n{values['behaviour_over_time']}"
        return self._verdict(record.render(values), "\n".join(values.values()), sentences, titles)

    def _verdict(self, text: str, told: str, spoken: str, titles: Sequence[str]) -> Verdict:
        """
        Args:
            text: what would be encoded.
            told: its words, without labels.
            spoken: those of them that are in sentences.
            titles: of the user's items.
        """
        reason = self._fault(told, spoken, titles) if self.config.enabled else None
        return Verdict(None, reason) if reason else Verdict(text)

    def _fault(self, told: str, spoken: str, titles: Sequence[str]) -> Reason | None:
        config = self.config
        if is_refusal(spoken):
            return "refusal"
        if repeated_share(told) > config.max_repeated:
            return "repetition"
        if word_count(told) < (config.min_words or MIN_WORDS[self.form]):
            return "too short"
        if config.language and in_other_language(spoken, self.prompt.language, config.language_confidence):
            return "wrong language"
        if config.max_leaked_titles is not None and len(leaked(told, titles)) > config.max_leaked_titles:
            return "title leaked"
        return None


def _whole_sentences(text: str) -> str:
    """A text that was cut, up to its last whole sentence, unless that loses more than half."""
    ends = [match.end() for match in _SENTENCE_END.finditer(text)]
    return text[:ends[-1]] if ends and ends[-1] >= len(text) // 2 else text
