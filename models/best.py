"""The best items of each user where a score is an inner product: candidates from a fast pass, ordered exactly.

Legend: N users, B users of a tile, V catalogue, C items of a tile, D vector width, P pairs, K list length,
R candidates kept.
"""

from __future__ import annotations

import numpy as np
import torch

from models.ordering import largest
from models.products import BF16_ROUNDING, Tiles, exact_scores, fp32_scores

_SPARE = 8
"""Candidates kept beyond the list, so that rounding at its border is almost always covered."""
_LANES = 32
"""bf16 matrix units take inner sizes in multiples of this."""
_ANYTHING = -1e30
"""A threshold below any score."""
Pairs = tuple[np.ndarray, np.ndarray, np.ndarray]


class Best:
    """The best unseen items of every user, and the seen ones that would stand among them."""

    def __init__(self, tiles: Tiles, top_k: int) -> None:
        self._tiles, self._top_k = tiles, top_k
        count = len(tiles.states_ND)
        self._keep = min(top_k + _SPARE, len(tiles.catalogue))
        self._values_NR = torch.full((count, self._keep), -torch.inf)
        self._columns_NR = torch.zeros((count, self._keep), dtype=torch.int64)
        self._pending: dict[int, list[Pairs]] = {}
        self._seen: list[tuple[np.ndarray, np.ndarray]] = []
        self._passes = np.empty(tiles.users * tiles.items, np.bool_)
        self._rough: _Rough | None = None
        self._open = np.zeros(0, np.int64)

    def add(self, scores_BC: np.ndarray, users: slice, items: slice) -> None:
        """Take in a tile's scores, which are overwritten."""
        bars_B = self._values_NR[users, -1].numpy()
        seen_rows, seen_columns = self._tiles.seen(users, items)
        chosen = scores_BC[seen_rows, seen_columns] > bars_B[seen_rows]
        self._seen.append((seen_rows[chosen] + users.start, seen_columns[chosen] + items.start))
        scores_BC[seen_rows, seen_columns] = -np.inf
        if items.start == 0:
            values_BR, columns_BR = largest(torch.from_numpy(scores_BC), min(self._keep, scores_BC.shape[1]))
            self._values_NR[users, : values_BR.shape[1]] = values_BR
            self._columns_NR[users, : values_BR.shape[1]] = columns_BR
            return
        passes_BC = self._passes[: scores_BC.size].reshape(scores_BC.shape)
        np.greater(scores_BC, bars_B[:, None], out=passes_BC)
        rows, columns = np.divmod(np.flatnonzero(passes_BC), scores_BC.shape[1])
        self._wait(users, (rows, columns + items.start, scores_BC[rows, columns]))

    def add_rough(self, users: slice, items: slice) -> None:
        """The same for a tile after the first chunk, by way of bf16: its candidates alone are scored in fp32."""
        if self._rough is None:
            self._rough = _Rough(self._tiles)
        bars_B = self._values_NR[users, -1].numpy()
        rows, columns = self._rough.above(bars_B, users, items)
        values = fp32_scores(self._tiles.states_ND, self._tiles.catalogue.items_VD, rows + users.start,
                             columns + items.start)
        width = items.stop - items.start
        seen_rows, seen_columns = self._tiles.seen(users, items)
        seen = np.isin(rows * width + columns, seen_rows * width + seen_columns)
        self._seen.append((rows[seen] + users.start, columns[seen] + items.start))
        kept = ~seen & (values > bars_B[rows])
        self._wait(users, (rows[kept], columns[kept] + items.start, values[kept]))

    def unseen(self) -> np.ndarray:
        """Columns (items - 1) of every user's best unseen items, best first, int64 [N, K]; -1 where none is left."""
        for start in list(self._pending):
            self._merge(start)
        values_NR, columns_NR = self._values_NR.numpy(), self._columns_NR.numpy()
        width = min(self._top_k, self._keep)
        lists_NK = np.full((len(values_NR), self._top_k), -1)
        lists_NK[:, :width] = np.where(values_NR[:, :width] > -np.inf, columns_NR[:, :width], -1)
        self._settle(lists_NK, *self._doubtful())
        return lists_NK

    def among_all(self, unseen_NK: np.ndarray) -> np.ndarray:
        """The same with the seen items among them, from what :meth:`unseen` gave."""
        seen_rows, seen_columns = self._tiles.all_seen()
        open_P = np.isin(seen_rows, self._open)
        rows_P, columns_P = (np.concatenate(column) for column in zip(
            *self._seen, (seen_rows[open_P], seen_columns[open_P]), strict=True))
        width = len(self._tiles.catalogue)
        rows_P, columns_P = np.divmod(np.unique(rows_P * width + columns_P), width)
        lists_NK = unseen_NK.copy()
        concerned = np.unique(rows_P)
        listed, places = np.nonzero(unseen_NK[concerned] >= 0)
        listed = concerned[listed]
        self._order(lists_NK, np.concatenate([listed, rows_P]),
                    np.concatenate([unseen_NK[concerned][unseen_NK[concerned] >= 0], columns_P]))
        return lists_NK

    def _wait(self, users: slice, found: Pairs) -> None:
        """Keep a tile's candidates (row of the tile, column, score) until there are enough to be worth a merge."""
        waiting = self._pending.setdefault(users.start, [])
        waiting.append(found)
        if sum(len(rows) for rows, _, _ in waiting) >= (users.stop - users.start) * self._keep:
            self._merge(users.start)

    def _merge(self, start: int) -> None:
        rows_P, columns_P, values_P = (np.concatenate(column) for column in zip(*self._pending.pop(start),
                                                                                strict=True))
        order = np.argsort(rows_P, kind="stable")
        rows_P, columns_P, values_P = rows_P[order], columns_P[order], values_P[order]
        users = slice(start, min(start + self._tiles.users, len(self._values_NR)))
        counts_B = np.bincount(rows_P, minlength=users.stop - users.start)
        place_P = np.arange(len(rows_P)) - np.repeat(np.cumsum(counts_B) - counts_B, counts_B)
        more_BP = torch.full((len(counts_B), int(counts_B.max(initial=0))), -torch.inf)
        columns_BP = torch.zeros(more_BP.shape, dtype=torch.int64)
        more_BP.numpy()[rows_P, place_P], columns_BP.numpy()[rows_P, place_P] = values_P, columns_P
        values_BR, at_BR = torch.cat([self._values_NR[users], more_BP], 1).topk(self._keep)
        self._columns_NR[users] = torch.cat([self._columns_NR[users], columns_BP], 1).gather(1, at_BR)
        self._values_NR[users] = values_BR

    def _doubtful(self) -> tuple[np.ndarray, np.ndarray]:
        """Users whose kept candidates may stand in another order, and those who may miss one that was not kept."""
        values_NR = self._values_NR.numpy()
        slack_N = self._tiles.slack_N(slice(None), slice(None))
        with np.errstate(invalid="ignore"):  # -inf - -inf
            gaps_NR = values_NR[:, :-1] - values_NR[:, 1:]
        close_N = (gaps_NR[:, : self._top_k] <= 2 * slack_N[:, None]).any(1)
        if self._keep == len(self._tiles.catalogue):
            return np.flatnonzero(close_N), np.zeros(0, np.int64)
        border_N = values_NR[:, self._top_k - 1] - values_NR[:, -1]
        open_N = (values_NR[:, -1] > -np.inf) & (border_N <= 2 * slack_N)
        return np.flatnonzero(close_N & ~open_N), np.flatnonzero(open_N)

    def _settle(self, lists_NK: np.ndarray, close: np.ndarray, missing: np.ndarray) -> None:
        """Make the lists of doubtful users anew, from exact scores."""
        real = self._values_NR.numpy()[close] > -np.inf
        self._order(lists_NK, np.repeat(close, real.sum(1)), self._columns_NR.numpy()[close][real])
        self._open = missing
        seen_rows, seen_columns = self._tiles.all_seen()
        for row in missing:
            columns_P = np.setdiff1d(np.arange(len(self._tiles.catalogue)), seen_columns[seen_rows == row])
            self._order(lists_NK, np.full(len(columns_P), row), columns_P)

    def _order(self, lists_NK: np.ndarray, rows_P: np.ndarray, columns_P: np.ndarray) -> None:
        """Put each user's best of the given columns into the list."""
        catalogue = self._tiles.catalogue
        scores_P = exact_scores(self._tiles.states_ND, catalogue.items_VD, rows_P, columns_P)
        order = np.lexsort((catalogue.place_V[columns_P], -scores_P, rows_P))
        rows_P, place_P = rows_P[order], _place_in_row(rows_P[order])
        kept = place_P < self._top_k
        lists_NK[rows_P[kept], place_P[kept]] = columns_P[order][kept]


