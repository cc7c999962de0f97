"""AdamW for an item table of which a step touches few rows: the work of a step does not grow with the catalogue.

A step gathers the rows it reads (inputs, targets, negatives of all ranks) into a small leaf tensor, trains on that,
and writes them back. A row that rests still moves under Adam: its moments decay and its momentum runs out. Both are
made up for when the row is next read, in closed form, as lazy updates of sparse models do (Carpenter, 2008; Lipton &
Elkan, 2015): over n resting steps after step s

    m ← β1ⁿ m,  v ← β2ⁿ v,  w ← D·w - m / √v · Σ_j lr_j·c_j·rʲ⁻ˢ·D_j,   r = β1 / √β2,  c_j = √(1 - β2ʲ) / (1 - β1ʲ)

with D the product of the weight decay of those steps and D_j of those after j. So the weights are those of AdamW over
the whole table (Kingma & Ba, ICLR'15; Loshchilov & Hutter, ICLR'19), but for ε, which rests too.

A table larger than a device's memory is divided over the ranks, with its moments: each rank holds every W-th row, a
step brings the rows it reads together, and only between epochs is the table put together, on the host.

Legend: V rows of the table, H those that this rank holds, T touched rows, M those of them that this rank holds,
D hidden width, W ranks.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from configs.errors import ConfigError
from models.parallel import gather_ids, world_size
from models.protocols import SequenceEncoder
from models.row_shard import WHOLE, RowShard

_EPS = 1e-8
_REACH = 1024
"""Steps after which resting momentum has run out: 0.9005^1024 is 1e-46."""


STATE = ("exp_avg", "exp_avg_sq", "step")
"""What the optimizer keeps of the table, named as AdamW names its own."""


class RowwiseTable:
    """The item table of an encoder, its Adam moments, and the rows of the present step."""

    def __init__(self, encoder: SequenceEncoder, betas: tuple[float, float], weight_decay: float,
                 device: torch.device | None = None, shard: RowShard = WHOLE) -> None:
        """The table is taken out of autograd: neither DDP nor another optimizer sees it any more.

        Args:
            encoder: its table is moved to ``device``; with a shard the encoder keeps an empty one in its place.
            betas: of AdamW.
            weight_decay: likewise.
            device: of the rows and moments; None: where they are.
            shard: which rows this rank holds.

        Raises:
            ConfigError: the encoder's scoring vectors are no rows of a parameter that its inputs index.
        """
        assert isinstance(encoder, nn.Module)
        self.name, self._shard = item_table(encoder), shard
        parameter_VD = encoder.get_parameter(self.name).requires_grad_(False)
        self.whole_VD: Tensor = parameter_VD
        """The whole table as it was last settled; with a shard on the host."""
        if shard.divides:
            self.whole_VD = parameter_VD.detach()
            self._table_HD = shard.held(self.whole_VD).to(device, copy=True)
            replace_parameter(encoder, self.name, torch.zeros_like(self.whole_VD[:1], device=device))
        else:
            parameter_VD.data = parameter_VD.data.to(device)
            self._table_HD = parameter_VD
        self._betas, self._weight_decay = betas, weight_decay
        self._decay = betas[0] / betas[1] ** 0.5
        self.reset()

    @property
    def divided(self) -> bool:
        """Whether other ranks hold other rows."""
        return self._shard.divides

    def reset(self) -> None:
        """Forget the moments; what rested has caught up or is forgotten too."""
        self._step = 0
        self._moment_HD = torch.zeros_like(self._table_HD)
        self._square_HD = torch.zeros_like(self._table_HD)
        self._begin()

    def take(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """The rows that all ranks' ``ids`` name, up to date, and those ids in ascending order.

        Returns:
            [T, D], a leaf that collects this rank's gradient, and int64 [T].
        """
        ids_T = ids.unique()
        if world_size() > 1:
            ids_T = gather_ids(ids_T).unique()
        self._places_M = self._shard.places(ids_T)
        self._rows_M = self._shard.rows(ids_T[self._places_M])
        self._values_MD, self._moment_MD, self._square_MD = self._caught_up(self._rows_M)
        self.rows_TD = self._shard.together(self._values_MD, ids_T).requires_grad_()
        return self.rows_TD, ids_T

    def exchange(self) -> None:
        """Average the rows' gradient over the ranks, as DDP does for its parameters; call it after ``backward``."""
        if self.rows_TD.grad is None:
            self.rows_TD.grad = torch.zeros_like(self.rows_TD)
        if world_size() > 1:
            dist.all_reduce(self.rows_TD.grad)
            self.rows_TD.grad /= world_size()

    def step(self, lr: float) -> None:
        """One AdamW step of the taken rows; all others rest."""
        (beta1, beta2), gradient_TD = self._betas, self.rows_TD.grad
        assert gradient_TD is not None
        gradient_MD = gradient_TD[self._places_M]
        self._step += 1
        correction = self._correction()
        self._moment_MD.lerp_(gradient_MD, 1 - beta1)
        self._square_MD.mul_(beta2).addcmul_(gradient_MD, gradient_MD, value=1 - beta2)
        root_MD = self._square_MD.sqrt().add_(_EPS * (1 - beta2**self._step) ** 0.5)
        self._values_MD.mul_(1 - lr * self._weight_decay).addcdiv_(self._moment_MD, root_MD, value=-lr * correction)
        self._rest(lr * correction, lr)
        for held_HD, rows_MD in ((self._table_HD, self._values_MD), (self._moment_HD, self._moment_MD),
                                 (self._square_HD, self._square_MD)):
            held_HD.index_copy_(0, self._rows_M, rows_MD)
        self._seen_H.index_fill_(0, self._rows_M, self._rests)

    def settle(self) -> None:
        """Bring every row up to date; before the table is read as a whole. Every rank must call it."""
        if self._rests == 0:
            return
        block = 2**16
        for start in range(0, len(self._table_HD), block):
            rows = torch.arange(start, min(start + block, len(self._table_HD)), device=self._table_HD.device)
            for held_HD, rows_XD in zip((self._table_HD, self._moment_HD, self._square_HD), self._caught_up(rows),
                                        strict=True):
                held_HD[start : start + block] = rows_XD
        self._begin()
        if self.divided:
            self._shard.put_together(self._table_HD, self.whole_VD)

    def state(self) -> dict[str, Tensor]:
        """The settled table's optimizer state by the names of ``STATE``, whole on the first rank; the others, which
        must call it too, get nothing where the table is divided."""
        assert self._rests == 0
        moments = [self._moment_HD, self._square_HD]
        if self.divided:
            moments = [self._shard.collected(held_HD, len(self.whole_VD)) for held_HD in moments]
            if self._shard.rank:
                return {}
        return dict(zip(STATE, (*moments, torch.tensor(float(self._step))), strict=True))

    def load(self, table_VD: Tensor, state: dict[str, Tensor]) -> None:
        """Put a table and its ``state`` back, both whole."""
        self._step = int(state["step"])
        self.whole_VD.copy_(table_VD)
        if self.divided:
            self._table_HD.copy_(self._shard.held(table_VD))
        self._moment_HD.copy_(self._shard.held(state["exp_avg"]))
        self._square_HD.copy_(self._shard.held(state["exp_avg_sq"]))
        self._begin()

    def _begin(self) -> None:
        """All rows are up to date."""
        self._rests = 0
        self._seen_H = torch.zeros(len(self._table_HD), dtype=torch.int64, device=self._table_HD.device)
        self._moved = np.zeros(256)
        """By step s: Σ_j lr_j·c_j·r^(j-s) over the later steps j, each divided by the weight decay up to j."""
        self._shrunk = np.zeros(256)
        """By step: log of the product of weight decay up to it."""
        self._powers = self._decay ** np.arange(_REACH, 0, -1.0)

    def _rest(self, move: float, lr: float) -> None:
        """Take note of one step for the rows that it did not touch."""
        self._rests += 1
        if self._rests == len(self._moved):
            self._moved, self._shrunk = (np.concatenate([x, np.zeros(len(x))]) for x in (self._moved, self._shrunk))
        now, first = self._rests, max(0, self._rests - _REACH)
        self._shrunk[now] = self._shrunk[now - 1] + np.log1p(-lr * self._weight_decay)
        self._moved[first:now] += move * np.exp(-self._shrunk[now]) * self._powers[_REACH - (now - first):]

    def _caught_up(self, rows_M: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Held rows, first and second moments as they are after all steps so far."""
        (beta1, beta2), seen_M = self._betas, self._seen_H.index_select(0, rows_M)
        rested_M1 = (self._rests - seen_M).unsqueeze(1)
        values_MD, moment_MD, square_MD = (
            held_HD.index_select(0, rows_M) for held_HD in (self._table_HD, self._moment_HD, self._square_HD))
        shrunk_M1 = (self._shrunk[self._rests] - self._by_step(self._shrunk)[seen_M]).exp().float().unsqueeze(1)
        moved_M1 = (self._by_step(self._moved)[seen_M] * float(np.exp(self._shrunk[self._rests]))).float().unsqueeze(1)
        root_MD = square_MD.sqrt().add_(_EPS * (1 - beta2 ** max(self._step, 1)) ** 0.5)
        values_MD.mul_(shrunk_M1).addcdiv_(moment_MD * moved_M1, root_MD, value=-1)
        return values_MD, moment_MD.mul_(beta1**rested_M1), square_MD.mul_(beta2**rested_M1)

    def _by_step(self, values: np.ndarray) -> Tensor:
        return torch.from_numpy(values[: self._rests + 1]).to(self._table_HD.device)

    def _correction(self) -> float:
        beta1, beta2 = self._betas
        return float((1 - beta2**self._step) ** 0.5 / (1 - beta1**self._step))


def item_table(encoder: SequenceEncoder) -> str:
    """Name of the parameter whose row i is item i, both read and scored.

    Raises:
        ConfigError: there is none.
    """
    assert isinstance(encoder, nn.Module)
    weights_VD = encoder.item_weights_VD()
    for name, value in encoder.named_parameters():
        offset = weights_VD.data_ptr() - value.data_ptr()
        if value.ndim == 2 and weights_VD.stride() == value.stride() and offset == value.stride(0) * value.itemsize:
            return name
    raise ConfigError("train.optimizer.table: rowwise needs a student whose item_weights_VD is rows 1…n of the table "
                      "that its inputs index; choose dense")


def replace_parameter(encoder: SequenceEncoder, name: str, value: Tensor) -> None:
    """Put another tensor, which is not trained, in a parameter's place."""
    assert isinstance(encoder, nn.Module)
    owner, _, leaf = name.rpartition(".")
    setattr(encoder.get_submodule(owner), leaf, nn.Parameter(value, requires_grad=False))
