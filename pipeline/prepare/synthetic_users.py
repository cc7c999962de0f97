"""What generated users do: blocks of histories, each block a pure function of the settings and its number.

Legend: B users of a block, L steps of the longest of them, K tastes per user, N interactions of the block.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.prepare.config import SyntheticSource
from pipeline.prepare.synthetic_catalogue import Catalogue, Stream, lengths, longest, random

BEGIN = 1_325_376_000
"""First second of the generated time, 2012-01-01."""
SPAN = 1461 * 86_400
"""Length of the generated time: four years."""

_NUM_TASTES = np.array([0.5, 0.85])
"""Half of the users have one taste, 35 % two, 15 % three."""
_WEIGHTS = np.array([[1.0, 0.0, 0.0], [0.7, 0.3, 0.0], [0.55, 0.25, 0.2]])
_PRICE_CHANCE = 0.5
"""Chance that the price decides between two candidates."""
_TIE_CHANCE = 0.002
"""Chance that a step happens in the same second as the one before."""
_BY_POPULARITY, _BY_TASTE, _ATTEMPTS = 2, 4, 8
"""Draws against repeating an item: the first by popularity, then evenly within the taste, then from everywhere."""


@dataclass(frozen=True)
class Block:
    """The interactions of consecutive users, user by user in time order."""

    first_user: int
    lengths_B: np.ndarray
    """int64."""
    users_N: np.ndarray
    """int64."""
    items_N: np.ndarray
    """int32, 0…I-1."""
    times_N: np.ndarray
    """int64, Unix seconds."""
    ratings_N: np.ndarray
    """float32, 1…5."""


@dataclass(frozen=True)
class _Users:
    tastes_BK: np.ndarray
    first_BK: np.ndarray
    """Cumulative taste weights at the first step."""
    last_BK: np.ndarray
    """Cumulative taste weights at the last step."""
    price_B: np.ndarray
    lengths_B: np.ndarray
    start_B: np.ndarray
    """Share of the generated time that has passed at the user's first step."""
    active_B: np.ndarray
    """Share of the time that is left in which the user is active."""
    bias_B: np.ndarray
    """Of ratings."""


def block_users(config: SyntheticSource) -> int:
    """Users per block: a function of the settings alone, since it decides what is drawn."""
    return max(64, min(8192, 1 << int(np.log2(2**22 / longest(config)))))


