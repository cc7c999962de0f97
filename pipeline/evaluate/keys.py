"""What ranks and metrics depend on. Imports no torch or Ray."""

from __future__ import annotations

from pipeline.evaluate.config import EvaluateConfig
from pipeline.store.artifacts import StageKey

VERSION = 3
BASELINE = "baseline:"
_FITTED = ("transitions", "item_knn", "ease", "content")
"""Fields of the configuration that hold one baseline's settings."""


def key(config: EvaluateConfig, prepare_fp: str, subject: str, texts_fp: str | None = None) -> StageKey:
    """The key of one evaluation.

    Args:
        config: a model's key leaves all baselines' settings out, a baseline's holds its own.
        prepare_fp: fingerprint of the prepared data.
        subject: fingerprint of a `train` artifact, or ``baseline:<name>``.
        texts_fp: of the encoded item texts, for the baseline that reads them.
    """
    values = config.key()
    settings = {name: values.pop(name) for name in _FITTED}
    del values["baselines"]
    inputs = {"prepare": prepare_fp}
    if subject.startswith(BASELINE):
        name = subject.removeprefix(BASELINE)
        values["baseline"] = {"name": name} | settings.get(name, {})
        if texts_fp is not None:
            inputs["texts"] = texts_fp
    else:
        inputs["train"] = subject
    return StageKey("evaluate", VERSION, values, inputs)
