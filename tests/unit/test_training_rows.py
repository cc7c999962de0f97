"""The rows that a worker trains on: chosen by length, cut, and small in memory."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import numpy as np
import pyarrow as pa
import pytest

from configs.errors import DataError
from models.config import (
    BERT4RecConfig,
    ModelConfig,
    NegativeSource,
    SampledSoftmaxLoss,
    SASRecConfig,
    SoftmaxLoss,
)
from models.students import build_encoder
from pipeline.store.arrow import write_arrow
from pipeline.store.columns import ITEMS, USER_IDX
from pipeline.train import data
from pipeline.train.data import TrainingRows
from pipeline.train.sampler import Sampler

LENGTHS = [3, 1, 9, 2, 1, 4, 7]
SASREC, BERT4REC = SASRecConfig(hidden_dim=8, max_length=4), BERT4RecConfig(hidden_dim=8, max_length=4)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    items = pa.array([[*range(1, length + 1)] for length in LENGTHS], pa.large_list(pa.int32()))
    write_arrow(tmp_path / "train.arrow", pa.table({USER_IDX: np.arange(len(LENGTHS)) * 10, ITEMS: items}))
    return tmp_path / "train.arrow"


@pytest.mark.parametrize(("model", "kept", "lengths"), [(SASREC, [0, 2, 3, 5, 6], [3, 5, 2, 4, 5]),
                                                        (BERT4REC, range(7), [3, 1, 5, 2, 1, 4, 5])])
def test_rows_too_short_for_a_target_are_left_out(path: Path, monkeypatch: pytest.MonkeyPatch, model: ModelConfig,
                                                  kept: list[int], lengths: list[int]) -> None:
    encoder = build_encoder(model, 9, 0)
    whole = TrainingRows.open(path, encoder)
    monkeypatch.setattr(data, "_COUNTED_AT_ONCE", 2)
    for rows in (whole, TrainingRows.open(path, encoder)):
        assert rows.users_N.tolist() == [10 * row for row in kept] and rows.num_skipped == 7 - len(rows)
        assert rows.lengths_N.tolist() == [min(length, rows.max_items) for length in np.array(LENGTHS)[list(kept)]]
        assert rows.item_counts(9).tolist() == [7, 5, 4, 3, 2, 2, 2, 1, 1]
        batch = rows.batch(np.argsort(rows.lengths_N)[-2:], with_targets=False)
        assert batch.users_B.tolist() == [20, 60] and batch.items_BL[0].tolist() == [5, 6, 7, 8, 9][-rows.max_items:]


@pytest.mark.parametrize(("model", "counts"), [(SASREC, [0, 3, 2, 2, 1, 2, 2, 1, 1]),
                                               (BERT4REC, [5, 3, 2, 2, 1, 2, 2, 1, 1])])
def test_targets_are_counted_where_an_epoch_asks_for_them(path: Path, monkeypatch: pytest.MonkeyPatch,
                                                          model: ModelConfig, counts: list[int]) -> None:
    """Not before the window, not of rows too short; a row's first item only where students learn from lone items."""
    rows = TrainingRows.open(path, build_encoder(model, 9, 0))
    assert rows.target_counts(9).tolist() == counts
    monkeypatch.setattr(data, "_COUNTED_AT_ONCE", 4)
    assert rows.target_counts(9).tolist() == counts
    drawn = {source: rows.drawn_by(SampledSoftmaxLoss(source=source), 9) for source in get_args(NegativeSource)}
    assert drawn["uniform"] is None and rows.drawn_by(SoftmaxLoss(), 9) is None
    assert [drawn["popularity"].tolist(), drawn["in_batch"].tolist()] == [rows.item_counts(9).tolist(), counts]


def test_a_worker_holds_twelve_bytes_of_a_user(path: Path) -> None:
    """At a hundred million users: 1.2 GB in every process that trains. All else is mapped."""
    rows = TrainingRows.open(path, build_encoder(SASREC, 9, 0))
    order = Sampler(rows.lengths_N, 2, seed=0).epoch(0)
    assert [array.itemsize for array in (rows.index_N, order.rows_N, order.lengths_N)] == [4, 4, 4]
    assert not rows.users.flags.owndata and not rows.sequences.values.flags.owndata


def test_nobody_with_a_target_is_an_error(tmp_path: Path) -> None:
    lone = pa.array([[1], [2]], pa.large_list(pa.int32()))
    write_arrow(tmp_path / "train.arrow", pa.table({USER_IDX: np.arange(2), ITEMS: lone}))
    with pytest.raises(DataError, match="no user has 2 or more training items"):
        TrainingRows.open(tmp_path / "train.arrow", build_encoder(SASREC, 9, 0))
