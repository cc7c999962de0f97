"""One rank's optimizer steps: forward, backward, exchange between ranks, clipping, update.

Legend: V items 1…n.
"""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from models.base import Student
from models.distilled import DistilledRecommender
from models.ensemble import Ensemble
from models.hashing import derive_seed
from models.item_table import ItemTable, fold
from models.neighbours import NeighbourStates
from models.parallel import world_size
from models.profile_reader import ProfileReader
from models.protocols import SequenceEncoder
from models.row_shard import WHOLE, RowShard
from models.rowwise import STATE, RowwiseTable, replace_parameter
from models.sequences import Batch
from pipeline.train.config import Arm, TrainConfig
from pipeline.train.optimizer_state import optimizer_tensors, restore_optimizer
from pipeline.train.seeds import Stream


class Learner:
    """A student with its losses and its optimizer, under DDP where several ranks train."""

    def __init__(self, encoder: SequenceEncoder, config: TrainConfig, arm: Arm, seed: int, device: torch.device,
                 profile_dim: int = 0, num_angles: int = 0, item_counts_V: np.ndarray | None = None,
                 item_table: ItemTable | None = None, ensemble: Ensemble | None = None,
                 neighbours: NeighbourStates | None = None, profile_reader: ProfileReader | None = None) -> None:
        """
        Args:
            encoder: the student, freshly built or loaded; it is moved to ``device``, a divided item table apart:
                :meth:`student` gives it whole.
            config: losses, optimizer, precision.
            arm: the plain one has no teacher's side.
            seed: of the run.
            device: to train on.
            profile_dim: width of the teacher's vectors.
            num_angles: profiles per user, at most.
            item_counts_V: occurrences of the items in training, for losses that sample by them.
            item_table: computes the student's item table while it trains.
            ensemble: recommenders to match, as ``config.ensemble`` says.
            neighbours: states of other users, as ``config.distillation.target`` says.
            profile_reader: what the student reads of profiles, as ``config.profile_input`` says.
        """
        self._config, self._seed, self._device = config, seed, device
        self._folded: Student | None = None
        counts_V = None if item_counts_V is None else torch.from_numpy(item_counts_V)
        self.model = DistilledRecommender(encoder, config.loss, None if arm == "plain" else config.distillation,
                                          profile_dim, num_angles, seed, config.compat, config.precision, counts_V,
                                          item_table, neighbours, profile_reader)
        if item_table is not None:
            assert isinstance(encoder, Student)
            encoder.item_embedding.weight.requires_grad_(False)
            self._folded = encoder
        self._table: RowwiseTable | None = None
        if config.optimizer.table == "rowwise":
            given = config.optimizer
            shard = RowShard.own() if config.execution.shard_item_table else WHOLE
            self._table = RowwiseTable(encoder, (given.beta1, given.beta2), given.weight_decay, device, shard)
            self.model.train_rows_of(self._table)
        self.model.to(device)
        if ensemble is not None and config.ensemble is not None:
            self.model.learn_from(ensemble.to(device), config.ensemble)
        self._trained = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        self._wrapped: nn.Module = self.model
        if world_size() > 1:
            self._wrapped = DistributedDataParallel(self.model, broadcast_buffers=False, gradient_as_bucket_view=True)
        self.start_optimizer()

    def start_optimizer(self) -> None:
        """Forget what the optimizer knows."""
        given = self._config.optimizer
        self._optimizer = torch.optim.AdamW(self._trained.values(), given.lr, (given.beta1, given.beta2),
                                            weight_decay=given.weight_decay, fused=self._device.type in ("cpu", "cuda"))
        if self._table is not None:
            self._table.settle()
            self._table.reset()

    def gradients(self, batch: Batch, alpha: float, epoch: int, step: int, rank: int, with_stats: bool,
                  matching: bool = False) -> dict[str, float]:
        """Make the gradients of one step, clipped as configured; nothing is changed yet.

        Args:
            batch: this rank's part, on the device.
            alpha: α of this step.
            epoch: from 0; masks depend on it.
            step: from 0 over the whole run; dropout and negatives depend on it.
            rank: of this process.
            with_stats: also compute the numbers that show a collapse.
            matching: the step learns from the ensemble.

        Returns:
            The step's global numbers, equal on every rank.
        """
        config = self._config
        # On a CPU torch.manual_seed would also queue a seed, with a stack trace, for every device that may yet appear.
        seed = torch.default_generator.manual_seed if self._device.type == "cpu" else torch.manual_seed
        seed(derive_seed(self._seed, Stream.DROPOUT, step, rank))
        for parameter in self._trained.values():
            parameter.grad = None
        # On a CPU an encoder of these widths is slower under autocast: there only the loss's products are rounded.
        rounded = config.precision == "bf16" and self._device.type != "cpu"
        with torch.autocast(self._device.type, torch.bfloat16, enabled=rounded):
            terms = self._wrapped(batch, alpha, config.beta, config.beta_cap,
                                  derive_seed(self._seed, Stream.MASKS, epoch), with_stats,
                                  derive_seed(self._seed, Stream.NEGATIVES, step), matching)
        terms.total.backward()
        if self._table is not None:
            self._table.exchange()
        return terms.values() | {"gradient_norm": self._clip()}

    def update(self, rate: float) -> None:
        """Apply the gradients with this learning rate."""
        self._optimizer.param_groups[0]["lr"] = rate
        self._optimizer.step()
        if self._table is not None:
            self._table.step(rate)

    def settle(self) -> None:
        """Bring the weights up to date before they are read as a whole: after an epoch."""
        if self._table is not None:
            self._table.settle()
        if self._folded is not None and self.model.item_table is not None:
            fold(self._folded, self.model.item_table)

    def student(self) -> tuple[SequenceEncoder, torch.device]:
        """The student with its whole item table, and the device it is on: the host where the workers' devices share
        the table. Call ``settle`` first."""
        encoder = self.model.encoder
        if self._table is None or not self._table.divided:
            return encoder, self._device
        whole = copy.deepcopy(encoder)
        assert isinstance(whole, nn.Module)
        replace_parameter(whole, self._table.name, self._table.whole_VD)
        return whole, torch.device("cpu")

    def model_state(self) -> dict[str, Tensor]:
        """Every parameter by its name, the item table whole; call ``settle`` first."""
        state: dict[str, Tensor] = self.model.state_dict()
        return state if self._table is None else state | {self._table_name: self._table.whole_VD}

    def optimizer_state(self) -> dict[str, Tensor]:
        """``parameter name/state name`` → tensor; call ``settle`` first, and on every rank: where the item table is
        divided, the first rank alone gets what belongs to it."""
        state = optimizer_tensors(self._optimizer, list(self._trained))
        if self._table is not None:
            state |= {f"{self._table_name}/{key}": value for key, value in self._table.state().items()}
        return state

    def restore(self, model: dict[str, Tensor], optimizer: dict[str, Tensor]) -> None:
        """Put back what ``model_state`` and ``optimizer_state`` gave."""
        if self._table is not None:
            name = self._table_name
            self._table.load(model[name], {key: optimizer[f"{name}/{key}"] for key in STATE})
            model = model | {name: self.model.get_parameter(name)}
            optimizer = {path: value for path, value in optimizer.items() if path.rpartition("/")[0] in self._trained}
        self.model.load_state_dict(model)
        restore_optimizer(self._optimizer, list(self._trained), optimizer)

    @property
    def _table_name(self) -> str:
        assert self._table is not None
        return f"encoder.{self._table.name}"

    def _clip(self) -> float:
        """Bound the global norm as configured; returns it as it was. Ranks have exchanged: it is the same on all."""
        parameters: list[Tensor] = [p for p in self._trained.values() if p.grad is not None]
        if self._table is not None:
            parameters.append(self._table.rows_TD)
        norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        if self._config.gradient_clip is not None:
            nn.utils.clip_grads_with_norm_(parameters, self._config.gradient_clip, norm)
        return float(norm)
