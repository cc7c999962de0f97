"""The base of every configuration class: frozen, strict, documented by the docstring under each field."""

from __future__ import annotations

from typing import Any

from pydantic import AfterValidator, BaseModel, ConfigDict

EXECUTION_FIELD = "execution"


class Config(BaseModel):
    """A frozen configuration record that refuses unknown keys.

    A field named ``execution`` says where and how fast the work runs, never what comes out of it:
    it stays out of every fingerprint.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False, validate_default=True
    )

    def key(self) -> dict[str, Any]:
        """JSON-ready values of every field that can change a result (all but ``execution``, at any depth)."""
        key: dict[str, Any] = _without_execution(self, self.model_dump(mode="json"))
        return key


def each_once(noun: str) -> AfterValidator:
    """Of a tuple whose values, each a ``noun``, must differ: ``Annotated[tuple[int, ...], each_once("seed")]``."""

    def distinct(value: tuple[Any, ...]) -> tuple[Any, ...]:
        if len(set(value)) != len(value):
            raise ValueError(f"each {noun} may stand once")
        return value

    return AfterValidator(distinct)


def _without_execution(value: Any, dumped: Any) -> Any:
    """``dumped`` is JSON of ``value``. Fields are left out, never the keys of a mapping, which are the user's own."""
    if isinstance(value, Config):
        return {name: _without_execution(getattr(value, name), inside) for name, inside in dumped.items()
                if name != EXECUTION_FIELD}
    if isinstance(value, dict):
        return {name: _without_execution(own, inside)
                for own, (name, inside) in zip(value.values(), dumped.items(), strict=True)}
    if isinstance(value, (list, tuple)):
        return [_without_execution(own, inside) for own, inside in zip(value, dumped, strict=True)]
    return dumped
