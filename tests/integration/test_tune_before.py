"""Real searches over what stands before `train`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cluster.storage import Storage
from configs.errors import ConfigError
from configs.loader import load
from pipeline.commands.clean import survey as survey_storage
from pipeline.config import RunConfig
from pipeline.plan import NEEDED
from pipeline.store import artifacts
from tests.integration.conftest import Cli
from tests.searches import leaderboard, number_built
from tests.tools import strays
from tuning.before import Before, survey
from tuning.config import Choice
from tuning.search import _inputs

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def test_what_combinations_share_is_built_once_and_each_finds_its_own(tiny_config: Path,
                                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    """A search needs it from before it is built, whatever becomes of its runs and trials."""
    def before(*starts: object) -> Before:
        values = load(RunConfig, tiny_config, ["arms=[plain]"]).model_dump(mode="json")
        return survey(values, {"train.item_init": Choice(values=starts), "train.batch_size": Choice(values=(16, 32))})

    text, found = {"kind": "text"}, before(None, {"kind": "text"}, {"kind": "text", "whiten": True})
    storage = Storage.from_config(load(RunConfig, tiny_config).storage)
    built: list[str] = []
    begin = artifacts.find_or_begin
    monkeypatch.setattr(artifacts, "find_or_begin", lambda storage, key, *more: (
        built.append(key.stage), begin(storage, key, *more))[1])
    inputs = _inputs(found, storage, "tune/s", confirmed=False)
    assert sorted(built) == ["encode", "prepare", "reduce", "reduce"]
    assert set(inputs.of({"train.item_init": None, "train.batch_size": 16})) == {"prepare"}
    plain, white = (inputs.of({"train.item_init": start, "train.batch_size": 32}) for start in (
        text, {"whiten": True, "kind": "text"}))
    assert set(plain) == {"prepare", "encode/items", "reduce/items/pca-16"}
    assert set(white) == {"prepare", "encode/items", "reduce/items/pca-16-whitened"}
    assert plain["reduce/items/pca-16"].manifest.key["config"]["whiten"] is False
    assert white["reduce/items/pca-16-whitened"].manifest.key["config"]["whiten"] is True
    assert _inputs(found, storage, "tune/s", confirmed=False) == inputs and len(built) == 4
    assert not storage.exists("runs") and len(storage.read_json(f"tune/s/{NEEDED}")) == 4
    assert survey_storage(storage).goes == [] and survey_storage(storage).stays == {"search s": 4}
    with pytest.raises(ConfigError, match="were trained on other data, texts or models than are there now"):
        _inputs(before(None, text), storage, "tune/s", confirmed=False)


def test_a_search_over_teachers_texts_and_members_trains_each_trial_from_its_own(tiny_config: Path, tmp_path: Path,
                                                                                 cli: Cli) -> None:
    """Members of another width are trained with it, before the trials."""
    storage, path = tmp_path / "storage", tiny_config.parent / "wide.yaml"
    path.write_text(f"""
name: wide
run: {tiny_config.name}
overrides: ["arms=[own]", "recipes={{own: {{train: {{ensemble: {{members: [{{arm: plain}}]}}}}}}}}", train.epochs=3]
search: {{kind: grid}}
asha: null
space:
  recipes.own.teacher: {{kind: choice, values: [plain, distilled]}}
  recipes.own.train.item_init: {{kind: choice, values: [null, {{kind: text}}], when: {{recipes.own.teacher: [plain]}}}}
  model.hidden_dim: {{kind: choice, values: [8, 16], when: {{recipes.own.train.item_init: [null]}}}}
""")
    done = cli("tune", "--config", str(path), timeout_s=600)
    assert done.returncode == 0, done.stderr
    assert [line for line in strays(done.stderr) if not line.startswith("tune: ")] == []
    rows = leaderboard(storage, "wide")
    assert [row["status"] for row in rows] == ["finished"] * 4
    for row in rows:
        key = json.loads((storage / "artifacts/train" / row["fingerprint"] / "key.json").read_text())
        distilled, text = row["recipes.own.teacher"] == "distilled", bool(row["recipes.own.train.item_init"])
        assert set(key["inputs"]) == {"prepare", "member_0", *["reduce"] * distilled, *["items"] * text}
        member = json.loads((storage / "artifacts/train" / key["inputs"]["member_0"] / "key.json").read_text())
        width = int(row["model.hidden_dim"] or 16)
        assert member["config"]["model"]["hidden_dim"] == key["config"]["model"]["hidden_dim"] == width
    assert number_built(storage) == {"prepare": 1, "profile": 1, "encode": 2, "reduce": 2, "train": 2 + 4}
