"""The base of every configuration class: frozen, strict, documented by the docstring under each field."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict

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
        return _without_execution(self.model_dump(mode="json"))


def _without_execution(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_execution(v) for k, v in value.items() if k != EXECUTION_FIELD}
    if isinstance(value, list):
        return [_without_execution(v) for v in value]
    return value
