"""Which language a text is in, as far as that can be told."""

from __future__ import annotations

from functools import cache
from typing import Any

from configs.errors import MissingExtraError
from pipeline.profile.prompts.languages import CLOSE, LANGUAGES

_MIN_LETTERS = 40
"""Nothing can be said of the language of fewer."""


def in_other_language(text: str, expected: str, confidence: float) -> bool:
    """Whether a text is surely of another language than expected; close relatives do not count as others.

    Raises:
        MissingExtraError: the detector's package is not installed.
    """
    if sum(map(str.isalpha, text)) < _MIN_LETTERS:
        return False
    (found, probability), *_ = detector().rank(text)
    close = {expected}.union(*(group for group in CLOSE if expected in group))
    return found not in close and probability >= confidence


@cache
def detector() -> Any:
    """The detector, loaded once per process: some seconds and 5 MB on disk, no network.

    Raises:
        MissingExtraError: its package is not installed.
    """
    try:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier
    except ImportError as exc:
        raise MissingExtraError("py3langid", "openai") from exc
    found = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    found.set_languages(list(LANGUAGES))
    return found
