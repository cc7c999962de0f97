"""Sums and rows of the global batch. Without an initialised ``torch.distributed`` group every call is local.

Legend: W ranks, N rows of this rank, G rows of all ranks, C columns.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    """Ranks that share a global batch."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def gather_values(values_C: Tensor) -> Tensor:
    """Every rank's vector, detached: [W, C]."""
    values_C = values_C.detach()
    if world_size() == 1:
        return values_C.unsqueeze(0)
    gathered = [torch.empty_like(values_C) for _ in range(world_size())]
    dist.all_gather(gathered, values_C)
    return torch.stack(gathered)


def gather_rows(rows_NC: Tensor, counts: list[int]) -> Tensor:
    """The rows of all ranks in rank order, [G, C]; the gradient reaches this rank's own rows alone.

    A scalar computed from the result is the same on every rank, and its gradient there is the exact partial
    derivative of the global value with respect to the own rows. No communication happens in backward.

    Args:
        rows_NC: this rank's rows; N may differ between ranks and may be 0.
        counts: N of every rank, known to all (``gather_values``).
    """
    if world_size() == 1:
        return rows_NC
    padded = rows_NC.new_zeros(max(counts), rows_NC.shape[1])
    padded[: len(rows_NC)] = rows_NC.detach()
    gathered = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(gathered, padded)
    parts = [part[:count] for part, count in zip(gathered, counts, strict=True)]
    parts[dist.get_rank()] = rows_NC
    return torch.cat(parts)


def gather_ids(ids_N: Tensor) -> Tensor:
    """The int64 ids of all ranks in rank order, [G]; N may differ between ranks."""
    if world_size() == 1:
        return ids_N
    counts = [int(n) for n in gather_values(torch.tensor([len(ids_N)], device=ids_N.device)).flatten().tolist()]
    return gather_rows(ids_N.unsqueeze(1), counts).squeeze(1)