def _place_in_row(rows_P: np.ndarray) -> np.ndarray:
    """0, 1, … within each run of equal rows."""
    starts = np.flatnonzero(np.diff(rows_P, prepend=-1))
    return np.arange(len(rows_P)) - np.repeat(starts, np.diff(starts, append=len(rows_P)))


class _Rough:
    """Which items may reach a threshold, by a product in bf16.

    The threshold is part of the product, so what comes out is the score above it: near zero, where it matters, bf16
    rounds to its sign, and the sign is read from the bits.
    """

    def __init__(self, tiles: Tiles) -> None:
        width = tiles.states_ND.shape[1]
        self._tiles, self._width = tiles, width
        inner = -(-(width + 2) // _LANES) * _LANES
        self._users_NI = torch.zeros(len(tiles.states_ND), inner, dtype=torch.bfloat16)
        self._items_VI = torch.zeros(len(tiles.catalogue), inner, dtype=torch.bfloat16)
        self._users_NI[:, :width], self._items_VI[:, :width] = tiles.states_ND, tiles.catalogue.items_VD
        self._items_VI[:, width : width + 2] = 1
        self._scores = torch.empty(tiles.users * tiles.items, dtype=torch.bfloat16)
        self._passes = np.empty(tiles.users * tiles.items, np.bool_)
        norms_N = torch.linalg.vector_norm(tiles.states_ND, dim=1).numpy()
        self._slack_N = 1.05 * BF16_ROUNDING * norms_N

    def above(self, bars_B: np.ndarray, users: slice, items: slice) -> tuple[np.ndarray, np.ndarray]:
        """Rows and columns of the tile that may hold a score above the row's bar: all that do, and some more."""
        slack_B = self._slack_N[users] * self._tiles.catalogue.norms_V[items].max()
        low_B = torch.from_numpy(np.maximum(bars_B - slack_B - np.abs(bars_B) * 2.0**-14, _ANYTHING))
        head_B = low_B.bfloat16()
        users_BI = self._users_NI[users]
        users_BI[:, self._width] = -head_B
        users_BI[:, self._width + 1] = -(low_B - head_B.float()).bfloat16()
        shape = (users.stop - users.start, items.stop - items.start)
        scores_BC = self._scores[: shape[0] * shape[1]].view(shape)
        torch.mm(users_BI, self._items_VI[items].T, out=scores_BC)
        passes_BC = self._passes[: shape[0] * shape[1]].reshape(shape)
        np.greater(scores_BC.view(torch.int16).numpy(), np.int16(0), out=passes_BC)
        rows, columns = np.divmod(np.flatnonzero(passes_BC), shape[1])
        return rows, columns
