"""Profile engines: what brings every user to a profile, or to the reason why there is none.

An engine writes by itself (``writing.py``: histories → texts in actors) or asks a language model (``llm/``: prompts,
passes, a ledger of answers). A further engine is a config class in the union of ``config.py``, an :class:`Engine` and a
line in :func:`engine_of`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from pipeline.profile.config import ProfileConfig
from pipeline.store.artifacts import Artifact, ArtifactDir
from pipeline.store.digests import DigestCache

if TYPE_CHECKING:
    import numpy as np

    from pipeline.profile.writing import Writer

_SHARED = "work/engine"
"""Below the attempt: what an engine makes ready for its actors; gone once the artifact is done."""


class Engine(Protocol):
    """An engine as the stage sees it."""

    @property
    def deterministic(self) -> bool:
        """Whether the same history always gives the same text; recorded with the profiles."""

    def digests(self, cache: DigestCache | None = None) -> Mapping[str, str]:
        """What the text depends on beside the config: code version, model, prompt. Part of the fingerprint."""

    def write(self, prepared: Artifact, out: ArtifactDir, ids: np.ndarray, confirmed: bool) -> Mapping[str, Any]:
        """Leave one row per user (USER_IDX, and lists ANGLE, PROFILE, REASON) in ``rows.RAW`` of the attempt.

        A call for an attempt that was cut off goes on where it stopped. Ray must be running where the
        engine's ``demand`` is of any actor.

        Args:
            ids: every user who gets a profile, ascending.
            confirmed: the planned price was agreed to.

        Returns:
            Facts for the manifest.
        """

    def plan(self, prepared: Artifact | None) -> list[str]:
        """What it will take, line by line, without Ray; ``prepared`` is None where it is not built yet."""


def engine_of(config: ProfileConfig) -> Engine:
    """The engine that a config names."""
    if config.engine.kind == "keywords":  # every plan comes by here: nothing is imported that only prompts need
        return KeywordsSpec(config)
    from pipeline.profile.llm.engines import OpenAISpec, VLLMSpec

    specs: dict[str, Callable[[ProfileConfig], Engine]] = {"vllm": VLLMSpec, "openai": OpenAISpec}
    return specs[config.engine.kind](config)


@dataclass(frozen=True)
class KeywordsSpec:
    """The keywords engine: no language model."""

    config: ProfileConfig
    version: int = 1
    """Raised when the same settings and items give another text."""
    deterministic: bool = True

    def digests(self, cache: DigestCache | None = None) -> dict[str, str]:
        return {"engine": f"keywords-{self.version}"}

    def write(self, prepared: Artifact, out: ArtifactDir, ids: np.ndarray, confirmed: bool) -> Mapping[str, Any]:
        from pipeline.profile.writing import write_all

        return write_all(self, self.config.execution, prepared, out, ids)

    def plan(self, prepared: Artifact | None) -> list[str]:
        return []

    def prepare(self, prepared: Artifact, out: ArtifactDir) -> dict[str, int]:
        from pipeline.profile import catalogue
        from pipeline.store.columns import CATEGORY, FIELDS, TITLE

        items = prepared.storage.read_batches(prepared.relative("items.parquet"), [TITLE, CATEGORY, FIELDS], 8192)
        with out.storage.upload_folder(out.relative(_SHARED)) as folder:
            return {"items_without_text": catalogue.build(items, folder)}

    def writer(self, out: ArtifactDir) -> Writer:
        from pipeline.profile.config import KeywordsEngine
        from pipeline.profile.keywords import KeywordsWriter

        assert isinstance(self.config.engine, KeywordsEngine)
        return KeywordsWriter(out.storage.local(out.relative(_SHARED)), self.config.engine.max_terms, self.config.form,
                              self.config.liked_signal)