def num_blocks(config: SyntheticSource) -> int:
    return -(-config.users // block_users(config))


def block(config: SyntheticSource, items: Catalogue, number: int) -> Block:
    """Block ``number`` of the users' histories."""
    size = block_users(config)
    first = number * size
    count = min(size, config.users - first)
    users = _draw_users(config, items, number, count)
    rng = random(config.seed, Stream.STEPS, number)
    items_BL = _walk(config, items, users, rng)
    real_BL = np.arange(items_BL.shape[1]) < users.lengths_B[:, None]
    local_N = np.repeat(np.arange(count), users.lengths_B)
    chosen_N = items_BL[real_BL]
    return Block(first, users.lengths_B, first + local_N, chosen_N, _times(users, real_BL, rng),
                 _ratings(items, users, local_N, chosen_N, rng))


def _draw_users(config: SyntheticSource, items: Catalogue, number: int, count: int) -> _Users:
    rng = random(config.seed, Stream.USERS, number)
    mass_T = items.cumulative_I[items.starts_T]
    tastes_BK = np.searchsorted(mass_T, rng.random((count, 3)), side="right") - 1
    np.minimum(tastes_BK, items.num_tastes - 1, out=tastes_BK)
    weights_BK = _WEIGHTS[np.searchsorted(_NUM_TASTES, rng.random(count), side="right")]
    # Only users of several tastes drift: the weights of the first two move towards their exchange.
    swapped_BK = np.where(weights_BK[:, 1:2] > 0, weights_BK[:, [1, 0, 2]], weights_BK)
    moved_BK = weights_BK + config.drift * (swapped_BK - weights_BK)
    return _Users(tastes_BK, np.cumsum(weights_BK, axis=1), np.cumsum(moved_BK, axis=1), rng.random(count),
                  lengths(config, rng.random(count)), 0.95 * rng.random(count) ** 0.6, rng.random(count),
                  0.8 * (rng.random(count) - 0.5))


def _walk(config: SyntheticSource, items: Catalogue, users: _Users, rng: np.random.Generator) -> np.ndarray:
    """Step by step through all histories of the block: items int32 [B, L], rows beyond their length undefined."""
    by_length = np.argsort(-users.lengths_B, kind="stable")
    lengths_B, tastes_BK = users.lengths_B[by_length], users.tastes_BK[by_length]
    first_BK, move_BK = users.first_BK[by_length], (users.last_BK - users.first_BK)[by_length]
    price_B = users.price_B[by_length]
    mass_T = items.cumulative_I[items.starts_T]
    steps = int(lengths_B[0])
    # One bit per remainder of the item index: a collision only costs another draw.
    slots = 2 ** int(np.ceil(np.log2(min(config.items, 16 * steps))))
    seen_BS = np.zeros((len(lengths_B), slots), bool)
    out_BL = np.empty((len(lengths_B), steps), np.int32)
    alive_at = np.searchsorted(-lengths_B, -np.arange(steps), side="left")
    rows = np.arange(len(lengths_B))

    def propose(row: np.ndarray, taste: np.ndarray, anywhere: np.ndarray) -> np.ndarray:
        low = np.where(anywhere, 0.0, mass_T[taste])
        high = np.where(anywhere, 1.0, mass_T[taste + 1])
        draw = rng.random((3, len(row)))
        one, two = items.pick(low, high, draw[0]), items.pick(low, high, draw[1])
        wish = price_B[row]
        nearer = np.abs(items.price_I[two] - wish) < np.abs(items.price_I[one] - wish)
        return np.where(nearer & (draw[2] < _PRICE_CHANCE), two, one)

    for step in range(steps):
        row = rows[: alive_at[step]]
        progress = step / np.maximum(lengths_B[row] - 1, 1)
        draw = rng.random((3, len(row)))
        bounds_BK = first_BK[row] + progress[:, None] * move_BK[row]
        slot = np.minimum((draw[0][:, None] > bounds_BK).sum(axis=1), 2)
        taste, anywhere = tastes_BK[row, slot], draw[1] < config.exploration
        chosen = propose(row, taste, anywhere)
        if step:
            chosen = np.where(draw[2] < config.sequence_strength, items.successor_I[out_BL[row, step - 1]], chosen)
        for attempt in range(_ATTEMPTS):
            again = np.flatnonzero(seen_BS[row, chosen % slots])
            if not len(again):
                break
            if attempt < _BY_POPULARITY:
                chosen[again] = propose(again, taste[again], anywhere[again])
            else:
                low = items.starts_T[taste[again]] if attempt < _BY_TASTE else 0
                high = items.starts_T[taste[again] + 1] if attempt < _BY_TASTE else config.items
                chosen[again] = items.order_I[(low + rng.random(len(again)) * (high - low)).astype(np.int64)]
        seen_BS[row, chosen % slots] = True
        out_BL[row, step] = chosen
    back = np.empty_like(by_length)
    back[by_length] = rows
    walked_BL: np.ndarray = out_BL[back]
    return walked_BL


def _times(users: _Users, real_BL: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Bursts and pauses between a user's first second and last; more and more users as time goes on."""
    gaps_BL = np.zeros(real_BL.shape)
    count = int(real_BL.sum())
    gaps_BL[real_BL] = np.where(rng.random(count) < _TIE_CHANCE, 0.0, np.log1p(-rng.random(count)) ** 2)
    gaps_BL[:, 0] = 0.0
    np.cumsum(gaps_BL, axis=1, out=gaps_BL)
    gaps_BL /= np.maximum(gaps_BL[:, -1:], 1e-9)
    active_B = users.active_B * (1 - users.start_B)
    share_BL = users.start_B[:, None] + active_B[:, None] * gaps_BL
    times_N: np.ndarray = (share_BL[real_BL] * SPAN).astype(np.int64)
    times_N += BEGIN
    return times_N


def _ratings(items: Catalogue, users: _Users, local_N: np.ndarray, chosen_N: np.ndarray,
             rng: np.random.Generator) -> np.ndarray:
    """1…5: higher for items of the user's tastes and price."""
    weight_BK = np.diff(users.first_BK, axis=1, prepend=0.0)
    match_N = np.max((users.tastes_BK[local_N] == items.taste_I[chosen_N, None]) * np.sqrt(weight_BK[local_N]), axis=1)
    far_N = np.abs(items.price_I[chosen_N] - users.price_B[local_N])
    noise_N = rng.random((2, len(local_N))).sum(axis=0) - 1.0
    score_N = 2.9 + 1.6 * match_N - 1.0 * far_N + users.bias_B[local_N] + 1.5 * noise_N
    ratings_N: np.ndarray = np.clip(np.rint(score_N), 1, 5).astype(np.float32)
    return ratings_N
