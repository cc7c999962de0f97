"""Settings of the service."""

from __future__ import annotations

from pydantic import Field

from configs.base import Config


class ServeConfig(Config):
    """A recommender behind HTTP, on Ray Serve."""

    model: str = Field(min_length=1)
    """Folder or URI that `mentorec export` has written. Every node must reach it."""
    host: str = "127.0.0.1"
    """Address to listen on; the default answers this machine alone. 0.0.0.0 answers everyone: set `token_variable`."""
    port: int = Field(default=8000, ge=1, le=65535)
    replicas: int = Field(default=1, ge=1)
    """Processes that hold the model, spread over the cluster."""
    num_cpus: float = Field(default=1.0, gt=0)
    """CPUs per replica."""
    num_gpus: float = Field(default=0.0, ge=0)
    """GPUs per replica, which read the histories; 0: the CPU does. Lists are made on the CPU. Not verified on a GPU."""
    max_batch: int = Field(default=64, ge=1)
    """Requests that a replica answers together, at most."""
    batch_wait_s: float = Field(default=0.002, ge=0)
    """How long a request waits for others to be answered with."""
    max_queued: int = Field(default=1000, ge=1)
    """Requests that wait for a replica; more are refused with 503."""
    watch_s: float = Field(default=10.0, ge=0)
    """Between two looks whether the folder holds another model, which is then loaded beside the old one and takes its
    place; 0: never."""
    token_variable: str | None = Field(default=None, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    """Environment variable with a token that requests must bring (`Authorization: Bearer …`); None: nobody is asked."""
    max_body_bytes: int = Field(default=256 * 1024, ge=1024)
    """A larger body is refused with 413."""
    max_items: int = Field(default=2000, ge=1)
    """Ids of one request's history, and of each list of its filter."""
    approximate: bool = False
    """Lists by the folder's index (`mentorec export --ann`), which may miss an item; lists of a filter stay exact."""
    max_k: int = Field(default=100, ge=1, le=10_000)
    """Items per answer."""
