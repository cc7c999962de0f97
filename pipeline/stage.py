"""What a stage says of itself, once, in `pipeline/<stage>/definition.py`; plan, run, describe and the command line read
it there.

Definitions import the standard library and column names only, and all else inside their methods: `mentorec --help`
goes through them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from pipeline.config import RunConfig
    from pipeline.store.artifacts import Artifact, ArtifactDir, StageKey
    from pipeline.store.digests import DigestCache

Columns = Mapping[str, tuple[str, ...]]
"""File or folder of an artifact → its columns; none where it is no table."""


@dataclass(frozen=True)
class Resources:
    """What a stage asks of Ray; no replicas: it works in the driver's own process."""

    replicas: int = 0
    cpus: float = 0.0
    """Per replica."""
    gpus: float = 0.0
    """Per replica."""
    above_rows: int | None = None
    """Ray is asked only for more rows than this; None: whatever the rows."""
    fewest: int | None = None
    """Replicas that are enough; None: all."""
    others: tuple[str, ...] = ()
    """What else a replica asks of its node (``Placement.others``)."""

    @property
    def least_cpus(self) -> float:
        """That must be there at once."""
        return self.cpus * (self.replicas if self.fewest is None else self.fewest)

    def __str__(self) -> str:
        if not self.replicas:
            return "this process"
        gpus = f" + {self.gpus:g} GPU" if self.gpus else ""
        others = "".join(f" + {other}" for other in self.others)
        replicas = f"{self.replicas}" if self.fewest in (None, self.replicas) else f"{self.fewest} to {self.replicas}"
        asked = f"{replicas} × ({self.cpus:g} CPU{gpus}{others})"
        return asked if self.above_rows is None else f"this process; above {self.above_rows:,} rows {asked}"


@dataclass(frozen=True, kw_only=True)
class Step(ABC):
    """One artifact of a run: what it is built from, under which key, and how."""

    config: RunConfig
    label: str
    """Unique in the run, the stage's name first: ``prepare``, ``train/distilled/seed-0``, ``evaluate/baseline/ease``.
    """
    inputs: tuple[str, ...] = ()
    """Labels of the steps whose artifacts it reads."""

    @property
    def stage(self) -> str:
        """The stage's name."""
        return self.label.partition("/")[0]

    @abstractmethod
    def key(self, fingerprints: Mapping[str, str], digests: DigestCache) -> StageKey:
        """What the artifact depends on.

        Args:
            fingerprints: of every input, by label.
            digests: of raw files and models.
        """

    @abstractmethod
    def build(self, inputs: Mapping[str, Artifact], out: ArtifactDir, confirmed: bool) -> Artifact:
        """Make the artifact.

        Args:
            inputs: every input's artifact, by label.
            out: the attempt.
            confirmed: a planned price above ``profile.max_cost_without_confirm`` was agreed to.
        """

    @abstractmethod
    def needs_ray(self, inputs: Mapping[str, Artifact]) -> bool:
        """Whether Ray must run while it is built from these."""


@dataclass(frozen=True)
class Stage:
    """A stage: its verb on the command line, its steps, and what they read, write and ask for."""

    name: str
    help: str
    """One line of `mentorec --help`."""
    needs: Columns
    makes: Columns
    steps: Callable[[RunConfig], Iterable[Step]] = lambda _: ()
    """Every step that some run with this configuration has, each after its inputs. Those that nothing wanted is built
    from are left out of a run."""
    wanted: Literal["as input", "always", "on request"] = "as input"
    """Whether a run has its steps where another step is built from them, always, or where `until` names the stage."""
    resources: Callable[[RunConfig], Resources] = lambda _: Resources()
    resumable: bool = False
    """Whether it takes up the files of a killed attempt; else an attempt starts anew."""
    can_cost: bool = False
    """Whether building it may have a price (`--yes` agrees to it)."""
    has_figures: bool = False
    """Whether it ends in figures that `--record` keeps."""
