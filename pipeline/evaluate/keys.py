"""What ranks and metrics depend on. Imports no torch or Ray."""

from __future__ import annotations

from pipeline.evaluate.config import EvaluateConfig
from pipeline.store.artifacts import StageKey

VERSION = 3
BASELINE = "baseline:"
_FITTED = ("transitions", "item_knn", "ease")
"""Fields of the configuration that hold one baseline's settings."""


def key(config: EvaluateConfig, prepare_fp: str, subject: str) -> StageKey:
    """The key of one evaluation.

    Args:
        config: a model's key leaves all baselines' settings out, a baseline's holds its own.
        prepare_fp: fingerprint of the prepared data.
        subject: fingerprint of a `train` artifact, or ``baseline:<name>``.
    """
    values = config.key()
    settings = {name: values.pop(name) for name in _FITTED}
    del values["baselines"]
    inputs = {"prepare": prepare_fp}
    if subject.startswith(BASELINE):
        name = subject.removeprefix(BASELINE)
        values["baseline"] = {"name": name} | settings.get(name, {})
    else:
        inputs["train"] = subject
    return StageKey("evaluate", VERSION, values, inputs)
