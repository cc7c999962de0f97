"""Where work runs and where its results live. Torch- and Ray-free."""

from __future__ import annotations

import os
import re
from typing import Annotated, Any
from urllib.parse import unquote, urlsplit

from pydantic import Field, field_validator

from configs.base import Config
from configs.errors import ConfigError

_COUNTED = frozenset({"CPU", "GPU", "memory", "object_store_memory"})


class StorageConfig(Config):
    """The storage root of all artifacts and runs."""

    uri: str = Field(default="results", min_length=1)
    """A local folder or a URI that pyarrow understands (``s3://bucket/prefix``, ``gs://…``); ``~`` and environment
    variables are filled in."""

    endpoint: str | None = None
    """S3 endpoint (``host:port`` or URL) for S3-compatible stores; it travels to every worker with the filesystem."""

    region: str | None = None
    """S3 region; None lets pyarrow find it."""

    lease_timeout_s: float = Field(default=300.0, ge=5)
    """A process on another machine that has given no sign for so long counts as dead; its work is then taken up."""

    node_copies_gb: float = Field(default=50.0, gt=0)
    """Copies that a node keeps of an object store's files, in GiB, in the folder ``mentorec-cache-<user number>`` below
    ``TMPDIR`` (else ``/tmp``). They stay after a run, for the next one that reads the same; the least recently used
    give way to new ones, except those that a living process has asked for. The folder may be deleted while none runs.
    """

    def location(self) -> str:
        """The root as it is meant: a URI of an object store, or the path of a local folder, which may be relative.

        Raises:
            ConfigError: an environment variable is not set, or a ``file:`` URI names another host.
        """
        expanded = os.path.expanduser(os.path.expandvars(self.uri))
        unset = re.search(r"\$(\w+|\{\w+\})", expanded)
        if unset:
            raise ConfigError(f"storage.uri: {self.uri!r} needs the environment variable {unset.group(1).strip('{}')}, "
                              "which is not set; set it, or write the path out")
        if not expanded.startswith("file:"):
            return expanded
        parts = urlsplit(expanded)
        if parts.netloc not in ("", "localhost") or not parts.path.startswith("/"):
            raise ConfigError(f"storage.uri: got {self.uri!r}; legal: file:///path, with an absolute path of this "
                              "machine")
        return unquote(parts.path)

    def is_relative(self) -> bool:
        """Whether the root depends on the working folder. Raises ConfigError as :meth:`location` does."""
        place = self.location()
        return "://" not in place and not os.path.isabs(place)


class ClusterConfig(Config):
    """How to reach Ray. A running cluster (``RAY_ADDRESS``, ``ray job submit``) is joined; else one is started here."""

    num_cpus: int | None = Field(default=None, ge=1)
    """Logical CPUs of a locally started Ray; None takes the machine's, at least 2 (a stage reads beside its actors)."""

    object_store_gb: float | None = Field(default=None, gt=0)
    """Object store of a locally started Ray, in GiB; None keeps Ray's default."""

    worker_logs: bool = False
    """Show what the workers print, and Ray's own notices."""


class Placement(Config):
    """What Ray is told of a stage's actors, tasks or workers beside CPUs and GPUs: never part of a fingerprint, and
    without meaning where the driver's own process does the work (0 actors or workers)."""

    accelerator_type: str | None = None
    """GPU type as Ray names it, such as `H100`; None: any."""

    resources: dict[str, Annotated[float, Field(ge=1e-4)]] = {}
    """Custom resources that each of them asks for: `{large_memory: 1}` for nodes that were started with such."""

    runtime_env: dict[str, Any] = {}
    """Ray runtime environment of theirs: packages (`pip`, `uv`) and variables (`env_vars`) of their own. No secrets: it
    stands in the run's `config.json`."""

    @field_validator("resources")
    @classmethod
    def _custom_only(cls, value: dict[str, float]) -> dict[str, float]:
        for name in _COUNTED & value.keys():
            raise ValueError(f"{name}: legal are names of custom resources, of which this is none")
        return value

    @property
    def others(self) -> tuple[str, ...]:
        """What a person is told that each of them asks for beside CPUs and GPUs."""
        kind = (f"a node with {self.accelerator_type}",) if self.accelerator_type else ()
        return kind + tuple(f"{amount:g} {name}" for name, amount in self.resources.items())

    def ray_options(self) -> dict[str, Any]:
        """Of ``ray.remote``; what is not set is left out."""
        return {name: value for name, value in (("accelerator_type", self.accelerator_type),
                                                ("resources", self.resources), ("runtime_env", self.runtime_env))
                if value}


class ActorExecution(Placement):
    """Resources of a Ray Data stage: never part of a fingerprint."""

    actors: int = Field(default=1, ge=0)
    """Parallel actors (model replicas); 0: this process does the work itself, without Ray (small inputs start at once).
    """

    num_cpus: float = Field(default=1.0, ge=0)
    """CPUs per actor."""

    num_gpus: float = Field(default=0.0, ge=0)
    """GPUs per actor; a fraction shares one GPU between actors."""

    batch_rows: int = Field(default=256, ge=1)
    """Rows handed to an actor at once."""

    block_rows: int = Field(default=1000, ge=1)
    """Rows per written block: the unit of saved work when a run is resumed."""
