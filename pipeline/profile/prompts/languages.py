"""The languages a profile may be written in."""

from __future__ import annotations

from typing import Final

LANGUAGES: Final[dict[str, str]] = {
    "ar": "Arabic", "bg": "Bulgarian", "bn": "Bengali", "ca": "Catalan", "cs": "Czech", "da": "Danish", "de": "German",
    "el": "Greek", "en": "English", "es": "Spanish", "et": "Estonian", "fa": "Persian", "fi": "Finnish",
    "fr": "French", "he": "Hebrew", "hi": "Hindi", "hr": "Croatian", "hu": "Hungarian", "hy": "Armenian",
    "id": "Indonesian", "it": "Italian", "ja": "Japanese", "ka": "Georgian", "kk": "Kazakh", "ko": "Korean",
    "lt": "Lithuanian", "lv": "Latvian", "mk": "Macedonian", "ms": "Malay", "nl": "Dutch", "no": "Norwegian",
    "pl": "Polish", "pt": "Portuguese", "ro": "Romanian", "ru": "Russian", "sk": "Slovak", "sl": "Slovenian",
    "sq": "Albanian", "sr": "Serbian", "sv": "Swedish", "sw": "Swahili", "ta": "Tamil", "te": "Telugu", "th": "Thai",
    "tl": "Tagalog", "tr": "Turkish", "uk": "Ukrainian", "ur": "Urdu", "uz": "Uzbek", "vi": "Vietnamese",
    "zh": "Chinese",
}
"""ISO 639-1 code → English name. The language detector knows every one of them."""

CLOSE: Final[tuple[frozenset[str], ...]] = (
    frozenset({"hr", "sr", "sl"}), frozenset({"no", "da", "sv"}), frozenset({"id", "ms"}), frozenset({"cs", "sk"}),
    frozenset({"bg", "mk"}), frozenset({"es", "pt", "ca"}), frozenset({"ru", "uk", "bg"}), frozenset({"hi", "ur"}),
)
"""Languages that a detector takes for one another in short texts: told apart by no gate."""
