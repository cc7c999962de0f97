"""The total order of items for a user: by score, then by a seeded order of the items; and the best of them.

Legend: B users, V catalogue, C items of a chunk, K list length.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import torch
from torch import Tensor

from models.hashing import position_bits

NOTHING: Final = torch.iinfo(torch.int64).min
"""A key below that of any item."""
_GROUP = 16
"""Columns per group when the largest scores are sought."""
_PLACES = 0x7FFFFFFF


def tie_order(num_items: int, seed: int) -> np.ndarray:
    """The place of each item among items of equal score, int64 [num_items]; a pure function of (item, seed)."""
    bits = position_bits(seed, torch.zeros(1, dtype=torch.int64), num_items)[0].numpy()
    place = np.empty(num_items, np.int64)
    place[np.argsort(bits, kind="stable")] = np.arange(num_items)
    return place


def merge_best(best_BK: Tensor, scores_BC: Tensor, place_C: Tensor) -> Tensor:
    """The best keys of those so far and a chunk's, best first."""
    k, width = best_BK.shape[1], scores_BC.shape[1]
    values, columns = largest(scores_BC, min(k + 1, width))
    best = keys(values, place_C[columns])[:, :k]
    if width > k:  # of equal scores at the border torch keeps any; ours is the earlier in the seeded order
        tied = ((values[:, k - 1] == values[:, k]) & (values[:, k] > -torch.inf)).nonzero()[:, 0]
        if len(tied):
            best[tied] = keys(scores_BC[tied], place_C).topk(k).values
    return torch.cat([best_BK, best], 1).topk(k).values


def largest(scores_BC: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest scores of each row and their columns, as ``torch.topk``, several times faster on wide rows.

    The k groups of columns with the largest maxima hold the k largest scores, so only those groups are searched.
    """
    groups = scores_BC.shape[1] // _GROUP
    if groups < 4 * k:
        values, columns = scores_BC.topk(k)
        return values, columns
    whole = groups * _GROUP
    best_Bk = scores_BC[:, :whole].view(-1, _GROUP, groups).amax(1).topk(k, sorted=False).indices
    members = torch.arange(0, whole, groups, device=scores_BC.device)
    rest = torch.arange(whole, scores_BC.shape[1], device=scores_BC.device).expand(len(scores_BC), -1)
    columns = torch.cat([(best_Bk[:, :, None] + members).flatten(1), rest], 1)
    values, at = scores_BC.gather(1, columns).topk(k)
    return values, columns.gather(1, at)


def keys(scores: Tensor, place: Tensor) -> Tensor:
    """One int64 per item that orders as (score, earlier place): the score's bits made sortable, then the place."""
    bits = (scores + 0.0).view(torch.int32)  # + 0.0 makes -0.0 equal to 0.0
    sortable = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    return (sortable.to(torch.int64) << 32) + (_PLACES - place)


def items_of(found: Tensor, item_at: Tensor) -> Tensor:
    """The items behind keys, int32; 0 where there is none or its score is -inf (removed)."""
    place = _PLACES - (found & _PLACES)
    lowest = keys(torch.tensor(-torch.inf), torch.tensor(0))
    return torch.where(found > lowest, item_at[place.clamp(max=len(item_at) - 1)], 0).to(torch.int32)
