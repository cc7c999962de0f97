"""AdamW for an item table of which a step touches few rows: the work of a step does not grow with the catalogue.

A step gathers the rows it reads (inputs, targets, negatives of all ranks) into a small leaf tensor, trains on that,
and writes them back. A row that rests still moves under Adam: its moments decay and its momentum runs out. Both are
made up for when the row is next read, in closed form, as lazy updates of sparse models do (Carpenter, 2008; Lipton &
Elkan, 2015): over n resting steps after step s

    m ← β1ⁿ m,  v ← β2ⁿ v,  w ← D·w - m / √v · Σ_j lr_j·c_j·rʲ⁻ˢ·D_j,   r = β1 / √β2,  c_j = √(1 - β2ʲ) / (1 - β1ʲ)

with D the product of the weight decay of those steps and D_j of those after j. So the weights are those of AdamW over
the whole table (Kingma & Ba, ICLR'15; Loshchilov & Hutter, ICLR'19), but for ε, which rests too.

A table larger than a device's memory is divided over the ranks, with its moments (``models.row_shard``): a step gathers
the rows it reads, and after an epoch every host gets the whole table. What a row goes through is products, quotients
and roots of numbers that are the same on every rank, so that dividing changes no bit.

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
_LEAST_KEPT = 1e-100
"""Of a weight, by decay: with less all rows are brought up to date, before its reciprocal overflows."""


STATE = ("exp_avg", "exp_avg_sq", "step")
"""What the optimizer keeps of the table, named as AdamW names its own."""


class RowwiseTable:
    """The item table of an encoder, its Adam moments, and the rows of the present step."""

    def __init__(self, encoder: SequenceEncoder, betas: tuple[float, float], weight_decay: float,
                 device: torch.device | None = None, shard: RowShard = WHOLE) -> None:
        """The table is taken out of autograd: neither DDP nor another optimizer sees it any more.

        Args:
            encoder: its table is moved to ``device``; where it is divided the encoder keeps padding's row in its place.
            betas: of AdamW.
            weight_decay: likewise.
            device: of the rows and moments; None: where they are.
            shard: which rows this rank holds.

        Raises:
            ConfigError: the encoder's scoring vectors are no rows of a parameter that its inputs index.
        """
        assert isinstance(encoder, nn.Module)
        self.name, self._shard = item_table(encoder), shard
        self.whole_VD: Tensor = encoder.get_parameter(self.name).detach()
        """The whole table; where it is divided, as it was last settled, on the host."""
        if shard.divides:
            self._table_HD = shard.held(self.whole_VD).to(device, copy=True)
            replace_parameter(encoder, self.name, torch.zeros_like(self.whole_VD[:1], device=device))
        else:
            self._table_HD = self.whole_VD = self.whole_VD.to(device)
            replace_parameter(encoder, self.name, self.whole_VD)
        self._betas, self._weight_decay = betas, weight_decay
        self._decay = betas[0] / betas[1] ** 0.5
        self._moment_HD, self._square_HD = (torch.zeros_like(self._table_HD) for _ in range(2))
        self._faded: tuple[Tensor, Tensor] | None = None
        self._settled, self._rests = True, 0
        self.reset()

    @property
    def divided(self) -> bool:
        """Whether other ranks hold other rows."""
        return self._shard.divides

    def reset(self) -> None:
        """Forget the moments; what rested has caught up or is forgotten too."""
        self._step = 0
        self._moment_HD.zero_()
        self._square_HD.zero_()
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
        self.rows_TD = self._shard.gathered(self._values_MD, ids_T).requires_grad_()
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
        if self._kept[self._rests] < _LEAST_KEPT:
            self._catch_up_all()

    def settle(self) -> None:
        """Bring every row up to date; before the table is read as a whole. Every rank must call it."""
        if self._rests:
            self._catch_up_all()
        if self.divided and not self._settled:
            self._shard.fill(self.whole_VD, self._table_HD)
        self._settled = True

    def state(self) -> dict[str, Tensor]:
        """The settled table's optimizer state by the names of ``STATE``, whole on the first rank; the others, which
        must call it too, get nothing where the table is divided."""
        assert self._settled
        moments = [self._moment_HD, self._square_HD]
        if self.divided:
            moments = [self._shard.whole_on_first(held_HD, len(self.whole_VD)) for held_HD in moments]
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
        self._settled = True
        self._rests = 0
        self._seen_H = torch.zeros(len(self._table_HD), dtype=torch.int64, device=self._table_HD.device)
        self._moved = np.zeros(256)
        """By step s: Σ_j lr_j·c_j·r^(j-s) over the later steps j, each divided by the weight decay up to j."""
        self._kept = np.ones(256)
        """By step: the product of weight decay up to it."""
        self._powers = self._decay ** np.arange(_REACH, 0, -1.0)

    def _rest(self, move: float, lr: float) -> None:
        """Take note of one step for the rows that it did not touch."""
        self._settled = False
        self._rests += 1
        if self._rests == len(self._moved):
            self._moved, self._kept = (np.concatenate([x, np.zeros(len(x))]) for x in (self._moved, self._kept))
        now, first = self._rests, max(0, self._rests - _REACH)
        self._kept[now] = self._kept[now - 1] * (1 - lr * self._weight_decay)
        self._moved[first:now] += move / self._kept[now] * self._powers[_REACH - (now - first):]

    def _catch_up_all(self) -> None:
        block = 2**16
        for start in range(0, len(self._table_HD), block):
            rows = torch.arange(start, min(start + block, len(self._table_HD)), device=self._table_HD.device)
            for held_HD, rows_XD in zip((self._table_HD, self._moment_HD, self._square_HD), self._caught_up(rows),
                                        strict=True):
                held_HD[start : start + block] = rows_XD
        self._begin()
        self._settled = False

    def _caught_up(self, rows_M: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Held rows, first and second moments as they are after all steps so far."""
        beta2, seen_M = self._betas[1], self._seen_H.index_select(0, rows_M)
        values_MD, moment_MD, square_MD = (
            held_HD.index_select(0, rows_M) for held_HD in (self._table_HD, self._moment_HD, self._square_HD))
        kept_M = self._kept[self._rests] / self._by_step(self._kept)[seen_M]
        moved_M = self._by_step(self._moved)[seen_M] * self._kept[self._rests]
        root_MD = square_MD.sqrt().add_(_EPS * (1 - beta2 ** max(self._step, 1)) ** 0.5)
        values_MD.mul_(kept_M.float().unsqueeze(1))
        values_MD.addcdiv_(moment_MD * moved_M.float().unsqueeze(1), root_MD, value=-1)
        for rows_MD, faded in zip((moment_MD, square_MD), self._faded_by_rest(), strict=True):
            rows_MD.mul_(faded[self._rests - seen_M].unsqueeze(1))
        return values_MD, moment_MD, square_MD

    def _by_step(self, values: np.ndarray) -> Tensor:
        return torch.from_numpy(values[: self._rests + 1]).to(self._table_HD.device)

    def _faded_by_rest(self) -> tuple[Tensor, Tensor]:
        """By steps of rest: what is left of each moment. Looked up, since powers that are computed row by row differ in
        the last bit with the place of the row."""
        if self._faded is None or self._rests >= len(self._faded[0]):
            rests = np.arange(2.0 * len(self._kept))
            first, second = (torch.from_numpy((beta**rests).astype(np.float32)).to(self._table_HD.device)
                             for beta in self._betas)
            self._faded = first, second
        return self._faded

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
