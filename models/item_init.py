"""Item embeddings that start from given vectors, in any student: only the protocol's scoring vectors are touched.

Legend: V items 1…n, D hidden width, T items with a trained embedding and a vector.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from configs.errors import ConfigError, illegal
from models.protocols import SequenceEncoder

_FLAT = 1e-12


def item_parameter(encoder: SequenceEncoder) -> str:
    """Name of the parameter that the items' scoring vectors are rows of.

    Raises:
        ConfigError: they are computed, so there is no table to write to.
    """
    own = encoder.item_weights_VD().untyped_storage().data_ptr()
    for name, value in cast(nn.Module, encoder).named_parameters():
        if value.untyped_storage().data_ptr() == own:
            return name
    raise ConfigError(f"{type(encoder).__name__}: its item_weights_VD() is no view of a parameter, so no item table "
                      "can be carried over or started from vectors; use a student whose item_weights_VD() returns "
                      "rows of its embedding")


def start_items(encoder: SequenceEncoder, vectors_VD: Tensor, known_V: Tensor, trained_V: Tensor | None = None) -> int:
    """Replace the random start of the known items' embeddings, in place; every other parameter stays as it is.

    The vectors are centred and scaled by one number, so that their standard deviation is that of the random start they
    replace. Where other items are trained already, their space is another one than the vectors': then the linear map
    that best takes their vectors to their embeddings places the new items among them.

    Args:
        encoder: freshly initialised, but for ``trained_V``.
        vectors_VD: one row per item 1…n; rows of unknown items are not read.
        known_V: bool, items that have a vector.
        trained_V: bool, items whose embeddings are trained; they stay. None: none.

    Returns:
        How many embeddings were started from vectors.

    Raises:
        ConfigError: vectors of another shape, not finite, or all alike; or the encoder has no item table.
    """
    item_parameter(encoder)
    with torch.no_grad():
        table_VD = encoder.item_weights_VD()
        trained_V = torch.zeros_like(known_V) if trained_V is None else trained_V
        fresh_V = known_V & ~trained_V
        if vectors_VD.shape != table_VD.shape:
            raise ConfigError(illegal("item vectors", list(vectors_VD.shape), str(list(table_VD.shape)),
                                      "reduce them to the student's width"))
        if not torch.isfinite(vectors_VD[known_V]).all():
            raise ConfigError("item vectors: some hold NaN or Inf; build them again")
        if not fresh_V.any():
            return 0
        centred_VD = vectors_VD.float() - vectors_VD[known_V].float().mean(0)
        spread = centred_VD[known_V].square().mean().sqrt()
        if spread < _FLAT:
            raise ConfigError("item vectors: they are all alike; do the items' texts differ?")
        centred_VD /= spread
        if (known_V & trained_V).any():
            table_VD[fresh_V] = _placed(centred_VD, table_VD, known_V & trained_V)[fresh_V]
        else:
            table_VD[fresh_V] = centred_VD[fresh_V] * table_VD[fresh_V].square().mean().sqrt()
        return int(fresh_V.sum())


def place_untrained(table_VD: Tensor, vectors_VE: Tensor, known_V: Tensor, trained_V: Tensor, scale: float = 1.0
                    ) -> tuple[Tensor, int]:
    """The table with every untrained item put where its vector says.

    An item that is never a target is still a negative of every softmax, which pushes it below all others. Its row
    becomes that of the linear map which best takes the trained items' vectors to their rows; a regression draws rows to
    their mean, so their spread around it is brought to a share of that of the trained rows.

    Args:
        table_VD: rows of items 1…n after training.
        vectors_VE: one vector per item.
        known_V: bool, items that have a vector.
        trained_V: bool, items with a training interaction; they stay.
        scale: that share.

    Returns:
        A new table, and how many items were placed.
    """
    fresh_V, seen_V = known_V & ~trained_V, known_V & trained_V
    if not fresh_V.any() or not seen_V.any():
        return table_VD, 0
    centred_VE = vectors_VE.float() - vectors_VE[known_V].float().mean(0)
    placed_VD = _placed(centred_VE / centred_VE[known_V].square().mean().sqrt().clamp(min=_FLAT), table_VD, seen_V)
    mean_D = table_VD[seen_V].mean(0)
    spread, drawn = ((rows - mean_D).square().mean().sqrt() for rows in (table_VD[seen_V], placed_VD[seen_V]))
    rows_VD = mean_D + (placed_VD - mean_D) * (scale * spread / drawn.clamp(min=_FLAT))
    return torch.where(fresh_V.unsqueeze(1), rows_VD, table_VD), int(fresh_V.sum())


def _placed(vectors_VD: Tensor, table_VD: Tensor, seen_V: Tensor) -> Tensor:
    """Every item where the trained ones say that its vector belongs: ridge regression with a penalty of as many rows as
    the vectors have dimensions."""
    source_TD, wanted_TD = vectors_VD[seen_V].double(), table_VD[seen_V].double()
    source_mean, wanted_mean = source_TD.mean(0), wanted_TD.mean(0)
    source_TD, width = source_TD - source_mean, source_TD.shape[1]
    gram_DD = source_TD.T @ source_TD + width * torch.eye(width, dtype=torch.float64)
    map_DD = torch.linalg.solve(gram_DD, source_TD.T @ (wanted_TD - wanted_mean))
    return ((vectors_VD.double() - source_mean) @ map_DD + wanted_mean).to(table_VD.dtype)
