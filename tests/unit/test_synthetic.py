"""The generator: what it draws, on what that depends, and on what it must not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from pipeline.prepare.config import SyntheticSource
from pipeline.prepare.raw import FIELD, RAW_ROW
from pipeline.prepare.synthetic import NOTICE, read_synthetic
from pipeline.prepare.synthetic_catalogue import Catalogue, catalogue, lengths, longest
from pipeline.prepare.synthetic_text import brand_names, text_blocks, vocabulary
from pipeline.prepare.synthetic_users import BEGIN, SPAN, Block, block, block_users, num_blocks
from pipeline.prepare.synthetic_words import FILLER, VARIANTS
from pipeline.store.columns import CATEGORY, ITEM_ID, SIGNAL, TIMESTAMP, TITLE, USER_ID

CONFIG = SyntheticSource(users=3000, items=1500, mean_length=8.0, seed=5)


@pytest.fixture(scope="module")
def items() -> Catalogue:
    return catalogue(CONFIG)


@pytest.fixture(scope="module")
def histories(items: Catalogue) -> Block:
    assert num_blocks(CONFIG) == 1
    return block(CONFIG, items, 0)


def tables(config: SyntheticSource) -> tuple[pl.DataFrame, pl.DataFrame]:
    raw = read_synthetic(config)
    assert raw.items is not None
    return raw.interactions.collect(), raw.items.collect()


def texts(config: SyntheticSource, items: Catalogue) -> list[dict[str, str]]:
    return [row for part in text_blocks(config, items) for row in part.to_pylist()]


def words(row: dict[str, str]) -> list[str]:
    """All drawn words of an item: no brand, no glue."""
    said = row["title"].split()[1:] + row["description"].replace("Made for", "").replace("With", "").replace(
        ",", "").replace(".", "").replace(" and ", " ").lower().split()
    assert len(said) == 16
    return said


def same_user_pairs(part: Block) -> np.ndarray:
    return np.flatnonzero(np.diff(part.users_N) == 0)


def test_the_tables_have_the_columns_of_a_source() -> None:
    interactions, texts_ = tables(SyntheticSource(users=50, items=40))
    assert dict(interactions.schema) == {USER_ID: pl.String, ITEM_ID: pl.String, TIMESTAMP: pl.Int64,
                                         SIGNAL: pl.Float32, RAW_ROW: pl.Int64}
    assert texts_.columns == [ITEM_ID, TITLE, CATEGORY, FIELD + "title", FIELD + "category", FIELD + "brand",
                              FIELD + "price", FIELD + "description"]
    assert interactions[RAW_ROW].to_list() == list(range(len(interactions)))
    assert interactions[USER_ID].n_unique() == 50
    assert texts_[ITEM_ID].n_unique() == len(texts_) == 40
    assert set(interactions[ITEM_ID]) <= set(texts_[ITEM_ID])
    assert texts_.null_count().sum_horizontal().item() == 0


def test_it_says_that_its_signal_is_built_in() -> None:
    assert read_synthetic(SyntheticSource(users=5, items=5)).info == {"notice": NOTICE}


def test_the_same_settings_give_the_same_tables() -> None:
    config = SyntheticSource(users=100, items=60, seed=3)
    for one, two in zip(tables(config), tables(config), strict=True):
        assert one.equals(two)


def test_another_seed_gives_other_tables() -> None:
    one, two = (tables(SyntheticSource(users=100, items=60, seed=seed)) for seed in (3, 4))
    assert not one[0].equals(two[0])
    assert not one[1].equals(two[1])


def test_a_block_does_not_depend_on_the_blocks_before_it() -> None:
    config = SyntheticSource(users=8192 + 100, items=1000, mean_length=4)
    drawn = catalogue(config)
    assert (block_users(config), num_blocks(config)) == (8192, 2)
    in_order = [block(config, drawn, number) for number in range(num_blocks(config))]
    alone = block(config, catalogue(config), num_blocks(config) - 1)
    assert alone.first_user == in_order[-1].first_user == 8192
    assert len(alone.lengths_B) == 100
    np.testing.assert_array_equal(alone.items_N, in_order[-1].items_N)
    np.testing.assert_array_equal(alone.times_N, in_order[-1].times_N)
    np.testing.assert_array_equal(alone.ratings_N, in_order[-1].ratings_N)


@pytest.mark.parametrize("mean", [3.0, 5.9, 8.0, 144.0])
def test_history_lengths_have_the_asked_mean_and_a_heavy_tail(mean: float) -> None:
    config = SyntheticSource(items=100_000, mean_length=mean)
    drawn = lengths(config, (np.arange(1_000_000) + 0.5) / 1_000_000)
    assert drawn.min() == 3
    assert drawn.max() <= longest(config)
    assert drawn.mean() == pytest.approx(mean, rel=0.01)
    if mean > 3:
        assert np.quantile(drawn, 0.999) > 4 * mean


def test_times_rise_within_a_user_and_rarely_tie(histories: Block) -> None:
    steps = np.diff(histories.times_N)[same_user_pairs(histories)]
    assert steps.min() >= 0
    assert 0 < (steps == 0).mean() < 0.01
    assert histories.times_N.min() >= BEGIN
    assert histories.times_N.max() < BEGIN + SPAN


def test_more_happens_as_time_goes_on(histories: Block) -> None:
    quarters = np.bincount((histories.times_N - BEGIN) * 4 // SPAN)
    assert (np.diff(quarters) > 0).all()


def test_a_global_boundary_has_users_on_both_sides(histories: Block) -> None:
    late = histories.times_N > np.quantile(histories.times_N, 0.8)
    before, after = (np.bincount(histories.users_N, mask, CONFIG.users) > 0 for mask in (~late, late))
    assert (before & after).sum() > 0.2 * CONFIG.users
    assert (after & ~before).sum() > 0.02 * CONFIG.users


def test_items_are_seldom_repeated(histories: Block) -> None:
    pairs = histories.users_N * CONFIG.items + histories.items_N
    assert len(np.unique(pairs)) > 0.999 * len(pairs)


def test_popularity_follows_the_exponent() -> None:
    shares = []
    for exponent in (0.0, 0.8, 1.2):
        config = SyntheticSource(users=4000, items=2000, popularity_exponent=exponent, sequence_strength=0.0)
        counts = np.sort(np.bincount(block(config, catalogue(config), 0).items_N, minlength=2000))[::-1]
        shares.append(counts[:200].sum() / counts.sum())
    assert shares[0] < 0.2  # a tenth of the items, were there no chance in counts, has a tenth of the interactions
    assert shares[0] < shares[1] < shares[2]
    assert shares[1] > 0.25


def test_next_items_follow_the_tastes(items: Catalogue, histories: Block) -> None:
    taste = items.taste_I[histories.items_N]
    pairs = same_user_pairs(histories)
    chance = ((np.bincount(taste) / len(taste)) ** 2).sum()
    assert (taste[pairs] == taste[pairs + 1]).mean() > 10 * chance


def test_users_of_several_tastes_drift_from_the_first_to_the_second() -> None:
    """The last item shares the first one's taste less often than the second item does."""
    config = SyntheticSource(users=4000, items=2000, mean_length=20, drift=1.0, exploration=0.0, sequence_strength=0.0)
    drawn = block(config, catalogue(config), 0)
    taste = catalogue(config).taste_I[drawn.items_N]
    ends = np.cumsum(drawn.lengths_B)
    starts = ends - drawn.lengths_B
    same = taste[starts] == taste[ends - 1]
    near = taste[starts] == taste[starts + 1]
    assert near.mean() > same.mean() + 0.03


