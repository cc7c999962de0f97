"""Where work runs and where its results live. Torch- and Ray-free."""

from __future__ import annotations

from pydantic import Field

from configs.base import Config


class StorageConfig(Config):
    """The storage root of all artifacts and runs."""

    uri: str = "results"
    """A local folder or a URI that pyarrow understands (``s3://bucket/prefix``, ``gs://…``)."""

    endpoint: str | None = None
    """S3 endpoint (``host:port`` or URL) for S3-compatible stores; it travels to every worker with the filesystem."""

    region: str | None = None
    """S3 region; None lets pyarrow find it."""

    lease_timeout_s: float = Field(default=300.0, ge=5)
    """A process on another machine that has given no sign for so long counts as dead; its work is then taken up."""


class ClusterConfig(Config):
    """How to reach Ray. A running cluster (``RAY_ADDRESS``, ``ray job submit``) is joined; else one is started here."""

    num_cpus: int | None = Field(default=None, ge=1)
    """Logical CPUs of a locally started Ray; None takes the machine's, at least 2 (a stage reads beside its actors)."""

    object_store_gb: float | None = Field(default=None, gt=0)
    """Object store of a locally started Ray, in GiB; None keeps Ray's default."""

    worker_logs: bool = False
    """Show what the workers print, and Ray's own notices."""


class ActorExecution(Config):
    """Resources of a Ray Data stage: never part of a fingerprint."""

    actors: int = Field(default=1, ge=1)
    """Parallel actors (model replicas)."""

    num_cpus: float = Field(default=1.0, ge=0)
    """CPUs per actor."""

    num_gpus: float = Field(default=0.0, ge=0)
    """GPUs per actor; a fraction shares one GPU between actors."""

    batch_rows: int = Field(default=256, ge=1)
    """Rows handed to an actor at once."""

    block_rows: int = Field(default=1000, ge=1)
    """Rows per written block: the unit of saved work when a run is resumed."""
