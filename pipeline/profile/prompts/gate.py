"""The quality gate: is what a model wrote a profile, and if not, why not."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, get_args

from configs.errors import MissingExtraError
from pipeline.profile.prompts import record
from pipeline.profile.prompts.cleaning import Cleaner
from pipeline.profile.prompts.config import Form, GateConfig, PromptConfig
from pipeline.profile.prompts.faults import is_refusal, repeated_share, word_count
from pipeline.profile.prompts.languages import CLOSE, LANGUAGES
from pipeline.profile.prompts.telling import leaked

Reason = Literal["empty", "whitespace", "cut off", "refusal", "not the schema", "repetition", "too short",
                 "wrong language", "title leaked"]
"""Why a text does not pass: the first that applies, in this order."""
REASONS: Final[tuple[Reason, ...]] = get_args(Reason)
MIN_WORDS: Final[dict[Form, int]] = {"long": 30, "short": 10}
_CUT_OFF = "length"
_FILTERED = "content_filter"
_SENTENCE_END = re.compile(r"[.!?…。！？](?=\s|$|[\"'”’»)])|[。！？]")
_MIN_LETTERS = 40
"""Nothing can be said of the language of fewer."""


@dataclass(frozen=True)
class Verdict:
    """The text that is encoded, or the reason why there is none."""

    text: str | None
    reason: Reason | None = None


@dataclass(frozen=True)
class Gate:
    """Checks what a model wrote. Picklable; loads the language detector once per process."""

    config: GateConfig
    prompt: PromptConfig
    form: Form
    cleaner: Cleaner = field(default_factory=Cleaner)

    def check(self, text: str | None, finish_reason: str | None, titles: Sequence[str] = ()) -> Verdict:
        """Judge one answer.

        Args:
            text: as the model gave it.
            finish_reason: as the server gave it; ``length``: the token limit cut the text.
            titles: telling titles of the user's items, of :meth:`ItemLines.titles`.
        """
        if finish_reason == _FILTERED:
            return Verdict(None, "refusal")
        if not text:
            return Verdict(None, "empty")
        told = "\n".join(self.cleaner.paragraphs(text)) if self.form == "long" else text
        if not told.strip():
            return Verdict(None, "whitespace")
        if self.form == "short":
            if finish_reason == _CUT_OFF:
                return Verdict(None, "cut off")
            if is_refusal(text):
                return Verdict(None, "refusal")
            parsed = record.parse(text)
            if parsed is None:
                return Verdict(None, "not the schema")
            told = "\n".join(self.cleaner.paragraphs(record.render(parsed)))
            spoken = "\n".join([parsed.summary, parsed.behaviour_over_time])
        else:
            spoken = told
        reason = self._fault(told, spoken, titles)
        if reason:
            return Verdict(None, reason)
        return Verdict(_whole_sentences(told) if finish_reason == _CUT_OFF else told)

    def _fault(self, told: str, spoken: str, titles: Sequence[str]) -> Reason | None:
        if is_refusal(spoken):
            return "refusal"
        if repeated_share(told) > self.config.max_repeated:
            return "repetition"
        if word_count(told) < (self.config.min_words or MIN_WORDS[self.form]):
            return "too short"
        if self.config.language and _other_language(spoken, self.prompt.language, self.config.language_confidence):
            return "wrong language"
        allowed = self.config.max_leaked_titles
        if allowed is not None and len(leaked(told, titles)) > allowed:
            return "title leaked"
        return None


def _whole_sentences(text: str) -> str:
    """A text that was cut, up to its last whole sentence, unless that loses more than half."""
    ends = [match.end() for match in _SENTENCE_END.finditer(text)]
    return text[:ends[-1]] if ends and ends[-1] >= len(text) // 2 else text


_DETECTOR: list[Any] = []


def _other_language(text: str, expected: str, confidence: float) -> bool:
    """Whether a text is surely of another language than expected, close relatives not counted."""
    if sum(map(str.isalpha, text)) < _MIN_LETTERS:
        return False
    if not _DETECTOR:
        _DETECTOR.append(load_detector())
    (found, probability), *_ = _DETECTOR[0].rank(text)
    close = {expected}.union(*(group for group in CLOSE if expected in group))
    return found not in close and probability >= confidence


def load_detector() -> Any:
    """The language detector.

    Raises:
        MissingExtraError: its package is not installed.
    """
    try:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier
    except ImportError as exc:
        raise MissingExtraError("py3langid", "openai") from exc
    detector = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    detector.set_languages(list(LANGUAGES))
    return detector