@pytest.mark.parametrize("strength", [0.0, 0.6])
def test_successors_follow_with_the_asked_chance(strength: float) -> None:
    config = SyntheticSource(users=3000, items=3000, sequence_strength=strength)
    drawn = catalogue(config)
    part = block(config, drawn, 0)
    pairs = same_user_pairs(part)
    followed = (drawn.successor_I[part.items_N[pairs]] == part.items_N[pairs + 1]).mean()
    assert followed == pytest.approx(strength, abs=0.03)


def test_successors_stay_in_the_taste_and_reach_every_item(items: Catalogue) -> None:
    np.testing.assert_array_equal(items.taste_I[items.successor_I], items.taste_I)
    np.testing.assert_array_equal(np.sort(items.successor_I), np.arange(CONFIG.items))


def test_ratings_are_whole_and_higher_in_the_users_tastes(items: Catalogue, histories: Block) -> None:
    assert set(np.unique(histories.ratings_N)) == {1.0, 2.0, 3.0, 4.0, 5.0}
    taste = items.taste_I[histories.items_N]
    key = histories.users_N * items.num_tastes + taste
    often = np.bincount(key)[key] >= 0.5 * histories.lengths_B[histories.users_N]
    assert histories.ratings_N[often].mean() > histories.ratings_N[~often].mean() + 0.5


