"""Resources of training. Torch- and Ray-free."""

from __future__ import annotations

from typing import Any

from pydantic import Field, field_validator, model_validator

from cluster.config import Placement

_ELASTIC = "legal for an elastic group: [fewest, most] workers, 1 or more and then a larger number"


class TrainExecution(Placement):
    """Resources of training: no part of a fingerprint but for `num_workers`, where it changes the result."""

    num_workers: int | tuple[int, int] = 1
    """DDP workers of Ray Train; 0 trains in the driver's own process (no worker start, same results). `[fewest, most]`
    is an elastic group: it begins with as many as there is room for, shrinks when nodes are lost and grows again when
    some come. Each worker draws its own dropout masks: with dropout, two or more are another address than one."""
    use_gpu: bool = False
    """One GPU per worker."""
    cpus_per_worker: float = Field(default=1.0, gt=0)
    """CPUs that Ray reserves for each worker."""
    threads_per_worker: int | None = Field(default=None, ge=1)
    """Torch threads per worker; None: all cores shared evenly between the workers."""
    shard_item_table: bool = False
    """Divide the item table and its moments over the workers' devices, for one that is too large for each: the same
    weights. Needs `optimizer.table: rowwise` and two workers or more. Each worker also holds the whole table in its
    host's memory, the first one up to four while it writes a checkpoint; validation is done there, by the CPUs: bound
    it by `validation_users`."""
    max_failures: int = Field(default=2, ge=0)
    """Restarts of the worker group from the last checkpoint."""
    resize_every_s: float = Field(default=60.0, gt=0)
    """Least seconds between two looks whether an elastic group may grow; growing costs what was learnt since the last
    checkpoint."""
    checkpoint_every_epochs: int = Field(default=1, ge=1)
    """A killed run goes on from the last one; the last epoch always has one. Two are kept."""
    log_every_steps: int = Field(default=50, ge=1)
    """Optimizer steps between two step records of `metrics.jsonl`."""

    @field_validator("num_workers", mode="before")
    @classmethod
    def _of_two_numbers(cls, value: Any) -> Any:
        if isinstance(value, (list, tuple)) and len(value) != 2:
            raise ValueError(_ELASTIC)
        return value

    @field_validator("num_workers")
    @classmethod
    def _in_order(cls, value: int | tuple[int, int]) -> int | tuple[int, int]:
        if isinstance(value, tuple) and not 1 <= value[0] < value[1]:
            raise ValueError(_ELASTIC)
        if isinstance(value, int) and value < 0:
            raise ValueError("legal: 0, 1, … workers, or [fewest, most]")
        return value

    @model_validator(mode="after")
    def _whole_cpus(self) -> TrainExecution:
        for name, value in {"cpus_per_worker": self.cpus_per_worker, **self.resources}.items():
            if isinstance(self.num_workers, tuple) and value % 1:
                raise ValueError(f"{name}={value:g}: legal with an elastic num_workers are whole numbers, as Ray "
                                 "counts no fractions there")
        return self

    @property
    def fewest_workers(self) -> int:
        """That training begins and goes on with."""
        return self.num_workers[0] if isinstance(self.num_workers, tuple) else self.num_workers

    @property
    def most_workers(self) -> int:
        """That it uses."""
        return self.num_workers[1] if isinstance(self.num_workers, tuple) else self.num_workers
