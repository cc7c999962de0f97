"""The generated raw layouts, read back by the sources that read the real ones, give the generated tables again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from cluster.storage import Storage
from configs.errors import ConfigError, StorageError
from configs.files import SHIPPED
from configs.loader import load
from pipeline.config import RunConfig
from pipeline.prepare.config import (
    AmazonM2Source,
    AmazonReviewsSource,
    KionSource,
    MovieLensSource,
    SourceConfig,
    SyntheticSource,
)
from pipeline.prepare.keys import key
from pipeline.prepare.raw import ATTRIBUTE, FIELD, RAW_ROW, RawTables
from pipeline.prepare.raw_layouts import LAYOUTS, write_raw_layout
from pipeline.prepare.sources import read_source
from pipeline.prepare.stage import prepare
from pipeline.store import artifacts
from pipeline.store.columns import CATEGORY, ITEM_ID, SIGNAL, TIMESTAMP, TITLE, USER_ID

CONFIG = SyntheticSource(users=300, items=120, mean_length=9.0, tastes=70, seed=2)
ROW = [USER_ID, ITEM_ID, TIMESTAMP, SIGNAL]
DAY = 24 * 60 * 60


@pytest.fixture(scope="module")
def generated() -> RawTables:
    return read_source(CONFIG)


@pytest.fixture(scope="module")
def layouts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("layouts")
    for kind in LAYOUTS:
        write_raw_layout(kind, CONFIG, folder / kind)
    return folder


def read(source: SourceConfig) -> tuple[pl.DataFrame, pl.DataFrame, RawTables]:
    raw = read_source(source)
    assert raw.items is not None
    return raw.interactions.collect(), raw.items.collect(), raw


def told(generated: RawTables) -> pl.DataFrame:
    assert generated.items is not None
    return generated.items.collect()


def plain_number(column: str) -> pl.Expr:
    """``B000000041`` → ``42``: the layouts with numeric ids count from 1."""
    return (pl.col(column).str.slice(1).cast(pl.Int64) + 1).cast(pl.String).alias(column)


def test_amazon_reviews(layouts: Path, generated: RawTables) -> None:
    folder = layouts / "amazon_reviews"
    interactions, items, _ = read(AmazonReviewsSource(interactions=str(folder / "interactions.csv"),
                                                      items=str(folder / "items.csv")))
    assert interactions.select(ROW).equals(generated.interactions.collect().select(ROW))
    columns = [ITEM_ID, TITLE, FIELD + "title", FIELD + "brand", FIELD + "price", FIELD + "description"]
    assert items.select(columns).equals(told(generated).select(columns))
    assert items[CATEGORY].to_list() == [[name] for name in told(generated)[CATEGORY]]
    assert items[FIELD + "categories"].equals(told(generated)[CATEGORY], check_names=False)


def test_movielens(layouts: Path, generated: RawTables) -> None:
    interactions, items, _ = read(MovieLensSource(folder=str(layouts / "movielens")))
    expected = generated.interactions.collect().with_columns(plain_number(USER_ID), plain_number(ITEM_ID))
    assert interactions.select(ROW).sort(ROW).equals(expected.select(ROW).sort(ROW))
    assert items[ITEM_ID].to_list() == [str(index + 1) for index in range(CONFIG.items)]
    assert items[TITLE].str.replace(r" \(\d{4}\)$", "").equals(told(generated)[TITLE])
    assert items[FIELD + "year"].cast(pl.Int64).is_between(1940, 2015).all()
    genres = told(generated)[CATEGORY].str.split(" & ")
    assert genres.list.len().max() == 2  # beyond 64 tastes a category names two themes
    assert items[FIELD + "genres"].str.split(", ").to_list() == genres.to_list()
    assert items[CATEGORY].to_list() == genres.list.first().to_list()


def test_kion(layouts: Path, generated: RawTables) -> None:
    interactions, items, raw = read(KionSource(folder=str(layouts / "kion"), user_attributes=True))
    expected = generated.interactions.collect().with_columns(plain_number(USER_ID), plain_number(ITEM_ID))
    assert interactions.select(USER_ID, ITEM_ID).equals(expected.select(USER_ID, ITEM_ID))
    per_second = {"s": 1, "us": 10**6}[raw.time_unit]
    assert (interactions[TIMESTAMP] // per_second).to_list() == (expected[TIMESTAMP] // DAY * DAY).to_list()
    # A rating of r stars is a share between 20 (r - 1) and 20 r percent.
    assert (interactions[SIGNAL] / 20).ceil().equals(expected[SIGNAL])
    assert items[TITLE].equals(told(generated)[TITLE])
    assert items[FIELD + "description"].equals(told(generated)[FIELD + "description"])
    assert items[FIELD + "genres"].to_list() == told(generated)[CATEGORY].str.replace(" & ", ", ").to_list()
    assert raw.users is not None
    users = raw.users.collect()
    assert users.columns == [USER_ID, *(ATTRIBUTE + name for name in ("age", "income", "sex", "kids_flg"))]
    assert set(users[USER_ID]) < set(interactions[USER_ID])
    assert len(users) == pytest.approx(0.9 * CONFIG.users, rel=0.1)


def test_amazon_m2(layouts: Path, generated: RawTables) -> None:
    interactions, items, raw = read(AmazonM2Source(folder=str(layouts / "amazon_m2")))
    expected = generated.interactions.collect()
    assert raw.timeless
    assert interactions[ITEM_ID].to_list() == ("UK:" + expected[ITEM_ID]).to_list()
    session = expected[USER_ID].str.slice(1).cast(pl.Int64) + 1
    assert interactions[USER_ID].str.extract(r"(\d+)$").cast(pl.Int64).equals(session, check_names=False)
    british = items.filter(pl.col(ITEM_ID).str.starts_with("UK:"))
    assert british[ITEM_ID].to_list() == ("UK:" + told(generated)[ITEM_ID]).to_list()
    assert british[TITLE].equals(told(generated)[TITLE])
    assert british[FIELD + "desc"].to_list() == told(generated)[FIELD + "description"].to_list()
    german = items.filter(pl.col(ITEM_ID).str.starts_with("DE:"))
    assert len(german) == -(-CONFIG.items // 50)
    assert not set(german[TITLE]) & set(british[TITLE])


def test_sessions_are_printed_as_numpy_prints_them(layouts: Path, generated: RawTables) -> None:
    sessions = pl.read_csv(layouts / "amazon_m2" / "sessions_train.csv")
    histories = generated.interactions.collect().group_by(USER_ID, maintain_order=True).agg(ITEM_ID)[ITEM_ID].to_list()
    printed = [np.array2string(np.array(history[:-1]), threshold=10**9) for history in histories]
    assert sessions["prev_items"].to_list() == printed
    assert sessions["next_item"].to_list() == [history[-1] for history in histories]
    assert any("\n" in text for text in printed)


@pytest.mark.parametrize("kind", LAYOUTS)
def test_the_same_settings_give_the_same_bytes(kind: str, layouts: Path, tmp_path: Path) -> None:
    paths = write_raw_layout(kind, CONFIG, tmp_path / "again")
    assert sorted(path.name for path in paths) == sorted(path.name for path in (layouts / kind).iterdir())
    for path in paths:
        assert path.read_bytes() == (layouts / kind / path.name).read_bytes()


def test_several_blocks_of_users_make_one_file(tmp_path: Path) -> None:
    write_raw_layout("amazon_m2", SyntheticSource(users=8192 + 10, items=100, mean_length=3.5), tmp_path)
    sessions = pl.read_csv(tmp_path / "sessions_train.csv")
    assert len(sessions) == 8192 + 10
    assert sessions.columns == ["prev_items", "next_item", "locale"]


def test_an_unknown_layout_names_the_legal_ones(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'netflix'; legal: amazon_reviews, movielens, kion, amazon_m2"):
        write_raw_layout("netflix", CONFIG, tmp_path)


def test_a_file_where_the_folder_should_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "taken").touch()
    with pytest.raises(StorageError, match=r"taken: cannot be written: File exists; name another folder$"):
        write_raw_layout("movielens", CONFIG, tmp_path / "taken")


@pytest.mark.parametrize("name", ["beauty", "ml-20m", "kion", "amazon-m2"])
def test_the_papers_configurations_prepare_their_layout(name: str, layouts: Path, storage: Storage,
                                                        monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    kind = load(RunConfig, SHIPPED / "paper" / f"{name}-sasrec.yaml").prepare.source.kind
    (tmp_path / "paper").mkdir()
    (tmp_path / "paper" / name).symlink_to(layouts / kind)
    monkeypatch.setenv("MENTOREC_DATA", str(tmp_path))
    config = load(RunConfig, SHIPPED / "paper" / f"{name}-sasrec.yaml").prepare
    artifact = prepare(config, artifacts.begin(storage, key(config)))
    counts = artifact.manifest.counts
    assert counts["num_in"] == len(read_source(CONFIG).interactions.select(RAW_ROW).collect())
    assert counts["num_rejected"] > 0  # nobody of three interactions stays
    assert counts["items"] <= CONFIG.items
    assert min(counts["train_users"], counts["validation_users"], counts["test_users"]) > 20