def test_with_signal_one_every_word_is_the_tastes_own(items: Catalogue) -> None:
    tastes = vocabulary(items.num_tastes)
    for row in texts(CONFIG.model_copy(update={"text_signal": 1.0}), items):
        category, own = tastes[items.taste_I[row["index"]]]
        assert row["category"] == category
        assert set(words(row)) <= set(own)


def test_the_signal_is_the_share_of_telling_words(items: Catalogue) -> None:
    tastes = vocabulary(items.num_tastes)
    own = [word in tastes[items.taste_I[row["index"]]][1]
           for row in texts(CONFIG.model_copy(update={"text_signal": 0.4}), items) for word in words(row)]
    assert np.mean(own) == pytest.approx(0.4, abs=0.02)


def test_without_signal_texts_are_the_same_whatever_the_tastes_and_prices(items: Catalogue) -> None:
    silent = CONFIG.model_copy(update={"text_signal": 0.0})
    others = replace(items, taste_I=np.roll(items.taste_I, 1), price_I=1 - items.price_I)
    assert texts(silent, items) == texts(silent, others)
    assert texts(CONFIG, items) != texts(CONFIG, others)


def test_without_signal_no_text_is_an_items_fingerprint(items: Catalogue) -> None:
    """Four variants: profiles made of them cannot tell which items a user had."""
    silent = texts(CONFIG.model_copy(update={"text_signal": 0.0}), items)
    assert len({tuple(value for name, value in row.items() if name != "index") for row in silent}) == 4


def test_no_filler_word_belongs_to_a_taste() -> None:
    assert not {*FILLER, *VARIANTS} & {word for _, own in vocabulary(64) for word in own}


def test_the_signal_changes_no_history() -> None:
    told, silent = (tables(SyntheticSource(users=200, items=100, text_signal=signal)) for signal in (1.0, 0.0))
    assert told[0].equals(silent[0])
    assert not told[1].equals(silent[1])


def test_every_taste_and_brand_has_its_own_name() -> None:
    tastes = vocabulary(4096)
    assert len({name for name, _ in tastes}) == len({frozenset(own) for _, own in tastes}) == 4096
    assert {len(set(own)) for _, own in tastes} == {12}
    embedded = [word for _, own in tastes[:64] for word in own]
    assert len(set(embedded)) == 64 * 12
    assert len(set(brand_names(4 * 4096))) == 4 * 4096


def test_sessions_have_no_times_and_no_ratings() -> None:
    config = SyntheticSource(users=60, items=50, sessions=True)
    raw = read_synthetic(config)
    interactions = raw.interactions.collect()
    assert raw.timeless
    assert interactions[TIMESTAMP].null_count() == interactions[SIGNAL].null_count() == len(interactions)
    timed = tables(config.model_copy(update={"sessions": False}))[0]
    assert interactions[ITEM_ID].equals(timed[ITEM_ID])


@pytest.mark.parametrize(("users", "items", "tastes"), [(2, 2, 1), (3, 2, 64), (10, 5, 5), (2, 1000, 1000)])
def test_tiny_catalogues_work(users: int, items: int, tastes: int) -> None:
    interactions, described = tables(SyntheticSource(users=users, items=items, tastes=tastes, mean_length=4))
    assert interactions[USER_ID].n_unique() == users
    assert (interactions.group_by(USER_ID).len()["len"] >= 3).all()
    assert len(described) == items
