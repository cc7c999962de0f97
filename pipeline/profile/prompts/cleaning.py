"""Item text, user attributes and what models wrote, as data that can be nothing else inside a prompt.

What comes out holds no control, format or invisible character, no line break other than those we set, none of
``< > [ ] { } | \\ ` `` and no special token of the tokenizer: it can neither close a fence, nor open a chat turn, nor
pass for one of our separators.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass, field

INVISIBLE = (
    "\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f"  # control characters that are no white space
    "\xad\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff"
    "\ufff9-\ufffb\U000110bd\U000110cd\U00013430-\U0001343f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"
    "\U000e0000-\U000e0fff"  # format characters, bidirectional overrides, zero-width characters, tags
    "\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\uffa0\ufe00-\ufe0f"  # fillers and variation selectors
    "\ud800-\udfff\ue000-\uf8ff\ufdd0-\ufdef\ufffd-\uffff\U000f0000-\U0010ffff"  # surrogates, private use, none
)
"""Body of a regular expression's class: what nobody sees."""

_INVISIBLE = re.compile(f"[{INVISIBLE}]+")
_WORDS = "inst|sys|system|user|assistant|human|tool_?\\w*|available_tools|g?mask|smask|cls|sep|pad|unk|bos|eos|s?op|eop"
_TAG = re.compile(
    r"<{1,2}\|[^<>]{0,80}\|?>{1,2}"  # <|im_start|>, <|eot_id|>
    r"|<{1,2}/?[a-z!?][^<>\s]{0,60}/?>{1,2}"  # <start_of_turn>, </s>, <unused12>, <br/>
    r"|<{1,2}/?[A-Z0-9_/|]{2,40}>{1,2}"  # <EOT>, <<SYS>>, <0x0A>
    r"|</?[a-z][a-z0-9]{0,20}\s[^<>]{0,300}>"  # HTML with attributes
    rf"|\[/?(?i:{_WORDS})\]")
_LOOKALIKES = str.maketrans("＜＞［］｛｝｜｀＼﹤﹥﹛﹜﹨︷︸﹇﹈", "<>[]{}|`\\<>{}\\{}[]")
"""What some tokenizers normalise to the breakers."""
_BREAKERS = str.maketrans({"<": " ", ">": " ", "[": "(", "]": ")", "{": "(", "}": ")", "|": ",", "`": "'", "\\": "/"})
_SUSPECT = re.compile(r"[<>\[\]{}|`\\\x00-\x1f\x7f]|[^\x00-\x7f]")
_BREAKS = re.compile(r"\r\n|[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]")
_LOOKED_AT = 4
"""Characters looked at per character kept: markup may take the rest."""
_SLACK = 400


@dataclass(frozen=True)
class Cleaner:
    """Cleans text; picklable. ``clean(clean(x)) == clean(x)``."""

    special_tokens: tuple[str, ...] = ()
    """Further strings that a tokenizer reads as control: its special tokens."""
    _special: re.Pattern[str] | None = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        tokens = sorted({token.strip() for token in self.special_tokens}, key=lambda t: (-len(t), t))
        found = [re.escape(token) for token in tokens if len(token) > 1]
        object.__setattr__(self, "_special", re.compile("|".join(found)) if found else None)

    def line(self, text: str, limit: int | None = None) -> str:
        """The text on one line, cut at ``limit`` characters, at a space where there is one near."""
        if limit is not None:
            text = text[:_LOOKED_AT * limit + _SLACK]
        text = self._plain(text)
        while limit is not None and len(text) > limit:
            text = self._plain(_cut(text, limit))
        return text

    def paragraphs(self, text: str) -> list[str]:
        """The lines of a text, each clean, empty ones left out."""
        return [line for part in _BREAKS.split(text) if (line := self._plain(part))]

    def _plain(self, text: str) -> str:
        if not _SUSPECT.search(text) and not (self._special and self._special.search(text)):
            return " ".join(text.split())
        while True:
            before = text
            text = unicodedata.normalize("NFC", _INVISIBLE.sub("", text)).translate(_LOOKALIKES)
            text = _TAG.sub(" ", text)
            if self._special:
                text = self._special.sub(" ", text)
            text = " ".join(text.replace(" > ", " / ").translate(_BREAKERS).split())
            if text == before:
                return text


def _cut(text: str, limit: int) -> str:
    head = text[:limit]
    space = head.rfind(" ")
    return head[:space] if space >= limit // 2 and not text[limit].isspace() else head
