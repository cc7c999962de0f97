"""A pass in bf16 over users × items: which pairs may reach a threshold.

Legend: N users, B users of a tile, V catalogue, C items of a tile, I inner width.
"""

from __future__ import annotations

import numpy as np
import torch

from models.products import BF16_ERROR, Tiles

_LANES = 32
"""bf16 matrix units take inner sizes in multiples of this."""
_ANYTHING = -1e30
"""A threshold below any score."""


class RoughScores:
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
        self._slack_N = BF16_ERROR * norms_N

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
