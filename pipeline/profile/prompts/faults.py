"""Signs that a text is no profile: a refusal, a loop, too few words."""

from __future__ import annotations

import re
from collections.abc import Sequence

_HEAD_CHARS = 240
"""A refusal says so at once."""
_AI = r"(?:ai|artificial intelligence|(?:large )?language model|llm)"
_REFUSALS = re.compile("|".join((
    r"^i(?:['’]m| am)(?: very| so| truly)? (?:sorry|afraid)\b",
    r"^(?:sorry|apologies|unfortunately)\b[,.!]? (?:but |i )",
    r"\bi (?:apologi[sz]e|regret)\b",
    rf"\bas an? {_AI}\b[^.]{{0,40}}\bi\b",
    r"\bi (?:can['’]?t|cannot|can not|won['’]?t|will not|am unable to|am not able to|must decline)\b",
    r"\bi (?:do not|don['’]t) have (?:access|enough|any|sufficient)\b",
    r"\bi['’]m (?:unable|not able) to\b",
    r"^(?:please|could you(?: please)?) (?:provide|share|give)\b",
    r"\bno (?:history|data|items?|profiles?) (?:was|were|is|are|has been|have been) (?:provided|given|supplied)\b",
    r"^(?:es tut mir (?:sehr )?leid|entschuldigung|tut mir leid|leider kann ich)\b",
    r"\bich kann (?:ihnen |dir |dabei |das |leider )*nicht\b",
    r"\bals (?:ki|sprachmodell|künstliche intelligenz)\b[^.]{0,40}\bich\b",
    r"^(?:je suis (?:vraiment )?désolé|désolé|malheureusement, je)",
    r"\bje ne (?:peux|suis) pas (?:en mesure|vous|fournir|aider|créer|rédiger)\b",
    r"\ben tant qu(?:e |['’])(?:ia|intelligence artificielle|modèle)\b[^.]{0,40}\bje\b",
    r"^lo siento\b",
    r"\bno puedo (?:ayudar|crear|generar|proporcionar|escribir|cumplir)",
    r"\bcomo (?:una? )?modelo de lenguaje\b",
    r"^(?:desculpe|sinto muito|lamento)\b",
    r"\bnão posso (?:ajudar|criar|gerar|fornecer|escrever)",
    r"^mi dispiace\b",
    r"\bnon posso (?:aiutar|creare|generare|fornire|scrivere)",
    r"^(?:извините|простите|к сожалению, я)\b",
    r"\bя не могу\b",
    r"\bкак (?:языковая модель|ии|искусственный интеллект)\b[^.]{0,40}\bя\b",
    r"^(?:很?抱歉|对不起|對不起)",
    r"作为(?:一个|一名)?(?:ai|人工智能|大?语言模型)",
    r"我(?:无法|不能)(?:提供|生成|创建|协助|帮助|完成)",
    r"^申し訳(?:あり|ござい|ない)",
    r"(?:ai|言語モデル)として",
    r"^죄송(?:합니다|하지만)",
    r"(?:ai|언어 모델)로서",
)), re.IGNORECASE)
"""In English, German, French, Spanish, Portuguese, Italian, Russian, Chinese, Japanese and Korean."""
_LEAD = re.compile(r"^[\s\"'“”«»*_#>({\[-]+")
_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
_WIDE = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\u0e00-\u0e7f\u0e80-\u0eff\u1780-\u17ff]")
_GRAM = 4
"""Words of a sequence; a repeated sequence of so many is no accident."""
_WIDE_GRAM = 8
_TAIL = 60
"""Words of the last part, where loops are."""
_MIN_GRAMS = 12
"""Fewer sequences say nothing of repetition."""


def is_refusal(text: str) -> bool:
    """Whether a text begins as a refusal does, in one of the common languages."""
    return _REFUSALS.search(_LEAD.sub("", text)[:_HEAD_CHARS]) is not None


def word_count(text: str) -> int:
    """Words; in scripts without spaces two characters are one."""
    wide = len(_WIDE.findall(text))
    return len(_WORD.findall(_WIDE.sub(" ", text))) + wide // 2


def repeated_share(text: str) -> float:
    """Share of word sequences that stood in the text before: of the whole text, or of its last part if that is more."""
    wide = len(_WIDE.findall(text)) > len(text) // 3
    units = _WIDE.findall(text) if wide else _WORD.findall(text.casefold())
    size, tail = (_WIDE_GRAM, 3 * _TAIL) if wide else (_GRAM, _TAIL)
    return max(_repeats(units, size), _repeats(units[-tail:], size))


def _repeats(units: Sequence[str], size: int) -> float:
    grams = [tuple(units[start:start + size]) for start in range(len(units) - size + 1)]
    return 1 - len(set(grams)) / len(grams) if len(grams) >= _MIN_GRAMS else 0.0
