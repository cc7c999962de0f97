"""A whole proof on a catalogue of seconds: trained, reported and taken up again through the run's own machinery."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from configs.errors import ConfigError
from configs.loader import load
from pipeline.config import RunConfig
from pipeline.prove.proof import derive, dry_run_lines, prove
from tests.tools import TINY

RECIPES = """
arms: [matched]
seeds: [2]
prove: {seeds: 2, controls: [ids, longer, collaborative]}
recipes:
  told: {train: {item_table: {kind: mapped_text}, distill_epochs: 0}}
  matched:
    train: {distill_epochs: 0, epochs: 2, ensemble: {members: [{arm: plain}, {arm: told}], start: 0}}
"""


def test_a_proof_ends_in_advice_and_is_not_made_twice(tmp_path: Path) -> None:
    file = tmp_path / "tiny.yaml"
    tiny = TINY.replace("arms: [plain, distilled]\n", "") + RECIPES + f"storage: {{uri: {tmp_path / 'storage'}}}\n"
    file.write_text(tiny)
    proof = derive(load(RunConfig, file, ["evaluate.baselines=[popularity]"]))
    result = prove(proof)
    assert result.metrics is not None
    folder = tmp_path / "storage/runs/tiny-proof"
    arms = ["plain", "matched", "matched-ids", "matched-longer", "matched-collaborative"]
    assert list(result.metrics["arms"]) == arms
    assert [(row["first"], row["second"]) for row in result.metrics["claims"]["rows"]] == proof.family
    assert json.loads((folder / "proof.json").read_text())["comparisons"][0] == "matched − plain"
    bullets = re.findall(r"^- (.*)$", (folder / "report.md").read_text(), re.MULTILINE)
    assert bullets[0].startswith("Serve ")
    assert re.match(r"How sure: 4 comparisons fixed by the configuration, \d+ test users, 2 seeds; plain", bullets[1])
    longer = result.artifacts["train/matched-longer/seed-3"].manifest
    assert longer.info["epochs"] == 4 + 4 + 2
    assert load(RunConfig, folder / "config.json") == proof.config  # for `show`, `report`, `submit`
    again = prove(proof)
    assert not again.built and again.metrics == result.metrics
    assert list(dry_run_lines(proof))[-1].endswith("0 epochs to come at most")
    with pytest.raises(ConfigError, match="begun with other settings"):
        prove(derive(load(RunConfig, file, ["evaluate.baselines=[popularity]", "train.epochs=5"])))
