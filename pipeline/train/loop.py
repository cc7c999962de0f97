"""The training loop: two phases, validation, selection, checkpoints. The same code on one process or many workers.

Legend: B users of a batch.
"""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from cluster.storage import Storage
from configs.errors import TrainingError
from models.base import Student
from models.ensemble import Ensemble
from models.hashing import derive_seed
from models.item_table import BoundedChange, ItemTable, MappedText
from models.neighbours import NeighbourStates
from models.profile_reader import ProfileReader
from models.protocols import SequenceEncoder
from models.sequences import Batch
from models.students import build_encoder
from pipeline.store.arrays import cases
from pipeline.store.columns import USER_ID, USER_IDX
from pipeline.train.checkpoint import Checkpoint, Progress, read_checkpoint, write_checkpoint
from pipeline.train.data import TrainingRows
from pipeline.train.ensemble_baselines import load_baseline
from pipeline.train.export import load_model
from pipeline.train.feed import feed
from pipeline.train.item_vectors import ItemVectors
from pipeline.train.learner import Learner
from pipeline.train.metrics_log import MetricsLog
from pipeline.train.neighbours import read_neighbours
from pipeline.train.reading import PREFIX, load_reader, reader_of
from pipeline.train.sampler import Sampler
from pipeline.train.schedule import Schedule
from pipeline.train.seeds import Stream
from pipeline.train.selection import Selection
from pipeline.train.session import Session
from pipeline.train.spec import TrainSpec
from pipeline.train.teaching_config import BoundedChangeTable
from pipeline.train.validation import Validator
from pipeline.work.memory import keep_freed_memory

FAILURE = "non_finite_batch.json"
"""In the attempt folder: where and on which users the loss or its gradient stopped being finite."""
STATS_EVERY = 8
"""Steps between two for which an epoch's means of the variances and the retrieval share are computed."""


class NotFinite(TrainingError):
    """A loss, a gradient or a score is NaN or Inf; what is known of it is in the file ``FAILURE``."""


def train_loop(session: Session, spec: TrainSpec, storage: Storage, live: Path) -> None:
    """Train from the session's latest checkpoint, or from the start, to the end.

    The last checkpoint holds the served parameters of the chosen epoch, the metrics and what was done.

    Args:
        session: rank, device, checkpoints.
        spec: what to train.
        storage: where the paths of ``spec`` lie.
        live: local folder for ``metrics.jsonl`` and ``tensorboard/`` as they grow (rank 0 writes).

    Raises:
        TrainingError: a loss, a gradient or a validation score is NaN or Inf; every rank raises it, what is known of it
            is saved.
        StorageError: a checkpoint cannot be written.
    """
    keep_freed_memory()
    run = _Run(session, spec, storage, live)
    try:
        while not run.progress.finished:
            run.epoch()
    finally:
        run.close()


