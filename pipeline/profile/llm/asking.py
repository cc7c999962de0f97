"""One pass's requests through an engine, answers into the ledger: a stream of Ray Data, saved batch by batch."""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from configs.errors import ResourceError
from pipeline.profile.llm.ledger import ATTEMPT, SCHEMA, Index, Ledger, heads_of
from pipeline.profile.llm.requests import REQUEST
from pipeline.store import rows
from pipeline.store.artifacts import ArtifactDir
from pipeline.work.mapping import our_errors, quiet_context
from pipeline.work.progress import is_quiet, say

if TYPE_CHECKING:
    from ray.data import Dataset

ERROR: Final = "error"
"""Column: why there is no answer; null where there is one."""
_HELPER_CPUS = 0.1
"""CPUs of a task that reads requests or saves answers."""
HELPERS = 2
"""Such tasks at once: each is a process to start, and none is ever the bottleneck."""
_SAVED, _FAILED = "saved", "failed"
_PROGRESS_SECONDS = 15.0
_FAILED_FOLDER = f"{rows.WORK}/failed"


class Asker(Protocol):
    """An engine's way to answers."""

    @property
    def batch_size(self) -> int:
        """Requests answered and saved together."""

    @property
    def in_flight(self) -> int:
        """Most requests that are under way, or answered and not yet saved."""

    def answered(self, requests: Dataset, save: Save) -> Dataset:
        """Columns of REQUEST_TYPE → what ``save`` returns; every request is handed to it once, in a batch of answers,
        by the process that asks or the next one: what waits for a third may be lost with it."""


@dataclass(frozen=True)
class Failures:
    """Requests that got no answer. They are forgotten when a command starts, so the next one asks them anew."""

    out: ArtifactDir

    def any(self) -> bool:
        return bool(self.out.storage.names(self.out.relative(_FAILED_FOLDER)))

    def clear(self) -> None:
        self.out.storage.delete(self.out.relative(_FAILED_FOLDER))

    def write(self, failed: pa.Table) -> None:
        """Save (REQUEST, ERROR)."""
        name = hashlib.blake2b("".join(sorted(failed[REQUEST].to_pylist())).encode(), digest_size=8).hexdigest()
        self.out.write_table(f"{_FAILED_FOLDER}/{name}.parquet", failed.select([REQUEST, ERROR]))

    def table(self) -> pa.Table:
        """All of them."""
        if not self.any():
            return pa.table({REQUEST: pa.array([], pa.string()), ERROR: pa.array([], pa.string())})
        return self.out.storage.read_table(self.out.relative(_FAILED_FOLDER))


@dataclass(frozen=True)
class Save:
    """Answers to the ledger, failures to the attempt."""

    ledger: Ledger
    failures: Failures
    attempt: str

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Columns of the ledger's SCHEMA but ATTEMPT, and ERROR → one row: how many of each."""
        good, bad = batch.filter(pc.is_null(batch[ERROR])), batch.filter(pc.is_valid(batch[ERROR]))
        if good.num_rows:
            good = good.append_column(ATTEMPT, pa.array([self.attempt] * good.num_rows, pa.string()))
            self.ledger.write(good.select(SCHEMA.names))
        if bad.num_rows:
            self.failures.write(bad)
        return pa.table({_SAVED: [good.num_rows], _FAILED: [bad.num_rows]})


def ask(asker: Asker, out: ArtifactDir, folder: str, ledger: Ledger, failures: Failures, number: int) -> None:
    """Ask what the pass's requests folder holds and the ledger does not. Ray must be running."""
    import ray
    import ray.data

    source = f"{folder}/requests"
    known = Index.build(ledger)
    failed = heads_of(failures.table()[REQUEST].to_pylist())
    heads = np.concatenate([heads_of(out.storage.read_table(path, [REQUEST])[REQUEST].to_pylist())
                            for path in out.storage.files(out.relative(source))])
    done = np.union1d(heads[known.holds(heads)], failed)
    total = int((~np.isin(heads, done)).sum())
    marker = f"{folder}/asking.json"
    if out.storage.exists(out.relative(marker)):
        again = min(total, asker.in_flight)
        say(f"profile: pass {number + 1} goes on: {len(heads) - total:,} of {len(heads):,} answers are saved; of the "
            f"{total:,} others at most {again:,} were in flight and are asked again")
    else:
        out.write_json(marker, {"requests": len(heads)})
    if not total:
        return
    say(f"profile: pass {number + 1}: asking {total:,} requests")
    with ray.data.DataContext.current(quiet_context()), our_errors("profile"), _engine_errors():
        helpers = ray.data.TaskPoolStrategy(size=HELPERS)
        dataset = ray.data.read_parquet(out.path(source), filesystem=out.storage.filesystem, partitioning=None,
                                        num_cpus=_HELPER_CPUS, concurrency=HELPERS)
        if len(done):
            dataset = dataset.map_batches(_unanswered, fn_args=[ray.put(np.sort(done))], batch_format="pyarrow",
                                          num_cpus=_HELPER_CPUS, compute=helpers)
        dataset = dataset.repartition(target_num_rows_per_block=asker.batch_size)
        _watch(asker.answered(dataset, Save(ledger, failures, out.attempt)), total, number)


@contextmanager
def _engine_errors() -> Iterator[None]:
    """An engine that cannot start ends its actor; say so, with its own last words."""
    from ray.exceptions import ActorDiedError

    try:
        yield
    except ActorDiedError as exc:
        lines = [line.strip() for line in str(exc).splitlines() if "rror" in line and "://" not in line]
        if "creation task" not in str(exc):
            raise
        raise ResourceError(f"profile: the engine did not start: {lines[-1][:400] if lines else ''}; see engine.model, "
                            "engine.model_kwargs and engine.execution (the actors' own words: "
                            "cluster.worker_logs=true); answers are kept") from exc


def _unanswered(batch: pa.Table, done_ref: Any) -> pa.Table:
    import ray

    return batch.filter(pa.array(~np.isin(heads_of(batch[REQUEST].to_pylist()), ray.get(done_ref))))


def _watch(saved: Dataset, total: int, number: int) -> None:
    """Run the stream to its end, telling now and then how far it is."""
    started = last = time.monotonic()
    done = failed = 0
    for batch in saved.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        done += pc.sum(batch[_SAVED]).as_py()
        failed += pc.sum(batch[_FAILED]).as_py()
        if time.monotonic() - last > _PROGRESS_SECONDS and not (is_quiet() or sys.stderr.isatty()):
            last = time.monotonic()
            say(f"profile: pass {number + 1}: {done:,} of {total:,} answered"
                + (f", {failed:,} without an answer" if failed else ""))
    say(f"profile: pass {number + 1}: {done:,} answers" + (f", {failed:,} requests without one" if failed else "")
        + f" in {time.monotonic() - started:.1f} s")

