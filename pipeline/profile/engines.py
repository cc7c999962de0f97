"""Profile engines: what writes a text about a user.

An engine has two sides. :class:`Engine` is what the driver knows before anything heavy is imported: what enters the
fingerprint, what an actor needs, what is made ready once for all actors. :class:`Writer` lives in a Ray actor and
turns histories into texts. A further engine is a config class in the union of ``config.py``, an ``Engine`` and a line
in :func:`engine_of`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from cluster.config import ActorExecution
from pipeline.artifacts import Artifact, ArtifactDir
from pipeline.profile.config import Angle, ProfileConfig

if TYPE_CHECKING:
    from pipeline.profile.histories import Histories

_SHARED = "work/engine"
"""Below the attempt: what an engine makes ready for its actors; gone once the artifact is done."""


@dataclass(frozen=True)
class Draft:
    """What an engine says of one user: a text, or the reason why there is none."""

    text: str | None
    reason: str | None = None


class Writer(Protocol):
    """The actor's side of an engine."""

    def write(self, histories: Histories, angle: Angle) -> list[Draft]:
        """One draft per user, in order; every history holds at least one interaction."""


class Engine(Protocol):
    """The driver's side of an engine. Picklable: it travels to the actors, which call :meth:`writer`."""

    @property
    def deterministic(self) -> bool:
        """Whether the same history always gives the same text; recorded with the profiles."""

    def digests(self) -> Mapping[str, str]:
        """What the text depends on beside the config: code version, model, prompt. Part of the fingerprint."""

    def resources(self, execution: ActorExecution) -> ActorExecution:
        """What an actor asks for."""

    def prepare(self, prepared: Artifact, out: ArtifactDir) -> Mapping[str, Any]:
        """Make ready, once per attempt, what all actors share; returns facts for the manifest."""

    def writer(self, out: ArtifactDir) -> Writer:
        """The writer an actor holds, from what :meth:`prepare` left in ``out``."""


def engine_of(config: ProfileConfig) -> Engine:
    """The engine that a config names."""
    return {"keywords": KeywordsSpec}[config.engine.kind](config)


@dataclass(frozen=True)
class KeywordsSpec:
    """The keywords engine: no language model."""

    config: ProfileConfig
    version: int = 1
    """Raised when the same settings and items give another text."""
    deterministic: bool = True

    def digests(self) -> dict[str, str]:
        return {"engine": f"keywords-{self.version}"}

    def resources(self, execution: ActorExecution) -> ActorExecution:
        return execution

    def prepare(self, prepared: Artifact, out: ArtifactDir) -> dict[str, int]:
        import pyarrow.parquet as pq

        from pipeline.columns import CATEGORY, FIELDS, TITLE
        from pipeline.profile import catalogue

        columns = [TITLE, CATEGORY, FIELDS]
        with pq.ParquetFile(prepared.path("items.parquet"), filesystem=prepared.storage.filesystem) as file, \
                out.storage.upload_folder(out.relative(_SHARED)) as folder:
            return {"items_without_text": catalogue.build(file.iter_batches(8192, columns=columns), folder)}

    def writer(self, out: ArtifactDir) -> Writer:
        from pipeline.profile.keywords import KeywordsWriter

        return KeywordsWriter(out.storage.local(out.relative(_SHARED)), self.config.engine.max_terms, self.config.form,
                              self.config.liked_signal)