class _Run:
    """Everything one rank holds while it trains."""

    def __init__(self, session: Session, spec: TrainSpec, storage: Storage, live: Path) -> None:
        self._session, self._spec, self._storage = session, spec, storage
        config = spec.config
        encoder = build_encoder(spec.model, spec.num_items, spec.seed)
        if spec.initial is not None:
            encoder.load_state_dict(load_file(storage.local(spec.initial)))
        self._rows = TrainingRows.open(storage.local(spec.train), encoder)
        if spec.targets is not None and spec.neighbours is None and config.profile_input is None:
            self._rows = self._rows.with_targets(spec.open_targets(storage, self._rows.users_N))
        counts_V = self._rows.drawn_by(config.loss, spec.num_items)
        self._learner = Learner(encoder, config, spec.arm, spec.seed, session.device, spec.profile_dim,
                                spec.num_angles, counts_V, _item_table(spec, storage, encoder),
                                _ensemble(spec, storage, encoder), _neighbours(spec, storage),
                                _reader(spec, storage))
        self._sampler = Sampler(
            self._rows.lengths_N, config.users_per_batch(len(self._rows)), spec.seed, config.batch_tokens)
        self._schedule = Schedule(config, spec.arm, len(self._sampler))
        held_out = cases(storage.local(spec.validation))
        self._validator = Validator(held_out, config, spec.seed, session.rank, session.world_size)
        self._selection = Selection(config, self._validator.num_cases)
        self._best: dict[str, Tensor] | None = None
        self.progress = Progress(spec.fingerprint)
        earlier = self._resume()
        self._log = MetricsLog(live, earlier) if session.rank == 0 else None

    def close(self) -> None:
        if self._log is not None:
            self._log.close()

    def epoch(self) -> None:
        """One epoch, its validation, its checkpoint."""
        config, progress = self._spec.config, self.progress
        started = time.perf_counter()
        if self._schedule.fresh_optimizer(progress.epochs):
            self._learner.start_optimizer()
        means = self._train()
        self._learner.settle()
        student, device = self._learner.student()
        progress.epochs += 1
        if progress.world_sizes[-1:] != [self._session.world_size]:
            progress.world_sizes.append(self._session.world_size)
        last = progress.epochs == config.epochs
        validated: dict[str, float] = {}
        if self._validator.num_cases and (last or progress.epochs % config.validate_every_epochs == 0):
            validated = self._validate(student, device)
        if self._selection.update(progress, validated) and self._session.rank == 0:
            self._best = {name: value.detach().to("cpu", copy=True) for name, value in self._kept(student).items()}
        progress.finished = last or progress.stopped_early
        progress.seconds += time.perf_counter() - started
        record = {"kind": "epoch", "epoch": progress.epochs, "step": progress.steps,
                  "phase": self._selection.phase(progress.epochs), **means, **validated}
        if self._log is not None:
            self._log.write(record)
        due = progress.finished or progress.epochs % config.execution.checkpoint_every_epochs == 0
        folder = self._save() if due else None
        self._session.report({**record, "seconds": progress.seconds, "best": progress.best_metrics}, folder)

    def _kept(self, student: SequenceEncoder) -> dict[str, Tensor]:
        """What is exported of an epoch: the served parameters, and what a profile-reading member needs beside them."""
        reader = self._learner.model.profile_reader
        return {**student.state_dict(), **({} if reader is None else reader.state_dict(prefix=PREFIX))}

    def _validate(self, student: SequenceEncoder, device: torch.device) -> dict[str, float]:
        """Metrics of the validation users; scores that are not finite end the training as a loss does."""
        try:
            return self._validator(student, device, self._learner.model.profile_reader)
        except TrainingError as exc:
            self._fail(f"validation after epoch {self.progress.epochs}: {exc}", {"epoch": self.progress.epochs})

    def _train(self) -> dict[str, float]:
        """The optimizer steps of one epoch; returns global means over it."""
        spec, session, progress = self._spec, self._session, self.progress
        order = self._sampler.epoch(progress.epochs)
        log_every = spec.config.execution.log_every_steps
        first = progress.steps

        def make(place: int) -> Batch:
            rows_B = order.part(place, session.rank, session.world_size)
            return self._rows.batch(rows_B, with_targets=self._schedule.alpha(first + place) > 0)

        means = _Means()
        self._learner.model.train()
        for place, batch in enumerate(feed(make, len(order), session.device)):
            step = progress.steps
            alpha, rate = self._schedule.alpha(step), self._schedule.learning_rate(step)
            due, sampled = (step + 1) % log_every == 0, place % STATS_EVERY == 0
            values = self._learner.gradients(batch, alpha, progress.epochs, step, session.rank, due or sampled,
                                             self._schedule.matches(step))
            # Every one of them is global, so all ranks come to the same verdict.
            if not all(map(math.isfinite, values.values())):
                self._stop(values, order.batch(place))
            self._learner.update(rate)
            progress.steps += 1
            means.add(values, sampled)
            if self._log is not None and due:
                self._log.write({"kind": "step", "epoch": progress.epochs + 1, "step": progress.steps, "alpha": alpha,
                                 "learning_rate": rate, **values})
        return means.result()

    def _resume(self) -> bytes:
        """Load the latest checkpoint if there is one; returns the metrics up to it."""
        folder = self._session.latest_checkpoint()
        if folder is None:
            return b""
        saved = read_checkpoint(folder, self._spec.fingerprint)
        self._learner.restore(saved.model, saved.optimizer)
        self._best, self.progress = saved.best if self._session.rank == 0 else None, saved.progress
        return saved.metrics

    def _save(self) -> Path | None:
        """The first rank writes; the others send it what they hold."""
        optimizer = self._learner.optimizer_state()
        if self._log is None:
            return None
        folder = self._session.new_folder()
        write_checkpoint(folder, Checkpoint(self.progress, self._learner.model_state(), optimizer, self._best,
                                            self._log.content()))
        return folder

    def _stop(self, values: dict[str, float], rows_B: np.ndarray) -> NoReturn:
        spec, progress = self._spec, self.progress
        users = np.sort(self._rows.users[self._rows.index_N[rows_B]])
        table = self._storage.read_table(spec.users, [USER_IDX, USER_ID])
        raw = table.filter(np.isin(table[USER_IDX].to_numpy(), users))[USER_ID].to_pylist()
        broken = [name for name, value in values.items() if not np.isfinite(value)]
        file = f"{spec.folder}/{FAILURE}"
        message = (f"step {progress.steps + 1} (epoch {progress.epochs + 1}): {', '.join(broken)} became NaN or Inf; "
                   f"the batch's {len(users)} users ({', '.join(raw[:3])}, …) are in {self._storage.path(file)}; the "
                   "last good checkpoint is kept; lower train.optimizer.lr, set train.gradient_clip, or look at those "
                   "users' data")
        self._fail(message, {"epoch": progress.epochs + 1, "step": progress.steps + 1,
                             "values": {name: repr(value) for name, value in values.items()},
                             USER_IDX: users.tolist(), USER_ID: raw})

    def _fail(self, message: str, facts: dict[str, Any]) -> NoReturn:
        """Keep what is known and raise NotFinite; every rank comes here."""
        if self._session.rank == 0:
            self._storage.write_json(f"{self._spec.folder}/{FAILURE}", {"message": message, **facts})
        raise NotFinite(message)


