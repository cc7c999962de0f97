"""The best items of each user where a score is an inner product: candidates from a fast pass, ordered exactly.

Legend: N users, B users of a tile, V catalogue, C items of a tile, P pairs, K list length, R candidates kept.
"""

from __future__ import annotations

import numpy as np
import torch

from models.candidates import Candidates, place_in_row
from models.ordering import largest
from models.products import Catalogue, Pairs, Tiles, exact_scores, fp32_scores

_SPARE = 8
"""Candidates kept beyond the list, so that rounding at its border is almost always covered."""


class BestItems:
    """The best unseen items of every user, and the seen ones that would stand among them."""

    def __init__(self, tiles: Tiles, top_k: int) -> None:
        self._tiles, self._top_k = tiles, top_k
        self._candidates = Candidates(len(tiles.states_ND), min(top_k + _SPARE, len(tiles.catalogue)), tiles.users)
        self._seen = Pairs()
        """Seen pairs that were above their user's bar."""
        self._passes = np.empty(tiles.users * tiles.items, np.bool_)

    def bars_B(self, users: slice) -> np.ndarray:
        """fp32, the scores that a tile's items must exceed."""
        return self._candidates.bars_B(users)

    def add(self, scores_BC: np.ndarray, users: slice, items: slice) -> None:
        """Take in a tile's scores, which are overwritten. A user's first tile must come this way."""
        bars_B = self.bars_B(users)
        seen_rows, seen_columns = self._tiles.seen(users, items)
        chosen = scores_BC[seen_rows, seen_columns] > bars_B[seen_rows]
        self._seen.add(seen_rows[chosen] + users.start, seen_columns[chosen] + items.start)
        scores_BC[seen_rows, seen_columns] = -np.inf
        if items.start == 0:
            found = largest(torch.from_numpy(scores_BC), min(self._candidates.keep, scores_BC.shape[1]))
            self._candidates.start(users, *found)
            return
        passes_BC = self._passes[: scores_BC.size].reshape(scores_BC.shape)
        np.greater(scores_BC, bars_B[:, None], out=passes_BC)
        rows, columns = np.divmod(np.flatnonzero(passes_BC), scores_BC.shape[1])
        self._candidates.add(users, rows, columns + items.start, scores_BC[rows, columns])

    def add_pairs(self, rows: np.ndarray, columns: np.ndarray, users: slice, items: slice) -> None:
        """The same from the pairs of a later tile that alone can be above their user's bar."""
        values = fp32_scores(self._tiles.states_ND, self._tiles.catalogue.items_VD, rows + users.start,
                             columns + items.start)
        width = items.stop - items.start
        seen_rows, seen_columns = self._tiles.seen(users, items)
        seen = np.isin(rows * width + columns, seen_rows * width + seen_columns)
        self._seen.add(rows[seen] + users.start, columns[seen] + items.start)
        kept = ~seen & (values > self.bars_B(users)[rows])
        self._candidates.add(users, rows[kept], columns[kept] + items.start, values[kept])

    def unseen(self) -> np.ndarray:
        """Columns (items - 1) of every user's best unseen items, best first, int64 [N, K]; -1 where none is left."""
        return self._unseen()[0]

    def unseen_and_all(self) -> tuple[np.ndarray, np.ndarray]:
        """What :meth:`unseen` gives, and the same with the seen items among them."""
        unseen_NK, searched = self._unseen()
        rows_P, columns_P = self._seen.take()
        seen_rows, seen_columns = self._tiles.all_seen()
        more_P = np.isin(seen_rows, searched)  # whose bars told too little
        width = len(self._tiles.catalogue)
        pairs_P = np.concatenate([rows_P * width + columns_P, seen_rows[more_P] * width + seen_columns[more_P]])
        rows_P, columns_P = np.divmod(np.unique(pairs_P), width)
        changed = np.unique(rows_P)
        at, place = np.nonzero(unseen_NK[changed] >= 0)
        lists_NK = unseen_NK.copy()
        self._order(lists_NK, np.concatenate([changed[at], rows_P]),
                    np.concatenate([unseen_NK[changed[at], place], columns_P]))
        return unseen_NK, lists_NK

    def _unseen(self) -> tuple[np.ndarray, np.ndarray]:
        """The lists, and the users for whom the whole catalogue was searched again."""
        values_NR, columns_NR = self._candidates.best()
        width = min(self._top_k, self._candidates.keep)
        lists_NK = np.full((len(values_NR), self._top_k), -1)
        lists_NK[:, :width] = np.where(values_NR[:, :width] > -np.inf, columns_NR[:, :width], -1)
        close, short = self._doubtful(values_NR)
        real = values_NR[close] > -np.inf
        self._order(lists_NK, np.repeat(close, real.sum(1)), columns_NR[close][real])
        seen_rows, seen_columns = self._tiles.all_seen()
        for row in short:
            columns_P = np.setdiff1d(np.arange(len(self._tiles.catalogue)), seen_columns[seen_rows == row])
            self._order(lists_NK, np.full(len(columns_P), row), columns_P)
        return lists_NK, short

    def _doubtful(self, values_NR: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Users whose kept candidates may stand in another order, and those who may miss one that was not kept."""
        slack_N = self._tiles.slack_N(slice(None), slice(None))
        with np.errstate(invalid="ignore"):  # -inf - -inf
            gaps_NR = values_NR[:, :-1] - values_NR[:, 1:]
            border_N = values_NR[:, min(self._top_k, self._candidates.keep) - 1] - values_NR[:, -1]
        close_N = (gaps_NR[:, : self._top_k] <= 2 * slack_N[:, None]).any(1)
        if self._candidates.keep == len(self._tiles.catalogue):
            return np.flatnonzero(close_N), np.zeros(0, np.int64)
        open_N = (values_NR[:, -1] > -np.inf) & (border_N <= 2 * slack_N)
        return np.flatnonzero(close_N & ~open_N), np.flatnonzero(open_N)

    def _order(self, lists_NK: np.ndarray, rows_P: np.ndarray, columns_P: np.ndarray) -> None:
        put_best(lists_NK, self._tiles.states_ND, self._tiles.catalogue, rows_P, columns_P)


def put_best(lists_NK: np.ndarray, states_ND: torch.Tensor, catalogue: Catalogue, rows_P: np.ndarray,
             columns_P: np.ndarray) -> None:
    """Put each user's best K of the given columns into the user's list."""
    scores_P = exact_scores(states_ND, catalogue.items_VD, rows_P, columns_P)
    order = np.lexsort((catalogue.place_V[columns_P], -scores_P, rows_P))
    rows_P, place_P = rows_P[order], place_in_row(rows_P[order])
    kept = place_P < lists_NK.shape[1]
    lists_NK[rows_P[kept], place_P[kept]] = columns_P[order][kept]
