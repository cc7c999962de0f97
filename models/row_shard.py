"""The rows of a table divided over the ranks: rank r of W holds rows r, r + W, r + 2W, …

Ids that stand side by side are often of like popularity, so each rank holds its share of what is read often. What the
hosts need of all ranks passes over the devices in blocks.

Legend: V rows of the table, H those that this rank holds, T rows of a step, M those of them that it holds,
D hidden width, W ranks.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from models.parallel import gather_rows, world_size

BLOCK_ROWS = 2**16
"""Rows of the table that pass over a device at once, whatever the number of ranks."""


@dataclass(frozen=True)
class RowShard:
    """Which rows a rank holds; one shard is the whole."""

    rank: int
    count: int
    """W."""

    @classmethod
    def own(cls) -> RowShard:
        """Of this process among its ranks."""
        return cls(dist.get_rank(), world_size()) if world_size() > 1 else WHOLE

    @property
    def divides(self) -> bool:
        """Whether other ranks hold other rows."""
        return self.count > 1

    def held(self, whole_VD: Tensor) -> Tensor:
        """The rows held here, [H, D]: a view."""
        return whole_VD[self.rank :: self.count]

    def places(self, ids_T: Tensor) -> Tensor | slice:
        """Where in ``ids_T`` those stand that are held here, in order."""
        return (ids_T % self.count == self.rank).nonzero().squeeze(1) if self.divides else slice(None)

    def rows(self, ids_M: Tensor) -> Tensor:
        """The held rows, by their numbers here, that have these ids."""
        return ids_M // self.count if self.divides else ids_M

    def gathered(self, held_MD: Tensor, ids_T: Tensor) -> Tensor:
        """The rows ``ids_T``, a copy; every rank must call it with the same ids.

        Args:
            held_MD: this rank's part of them, in order.
            ids_T: ascending.
        """
        if not self.divides:
            return held_MD.clone()
        holders_T = ids_T % self.count
        counts = torch.bincount(holders_T, minlength=self.count).tolist()
        gathered_TD = held_MD.new_empty(len(ids_T), held_MD.shape[1])
        gathered_TD[holders_T.argsort(stable=True)] = gather_rows(held_MD, counts)
        return gathered_TD

    def fill(self, whole_VD: Tensor, held_HD: Tensor, wanted: bool = True) -> None:
        """Bring the rows of all ranks into ``whole_VD``, on whatever device; every rank must call it.

        Args:
            whole_VD: its rows are counted where they are not wanted, too.
            held_HD: this rank's.
            wanted: whether this rank keeps them.
        """
        most, step = -(-len(whole_VD) // self.count), max(BLOCK_ROWS // self.count, 1)
        for start in range(0, most, step):
            height = min(step, most - start)
            block_XD = held_HD.new_zeros(height, held_HD.shape[1])
            mine_XD = held_HD[start : start + height]
            block_XD[: len(mine_XD)] = mine_XD
            blocks = [torch.empty_like(block_XD) for _ in range(self.count)]
            dist.all_gather(blocks, block_XD)
            if wanted:
                for rank, rows_XD in enumerate(blocks):
                    target_XD = whole_VD[rank :: self.count][start : start + height]
                    target_XD.copy_(rows_XD[: len(target_XD)])

    def whole_on_first(self, held_HD: Tensor, num_rows: int) -> Tensor:
        """All rows as a new tensor [V, D] on the host of the first rank, on others one without content; every rank must
        call it."""
        whole_VD = torch.empty(num_rows, held_HD.shape[1], dtype=held_HD.dtype, device="meta" if self.rank else "cpu")
        self.fill(whole_VD, held_HD, wanted=self.rank == 0)
        return whole_VD


WHOLE = RowShard(0, 1)
