"""Perturbed histories: what a student sees of a user while it matches its teachers.

Teachers have memorised the targets of their own training positions; on sequences that nobody has seen their answers are
knowledge. Every change is a pure function of (seed, user, position), the same on any rank.

Legend: B batch, L positions.
"""

from __future__ import annotations

import torch
from torch import Tensor

from models.config import PerturbationConfig
from models.hashing import derive_seed, position_bits

_DROP, _SWAP, _PLACE, _CROP = range(4)
_FEWEST = 2
"""Items that are left at least, of rows that have them: an input and a target."""


def perturb(items_BL: Tensor, users_B: Tensor, config: PerturbationConfig, seed: int) -> Tensor:
    """Crop, drop, then swap: int64 [B, L], right-padded with 0 as it came.

    Args:
        items_BL: right-padded histories in time order.
        users_B: whose they are.
        config: how much is changed.
        seed: of the epoch.
    """
    if config.crop:
        items_BL = _kept(items_BL, _cropped(items_BL, users_B, config.crop, seed))
    if config.drop:
        chance_BL = uniform(derive_seed(seed, _DROP), users_B, items_BL.shape[1])
        items_BL = _kept(items_BL, chance_BL >= config.drop)
    if config.swap:
        items_BL = _swapped(items_BL, users_B, config.swap, seed)
    return items_BL


def uniform(seed: int, users_B: Tensor, width: int) -> Tensor:
    """fp32 [B, width] in [0, 1), each a pure function of (seed, user, position)."""
    bits_BL = position_bits(seed, users_B, width) >> 39  # 24 bits: exact in fp32
    return bits_BL.float() * 2.0**-24


def _kept(items_BL: Tensor, keep_BL: Tensor) -> Tensor:
    """The kept items moved up to the start; rows that would hold fewer than two stay whole."""
    real_BL = items_BL != 0
    keep_BL = keep_BL & real_BL
    keep_BL = torch.where(keep_BL.sum(1, keepdim=True) < _FEWEST, real_BL, keep_BL)
    order_BL = torch.argsort((~keep_BL).to(torch.int8), dim=1, stable=True)
    return items_BL.gather(1, order_BL) * keep_BL.gather(1, order_BL)


def _cropped(items_BL: Tensor, users_B: Tensor, chance: float, seed: int) -> Tensor:
    """Which items lie in a random stretch; only a share ``chance`` of the rows is cropped at all."""
    draws_B3 = uniform(derive_seed(seed, _CROP), users_B, 3)
    lengths_B = (items_BL != 0).sum(1)
    size_B = _FEWEST + (draws_B3[:, 1] * (lengths_B - _FEWEST + 1).clamp(min=0)).long()
    first_B = (draws_B3[:, 2] * (lengths_B - size_B + 1).clamp(min=1)).long()
    places_L = torch.arange(items_BL.shape[1], device=items_BL.device)
    inside_BL = (places_L >= first_B.unsqueeze(1)) & (places_L < (first_B + size_B).unsqueeze(1))
    return inside_BL | (draws_B3[:, :1] >= chance)


def _swapped(items_BL: Tensor, users_B: Tensor, chance: float, seed: int) -> Tensor:
    """Two neighbours change places in a share ``chance`` of the rows that hold three or more."""
    lengths_B = (items_BL != 0).sum(1)
    draws_B1 = uniform(derive_seed(seed, _SWAP), users_B, 1)
    place_B = (uniform(derive_seed(seed, _PLACE), users_B, 1).squeeze(1) * (lengths_B - 1).clamp(min=0)).long()
    places_BL = torch.arange(items_BL.shape[1], device=items_BL.device).expand_as(items_BL)
    swap_B1 = (draws_B1 < chance) & (lengths_B > _FEWEST).unsqueeze(1)
    first_BL = swap_B1 & (places_BL == place_B.unsqueeze(1))
    second_BL = swap_B1 & (places_BL == place_B.unsqueeze(1) + 1)
    return items_BL.gather(1, places_BL + first_BL.long() - second_BL.long())