def _item_table(spec: TrainSpec, storage: Storage, encoder: Student) -> ItemTable | None:
    """What computes the student's item table, where something does."""
    wanted = spec.config.item_table
    if wanted is None:
        return None
    if isinstance(wanted, BoundedChangeTable):
        return BoundedChange(encoder, wanted.limit)
    assert spec.texts is not None
    texts = ItemVectors.load(storage.local(spec.texts))
    start = torch.Generator().manual_seed(derive_seed(spec.seed, Stream.ITEM_TABLE))
    return MappedText(encoder, torch.from_numpy(texts.vectors_VE), torch.from_numpy(texts.known_V), start)


def _ensemble(spec: TrainSpec, storage: Storage, encoder: Student) -> Ensemble | None:
    """The finished recommenders that are matched, where there are any."""
    wanted = spec.config.ensemble
    if wanted is None:
        return None
    return Ensemble(encoder, [load_model(storage.local(folder)) for folder in spec.members],
                    [member.weight for member in wanted.members],
                    [None if file is None else load_reader(storage.local(file)) for file in spec.member_readers],
                    [load_baseline(config, storage.local(file))
                     for config, file in zip(wanted.baselines, spec.baselines, strict=True)])


def _reader(spec: TrainSpec, storage: Storage) -> ProfileReader | None:
    """What the student reads of profiles, where it does."""
    wanted = spec.config.profile_input
    if wanted is None:
        return None
    return reader_of(spec.open_targets(storage), spec.model.hidden_dim, wanted.dropout)


def _neighbours(spec: TrainSpec, storage: Storage) -> NeighbourStates | None:
    """The store of states that users are drawn to, where they are."""
    if spec.neighbours is None:
        return None
    users_R, near_RK = read_neighbours(storage.local(spec.neighbours))
    return NeighbourStates(torch.from_numpy(users_R), torch.from_numpy(near_RK), spec.model.hidden_dim)


_STATS = ("student_variance", "teacher_variance", "retrieval", "retrieval_by_chance")
_COUNTS = ("num_positions", "num_profiled")
_WEIGHTS = {"ranking": "num_positions", "matching": "num_positions"} | dict.fromkeys(
    ("distillation", "variance_floor", "beta", *_STATS), "num_profiled")


class _Means:
    """Means over an epoch: each loss by what it was averaged over, the rest by steps."""

    def __init__(self) -> None:
        self._sums: dict[str, float] = {}
        self._weights: dict[str, float] = {}

    def add(self, values: dict[str, float], with_stats: bool) -> None:
        """One step; a step that was asked for its statistics only to be logged leaves them out of the means."""
        if values.get("retrieval") is not None and values["num_profiled"]:
            values = values | {"retrieval_by_chance": 1 / values["num_profiled"]}
        for name, value in values.items():
            if name not in _COUNTS and (with_stats or name not in _STATS):
                weight = values[_WEIGHTS[name]] if name in _WEIGHTS else 1.0
                self._sums[name] = self._sums.get(name, 0.0) + weight * value
                self._weights[name] = self._weights.get(name, 0.0) + weight

    def result(self) -> dict[str, float]:
        """Values that nothing gave weight to (no profiled user, no distillation) are left out."""
        return {name: total / self._weights[name] for name, total in self._sums.items() if self._weights[name] > 0}
