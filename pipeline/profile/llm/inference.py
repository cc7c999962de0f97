"""A pass's requests through an engine, answers into the ledger, saved batch by batch."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from configs.errors import ResourceError
from pipeline.profile.llm.ledger import (
    ATTEMPT,
    OUTPUT_TOKENS,
    PROMPT_TOKENS,
    SCHEMA,
    STARTED_AT,
    Index,
    Ledger,
    heads_of,
)
from pipeline.profile.llm.progress import AnswerProgress
from pipeline.profile.llm.requests import REQUEST
from pipeline.profile.llm.unanswered import Unanswered
from pipeline.store import rows
from pipeline.store.artifacts import ArtifactDir
from pipeline.work.ascending import held
from pipeline.work.mapping import quiet_context
from pipeline.work.nodes import Resources, await_gpus
from pipeline.work.progress import say
from pipeline.work.ray_errors import our_errors, without_actors

if TYPE_CHECKING:
    from ray.data import Dataset

ERROR: Final = "error"
"""Column: why there is no answer; null where there is one."""
_ANSWERED, _ERRORS = "answered", "errors"
_FAILED_FOLDER = f"{rows.WORK}/failed"


class Backend(Protocol):
    """An engine's way to answers."""

    @property
    def start(self) -> str:
        """What a person should know before the first answer comes."""

    @property
    def engines(self) -> int:
        """That share the work."""

    @property
    def in_flight(self) -> int:
        """Most requests that are under way, or answered and not yet saved."""

    def answers(self, requests: Unanswered, save: AnswerSaver) -> Iterator[pa.Table]:
        """Ask every request; yields what ``save`` returns, as it comes.

        Every request is handed to ``save`` once, in a batch of answers, by the process that asks or the one after it:
        answers that wait for a third process may be lost with it.
        """


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
        """Every request that failed, with its error."""
        if not self.any():
            return pa.table({REQUEST: pa.array([], pa.string()), ERROR: pa.array([], pa.string())})
        return self.out.storage.read_table(self.out.relative(_FAILED_FOLDER))


@dataclass(frozen=True)
class AnswerSaver:
    """Writes answers to the ledger, failures to the attempt."""

    ledger: Ledger
    failures: Failures
    attempt: str

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Columns of the ledger's SCHEMA but ATTEMPT, and ERROR → one row: how many answers, their tokens, errors, and
        when the first of them was asked for."""
        good, bad = batch.filter(pc.is_null(batch[ERROR])), batch.filter(pc.is_valid(batch[ERROR]))
        if good.num_rows:
            good = good.append_column(ATTEMPT, pa.array([self.attempt] * good.num_rows, pa.string()))
            self.ledger.write(good.select(SCHEMA.names))
        if bad.num_rows:
            self.failures.write(bad)
        return pa.table({_ANSWERED: [good.num_rows], _ERRORS: pa.array([bad[ERROR].to_pylist()], pa.list_(pa.string())),
                         STARTED_AT: pa.array([pc.min(good[STARTED_AT]).as_py()], pa.float64()),
                         **{name: [pc.sum(good[name]).as_py() or 0] for name in (PROMPT_TOKENS, OUTPUT_TOKENS)}})


def infer(backend: Backend, out: ArtifactDir, folder: str, ledger: Ledger, failures: Failures, number: int) -> None:
    """Get answers to what the pass's requests folder holds and the ledger does not. Ray must be running where the
    engine has actors."""
    source = f"{folder}/requests"
    known = Index.build(ledger)
    failed = heads_of(failures.table()[REQUEST].to_pylist())
    heads = np.concatenate([heads_of(out.storage.read_table(path, [REQUEST])[REQUEST].to_pylist())
                            for path in out.storage.files(out.relative(source))])
    done = np.union1d(heads[known.holds(heads)], failed)
    total = int((~held(done, heads)).sum())
    marker = f"{folder}/asking.json"
    if out.storage.exists(out.relative(marker)):
        again = min(total, backend.in_flight)
        say(f"profile: pass {number + 1} goes on: {len(heads) - total:,} of {len(heads):,} answers are saved; of the "
            f"{total:,} others at most {again:,} were in flight and are asked again")
    else:
        out.write_json(marker, {"requests": len(heads)})
    if not total:
        return
    say(f"profile: pass {number + 1}: {total:,} requests; {backend.start}")
    progress = AnswerProgress(f"profile: pass {number + 1}", total)
    try:
        with progress:
            saver = AnswerSaver(ledger, failures, out.attempt)
            for saved in backend.answers(Unanswered(out, source, done), saver):
                for row in saved.to_pylist():
                    progress.add(row[_ANSWERED], row[PROMPT_TOKENS], row[OUTPUT_TOKENS], row[_ERRORS], row[STARTED_AT])
    finally:
        if (speed := progress.tokens_per_second) is not None:
            ledger.remember_speed(speed / backend.engines)
    say(progress.summary())


def drained(stream: Callable[[], Dataset], bundles: Sequence[Resources]) -> Iterator[pa.Table]:
    """Run the stream of Ray Data that is made here to its end, and give what comes of it.

    Args:
        bundles: what the engine's actors ask for.

    Raises:
        ResourceError: the cluster has too few GPUs, or the engine did not start.
    """
    await_gpus(bundles, "profile", "lower profile.engine.execution.replicas, tensor_parallel or num_gpus, or add nodes")
    batches = _batches(stream)
    while (batch := without_actors(lambda: next(batches, None))) is not None:
        yield batch


def _batches(stream: Callable[[], Dataset]) -> Iterator[pa.Table]:
    import ray.data

    with ray.data.DataContext.current(quiet_context()), our_errors("profile"), _engine_errors():
        yield from stream().iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)


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
