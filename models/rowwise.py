"""AdamW for an item table of which a step touches few rows: the work of a step does not grow with the catalogue.

A step gathers the rows it reads (inputs, targets, negatives of all ranks) into a small leaf tensor, trains on that,
and writes them back. A row that rests still moves under Adam: its moments decay and its momentum runs out. Both are
made up for when the row is next read, in closed form, as lazy updates of sparse models do (Carpenter, 2008; Lipton &
Elkan, 2015): over n resting steps after step s

    m ← β1ⁿ m,  v ← β2ⁿ v,  w ← D·w - m / √v · Σ_j lr_j·c_j·rʲ⁻ˢ·D_j,   r = β1 / √β2,  c_j = √(1 - β2ʲ) / (1 - β1ʲ)

with D the product of the weight decay of those steps and D_j of those after j. So the weights are those of AdamW over
the whole table (Kingma & Ba, ICLR'15; Loshchilov & Hutter, ICLR'19), but for ε, which rests too.

Legend: V rows of the table, T touched rows, D hidden width, S steps since the table was last settled.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from configs.errors import ConfigError
from models.parallel import gather_ids, world_size
from models.protocols import SequenceEncoder

_EPS = 1e-8
_REACH = 1024
"""Steps after which resting momentum has run out: 0.9005^1024 is 1e-46."""


class RowwiseTable:
    """The item table of an encoder, its Adam moments, and the rows of the present step."""

    def __init__(self, encoder: SequenceEncoder, betas: tuple[float, float], weight_decay: float) -> None:
        """The table is taken out of autograd: neither DDP nor another optimizer sees it any more.

        Raises:
            ConfigError: the encoder's scoring vectors are no rows of a parameter that its inputs index.
        """
        assert isinstance(encoder, nn.Module)
        self.name = item_table(encoder)
        self._table_VD = encoder.get_parameter(self.name).requires_grad_(False)
        self._betas, self._weight_decay = betas, weight_decay
        self._decay = betas[0] / betas[1] ** 0.5
        self.reset()

    def reset(self) -> None:
        """Forget the moments; what rested has caught up or is forgotten too."""
        self._step = 0
        self._moment_VD = torch.zeros_like(self._table_VD)
        self._square_VD = torch.zeros_like(self._table_VD)
        self._begin()

    def take(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """The rows that all ranks' ``ids`` name, up to date, and those ids in ascending order.

        Returns:
            [T, D], a leaf that collects this rank's gradient, and int64 [T].
        """
        self._ids_T = ids.unique()
        if world_size() > 1:
            self._ids_T = gather_ids(self._ids_T).unique()
        self._values_TD, self._moment_TD, self._square_TD = self._caught_up(self._ids_T)
        self.rows_TD = self._values_TD.clone().requires_grad_()
        return self.rows_TD, self._ids_T

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
        self._step += 1
        correction = self._correction()
        self._moment_TD.lerp_(gradient_TD, 1 - beta1)
        self._square_TD.mul_(beta2).addcmul_(gradient_TD, gradient_TD, value=1 - beta2)
        root_TD = self._square_TD.sqrt().add_(_EPS * (1 - beta2**self._step) ** 0.5)
        self._values_TD.mul_(1 - lr * self._weight_decay).addcdiv_(self._moment_TD, root_TD, value=-lr * correction)
        self._rest(lr * correction, lr)
        for whole_VD, rows_TD in ((self._table_VD, self._values_TD), (self._moment_VD, self._moment_TD),
                                  (self._square_VD, self._square_TD)):
            whole_VD.index_copy_(0, self._ids_T, rows_TD)
        self._seen_V.index_fill_(0, self._ids_T, self._rests)

    def settle(self) -> None:
        """Bring every row up to date; before the table is read as a whole."""
        block = 2**16
        for start in range(0, len(self._table_VD), block):
            ids_T = torch.arange(start, min(start + block, len(self._table_VD)), device=self._table_VD.device)
            for whole_VD, rows_TD in zip((self._table_VD, self._moment_VD, self._square_VD), self._caught_up(ids_T),
                                         strict=True):
                whole_VD[start : start + block] = rows_TD
        self._begin()

    def state(self) -> dict[str, Tensor]:
        """The settled table's optimizer state, named as AdamW names its own."""
        assert self._rests == 0
        return {"exp_avg": self._moment_VD, "exp_avg_sq": self._square_VD, "step": torch.tensor(float(self._step))}

    def load(self, state: dict[str, Tensor]) -> None:
        """Put a ``state`` back."""
        self._step = int(state["step"])
        self._moment_VD.copy_(state["exp_avg"])
        self._square_VD.copy_(state["exp_avg_sq"])
        self._begin()

    def _begin(self) -> None:
        """All rows are up to date."""
        self._rests = 0
        self._seen_V = torch.zeros(len(self._table_VD), dtype=torch.int64, device=self._table_VD.device)
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

    def _caught_up(self, ids_T: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Rows, first and second moments as they are after all steps so far."""
        (beta1, beta2), seen_T = self._betas, self._seen_V.index_select(0, ids_T)
        rested_T1 = (self._rests - seen_T).unsqueeze(1)
        values_TD, moment_TD, square_TD = (
            whole_VD.index_select(0, ids_T) for whole_VD in (self._table_VD, self._moment_VD, self._square_VD))
        shrunk_T1 = (self._shrunk[self._rests] - self._by_step(self._shrunk)[seen_T]).exp().float().unsqueeze(1)
        moved_T1 = (self._by_step(self._moved)[seen_T] * float(np.exp(self._shrunk[self._rests]))).float().unsqueeze(1)
        root_TD = square_TD.sqrt().add_(_EPS * (1 - beta2 ** max(self._step, 1)) ** 0.5)
        values_TD.mul_(shrunk_T1).addcdiv_(moment_TD * moved_T1, root_TD, value=-1)
        return values_TD, moment_TD.mul_(beta1**rested_T1), square_TD.mul_(beta2**rested_T1)

    def _by_step(self, values: np.ndarray) -> Tensor:
        return torch.from_numpy(values[: self._rests + 1]).to(self._table_VD.device)

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
