"""What may be recommended. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from configs.errors import DataError, illegal


@dataclass(frozen=True)
class Filter:
    """What a list may hold. Ids and categories are the catalogue's own; lists of any kind are taken."""

    seen: bool = True
    """Leave out what the sequence itself holds."""
    allow: Iterable[object] | None = None
    """Item ids: nothing else is recommended. None: everything."""
    deny: Iterable[object] = ()
    """Item ids that are never recommended."""
    categories: Iterable[str] | None = None
    """Only items of these categories. None: of any, and items without one."""
    new_days: float | None = None
    """Only items first had within so many days before the newest interaction of the data. None: of any age."""
    active_days: float | None = None
    """Only items that somebody had within so many days before the newest interaction of the data. None: all."""

    def __post_init__(self) -> None:
        for name in ("allow", "deny", "categories"):
            values = getattr(self, name)
            if values is None:
                continue
            if isinstance(values, (str, bytes)):
                raise DataError(illegal(f"filter.{name}", values, "a list", f"write [{values!r}]"))
            ids = frozenset(values if name == "categories" else map(text_id, values))
            object.__setattr__(self, name, ids)
        for name in ("new_days", "active_days"):
            days = getattr(self, name)
            if days is None:
                continue
            if isinstance(days, bool) or not isinstance(days, (int, float)) or not 0 < days < float("inf"):
                raise DataError(illegal(f"filter.{name}", days, "a number of days above 0"))

    @property
    def whole_catalogue(self) -> bool:
        """Whether every item may be recommended, but for the seen ones."""
        return not self.deny and all(asked is None for asked in (
            self.allow, self.categories, self.new_days, self.active_days))


def text_id(value: object) -> str:
    """A raw id as text: 12 and 12.0 are "12", as `prepare` reads them.

    Raises:
        DataError: it is no text and no whole number.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, bool) or value is None or isinstance(value, (list, dict, tuple, bytes)):
        raise DataError(illegal("item id", value, "text, or a whole number"))
    try:
        whole = int(value)  # type: ignore[call-overload]
    except (TypeError, ValueError, OverflowError) as exc:
        raise DataError(illegal("item id", value, "text, or a whole number")) from exc
    if whole != value:
        raise DataError(illegal("item id", value, "text, or a whole number"))
    return str(whole)
