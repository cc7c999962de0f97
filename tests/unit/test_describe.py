"""Resources and columns that `describe` and `--dry-run` print."""

from __future__ import annotations

from pathlib import Path

import pytest

from configs.loader import load
from pipeline.config import RunConfig
from pipeline.describe import local_folders, shortage
from pipeline.stage import Resources
from pipeline.stages import STAGES


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


def _config(*overrides: str) -> RunConfig:
    return load(RunConfig, None, ["name=x", *overrides])


@pytest.mark.parametrize(
    ("stage", "override", "expected", "text"),
    [("prepare", [], Resources(), "this process"),
     ("prepare", ["prepare.execution={workers: 4, num_cpus: 2}"], Resources(4, 2.0), "4 × (2 CPU)"),
     ("profile", ["profile.execution={actors: 3, num_cpus: 0.5}"], Resources(3, 0.5), "3 × (0.5 CPU)"),
     ("encode", ["encode.execution={actors: 1, num_gpus: 0.25}"], Resources(1, 1.0, 0.25), "1 × (1 CPU + 0.25 GPU)"),
     ("reduce", ["reduce.fit_rows=5000"], Resources(1, 1.0, above_rows=5000),
      "this process; above 5,000 rows 1 × (1 CPU)"),
     ("reduce", ["reduce.execution={actors: 2, num_gpus: 1}"], Resources(2, 1.0, 1.0), "2 × (1 CPU + 1 GPU)"),
     ("train", ["train.execution.num_workers=0"], Resources(0, 1.0, fewest=0), "this process"),
     ("train", ["train.execution={num_workers: 2, use_gpu: true, cpus_per_worker: 4}"],
      Resources(2, 4.0, 1.0, fewest=2), "2 × (4 CPU + 1 GPU)"),
     ("encode", ["encode.execution={actors: 2, num_gpus: 1, accelerator_type: H100, resources: {large_memory: 0.5}}"],
      Resources(2, 1.0, 1.0, others=("a node with H100", "0.5 large_memory")),
      "2 × (1 CPU + 1 GPU + a node with H100 + 0.5 large_memory)"),
     ("evaluate", ["evaluate.execution={workers: 2, resources: {far: 1}}"], Resources(2, 1.0, others=("1 far",)),
      "2 × (1 CPU + 1 far)"),
     ("train", ["train.execution.num_workers=[1, 8]"], Resources(8, 1.0, fewest=1), "1 to 8 × (1 CPU)"),
     ("evaluate", ["evaluate.execution.workers=4"], Resources(4, 1.0), "4 × (1 CPU)"),
     ("report", [], Resources(), "this process")],
)
def test_resources_are_read_from_the_settings(stage: str, override: list[str], expected: Resources, text: str) -> None:
    asked = STAGES[stage].resources(_config(*override))
    assert asked == expected
    assert str(asked) == text


def test_more_than_the_local_ray_has_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    config = _config("cluster.num_cpus=3", "train.execution.num_workers=4")
    assert shortage(config, "train") == "train asks for 4 CPUs and the local Ray has 3"
    assert shortage(config, "report") is None
    for enough in ("4", "[4, 16]"):
        assert shortage(_config("cluster.num_cpus=4", f"train.execution.num_workers={enough}"), "train") is None
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    assert shortage(config, "train") is None


def test_what_a_stage_needs_an_earlier_one_makes() -> None:
    made: dict[str, set[str]] = {}
    for stage in list(STAGES.values())[:-1]:
        for name, columns in stage.needs.items():
            assert set(columns) <= made.get(name, set()), f"{stage.name} needs {name}"
        made |= {name: set(columns) for name, columns in stage.makes.items()}


def test_folders_of_models_are_found_behind_variables_and_the_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch
                                                                   ) -> None:
    monkeypatch.setenv("MODELS", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "encoder").mkdir()
    for name in ("$MODELS/encoder", "${MODELS}/encoder", "~/encoder"):
        assert local_folders(_config(f"encode.model={name}"), ["encode"]) == [str(tmp_path / "encoder")]
    assert local_folders(_config("encode.model=intfloat/multilingual-e5-large"), ["encode"]) == []
