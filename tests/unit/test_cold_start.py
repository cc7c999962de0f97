"""Test targets made cold: who is chosen, what they keep, and a split that still is one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest

from cluster.storage import Storage
from configs.errors import DataError
from models.ragged import offsets_of
from pipeline.prepare import keys
from pipeline.prepare.blocks import Blocks, Interactions
from pipeline.prepare.cold_start import choose, rows_that_stay, without
from pipeline.prepare.config import ColdStartConfig, LeaveOneOutSplit, PrepareConfig
from pipeline.prepare.definition import BEFORE, COLD, COLD_FILE
from pipeline.prepare.kept import KeptInteractions
from pipeline.prepare.ordering import Users
from pipeline.prepare.splits import TRAIN_CODE, Split, split
from pipeline.prepare.stage import prepare
from pipeline.store import artifacts
from pipeline.store.arrays import cases, training_sequences
from pipeline.store.columns import COUNT, ITEM_IDX
from tests.raw_files import place_in
from tests.sequences import generate

ITEMS = 80


def data(users: int = 300) -> tuple[KeptInteractions, Split]:
    """Sequences with a leave-one-out split."""
    found = generate(users, ITEMS, seed=2)
    user_N = np.repeat(np.arange(users), found.lengths).astype(np.int32)
    signals_N = np.arange(len(user_N), dtype=np.float32)
    rows = Interactions(user_N, found.values, None, signals_N, np.arange(len(user_N)))
    kept = KeptInteractions(
        Blocks(rows, "s", place_in(Path("not-there"), 10**6)), Users(offsets_of(found.lengths)),
        pl.Series([f"u{u}" for u in range(users)]),
        pl.Series([f"i{i}" for i in range(1, ITEMS + 1)]), timeless=True)
    return kept, split(LeaveOneOutSplit(), kept.users, None, 0)


def rows_of(kept: KeptInteractions) -> Interactions:
    found, = kept.blocks
    return found


def train_counts(kept: KeptInteractions, parts: Split) -> np.ndarray:
    return np.bincount(rows_of(kept).items[parts.parts == TRAIN_CODE], minlength=ITEMS + 1)


def test_a_share_of_the_targets_is_removed_or_cut_and_nothing_else_is_lost() -> None:
    kept, parts = data()
    config = ColdStartConfig(share=0.5, removed=0.25, least=2, most=4)
    cold = choose(config, kept, parts, 0)
    targets = np.unique(rows_of(kept).items[parts.test.targets])
    assert len(cold.items_C) == round(0.5 * len(targets)) and np.isin(cold.items_C, targets).all()
    assert cold.removed_C.sum() == round(0.25 * len(cold.items_C))
    before = train_counts(kept, parts)
    after = train_counts(*without(kept, parts, rows_that_stay(cold, kept, parts, 0)))
    assert not after[cold.items_C[cold.removed_C]].any()
    cut = cold.items_C[~cold.removed_C]
    assert ((after[cut] >= np.minimum(2, before[cut])) & (after[cut] <= 4)).all()
    assert set(after[cut[before[cut] >= 4]].tolist()) == {2, 3, 4}
    assert np.array_equal(after[cold.items_C], cold.left_C) and np.array_equal(before[cold.items_C], cold.before_C)
    others = np.setdiff1d(np.arange(ITEMS + 1), cold.items_C)
    assert np.array_equal(after[others], before[others])


def test_the_seed_decides_who_is_chosen_and_who_stays() -> None:
    kept, parts = data()
    draws = []
    for seed in (0, 0, 1):
        cold = choose(ColdStartConfig(), kept, parts, seed)
        draws.append((cold.items_C.tolist(), rows_that_stay(cold, kept, parts, seed).tolist()))
    assert draws[0] == draws[1] != draws[2]


def test_cases_keep_their_targets_and_lose_only_what_training_lost() -> None:
    kept, parts = data()
    stay = rows_that_stay(choose(ColdStartConfig(share=0.9, removed=1.0), kept, parts, 0), kept, parts, 0)
    found, moved = without(kept, parts, stay)
    found_signals, kept_signals = rows_of(found).signals, rows_of(kept).signals
    assert found_signals is not None and kept_signals is not None
    raw = [kept.user_ids[int(u)] for u in parts.test.users]
    place = {name: n for n, name in enumerate(raw)}
    for user, target in zip(moved.test.users, moved.test.targets, strict=True):
        case = place[found.user_ids[int(user)]]
        old_user, old_target = int(parts.test.users[case]), int(parts.test.targets[case])
        first = int(kept.users.starts[old_user])
        rows = np.arange(first, old_target)[stay[first:old_target]]
        history = slice(int(found.users.starts[user]), int(target))
        assert np.array_equal(found_signals[history], kept_signals[rows]) and len(rows)  # signals name the rows
        assert found_signals[target] == kept_signals[old_target]
    assert moved.left_out is not None
    lost = moved.left_out["validation_users_without_history_by_cold_start"]
    assert lost == len(parts.validation.users) - len(moved.validation.users) > 0
    assert len(moved.test.users) == len(parts.test.users)  # the validation item is still before the test item
    assert (found.users.lengths > 0).all() and len(found.users) == len(found.user_ids)


def test_a_share_that_holds_no_item_is_refused() -> None:
    kept, parts = data()
    with pytest.raises(DataError, match=r"cold_start.share=0.001 of \d+ items that are test targets is none"):
        choose(ColdStartConfig(share=0.001), kept, parts, 0)


def test_too_much_is_refused_in_words() -> None:
    kept, parts = data(6)
    with pytest.raises(DataError, match="a smaller prepare.cold_start.share"):
        without(kept, parts, parts.parts != TRAIN_CODE)
    with pytest.raises(ValueError, match="least=9"):
        ColdStartConfig(least=9, most=6)
    with pytest.raises(ValueError, match="cold_start and extends"):
        PrepareConfig(cold_start=ColdStartConfig(), extends="a" * 16)


@pytest.mark.parametrize("how", ["leave_one_out", "global_temporal", "sessions"])
def test_prepared_data_pass_every_guard_and_name_the_items(storage: Storage, how: str) -> None:
    values: dict[str, Any] = {"source": {"kind": "synthetic", "users": 150, "items": 60}, "split": {"kind": how},
                              "cold_start": {"least": 1, "most": 2}}
    config = PrepareConfig.model_validate(values)
    found = prepare(config, artifacts.begin(storage, keys.key(config)))
    table = pq.read_table(Path(found.path(COLD_FILE)))
    items, removed = table[ITEM_IDX].to_numpy(), table[COLD].to_numpy() == "removed"
    _, trained = training_sequences(found.local("train.arrow"))
    counts = np.bincount(trained.values, minlength=61)
    assert not counts[items[removed]].any() and (counts[items[~removed]] <= 2).all()
    assert np.array_equal(counts[items], table[COUNT].to_numpy())
    assert np.isin(items[removed], cases(found.local("test.arrow")).targets).any()
    assert (table[BEFORE].to_numpy() >= table[COUNT].to_numpy()).all()
    info = found.manifest.info
    assert (info["cold_items_removed"], info["cold_items_cut"]) == (removed.sum(), (~removed).sum())
    assert found.manifest.counts["num_rejected"] == sum(info["dropped"].values()) >= info["dropped"]["cold_start"] > 0


def test_without_it_the_address_is_what_it_was() -> None:
    assert "cold_start" not in keys.key(PrepareConfig()).config
    assert keys.key(PrepareConfig(cold_start=ColdStartConfig())).config["cold_start"]["share"] == 0.4
