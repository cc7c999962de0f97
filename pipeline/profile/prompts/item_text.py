"""An item's title and fields as one clean line."""

from __future__ import annotations

import re
from collections.abc import Mapping

from configs.errors import DataError, illegal
from pipeline.profile.fields import IGNORED, TITLES
from pipeline.profile.prompts.cleaning import Cleaner
from pipeline.profile.prompts.config import PromptConfig
from pipeline.profile.prompts.domains import EVERY_FIELD_CHARS, fields_of
from pipeline.profile.prompts.fences import SEPARATOR

_PRINTED_LIST = re.compile(r"^\s*\[+(.*?)\]+\s*$", re.DOTALL)
_PRINTED_PARTS = re.compile(r"\]\s*,\s*\[|(?<!\w)['\"]|['\"](?!\w)")
_BARS = re.compile(r"\s*\|\s*")


class ItemText:
    """Writes items' texts, and remembers which fields it met."""

    def __init__(self, config: PromptConfig, cleaner: Cleaner) -> None:
        self._config, self._cleaner = config, cleaner
        self._fields = fields_of(config)
        self._met: dict[str, None] = {}

    def line(self, title: str | None, fields: Mapping[str, str]) -> tuple[str | None, str | None]:
        """The text, and the title in it; None each where there is none."""
        self._met.update(dict.fromkeys(fields))
        name = self._cleaner.line(title or "", min(self._config.title_chars, self._config.line_chars))
        parts, room = [name] if name else [], self._config.line_chars - len(name)
        for field, limit in self._chosen(fields):
            value = self._cleaner.line(_unlisted(fields[field]), limit)
            part = f"{self._cleaner.line(field.replace('_', ' '), limit)}: {value}"
            if any(map(str.isalnum, value)) and not _said(value, name) and len(part) + len(SEPARATOR) <= room:
                parts.append(part)
                room -= len(part) + len(SEPARATOR)
        return SEPARATOR.join(parts) or None, name or None

    def check_fields(self) -> None:
        """Raises:
            DataError: the config names a field that no item has.
        """
        missing = [name for name in self._config.fields or () if name not in self._met]
        if missing:
            raise DataError(illegal("prompt.fields", missing[0], self._met or "none, the items have no fields",
                                    "mend the name, or leave it out"))

    def _chosen(self, fields: Mapping[str, str]) -> list[tuple[str, int]]:
        if self._fields is not None:
            return [(name, limit) for name, limit in self._fields.items() if name in fields]
        return [(name, EVERY_FIELD_CHARS) for name in fields if name.lower() not in TITLES | IGNORED]


def _said(value: str, name: str) -> bool:
    """Whether a title tells a value already: itself, or a year that ends it."""
    return value == name or (value.isdigit() and name.endswith(f"({value})"))


def _unlisted(value: str) -> str:
    """``[['Beauty', 'Hair Care']]`` and ``a|b`` → ``Beauty, Hair Care`` and ``a, b``."""
    printed = _PRINTED_LIST.match(value)
    if printed:
        value = _PRINTED_PARTS.sub(lambda m: ", " if m.group().startswith("]") else "",
                                   printed.group(1).replace("\\'", "'"))
    return _BARS.sub(", ", value)
