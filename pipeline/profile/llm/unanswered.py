"""The requests of a pass that have no answer yet: as a stream of Ray Data, or read by this process."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa

from pipeline.profile.llm.ledger import heads_of
from pipeline.profile.llm.requests import REQUEST, REQUEST_TYPE
from pipeline.store.artifacts import ArtifactDir
from pipeline.work.ascending import held
from pipeline.work.here import tables_of
from pipeline.work.mapping import in_blocks

if TYPE_CHECKING:
    from ray.data import Dataset

HELPERS: Final = 2
"""Tasks at once that read requests or save answers: each is a process to start, and none is ever the bottleneck."""
_HELPER_CPUS = 0.1


@dataclass(frozen=True)
class Unanswered:
    """What a pass's requests folder holds and neither the ledger nor the failures do."""

    out: ArtifactDir
    folder: str
    """Of the requests, below the attempt."""
    done: np.ndarray
    """uint64, ascending: heads of the requests that are answered or have failed."""

    def dataset(self, batch_rows: int) -> Dataset:
        """Columns of REQUEST_TYPE, ``batch_rows`` to a block. Ray must be running."""
        import ray
        import ray.data

        dataset = ray.data.read_parquet(self.out.path(self.folder), filesystem=self.out.storage.filesystem,
                                        partitioning=None, num_cpus=_HELPER_CPUS, concurrency=HELPERS)
        if len(self.done):
            dataset = dataset.map_batches(_without, fn_args=[ray.put(self.done)], batch_format="pyarrow",
                                          num_cpus=_HELPER_CPUS, compute=ray.data.TaskPoolStrategy(size=HELPERS))
        return in_blocks(dataset, batch_rows, _HELPER_CPUS)

    def tables(self, batch_rows: int) -> Iterator[pa.Table]:
        """The same, read by this process."""
        columns = [field.name for field in REQUEST_TYPE]
        batches = self.out.storage.read_folder(self.out.relative(self.folder), columns)
        wanted = (_keep(pa.Table.from_batches([batch]), self.done) for batch in batches)
        yield from tables_of((batch for table in wanted for batch in table.to_batches()), batch_rows)


def _without(batch: pa.Table, done_ref: Any) -> pa.Table:
    import ray

    return _keep(batch, ray.get(done_ref))


def _keep(batch: pa.Table, done: np.ndarray) -> pa.Table:
    return batch.filter(pa.array(~held(done, heads_of(batch[REQUEST].to_pylist()))))
