"""`mentorec status` tells how far a run is; `mentorec clean` removes what nothing needs, and nothing else."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cluster.config import StorageConfig
from cluster.storage import Storage
from pipeline.commands import cli
from pipeline.commands.clean import remove, survey
from pipeline.commands.status import status
from pipeline.store import artifacts, leases
from pipeline.store.artifacts import ArtifactDir, StageKey
from pipeline.work.building import find_or_build
from pipeline.work.progress import Progress
from tests.tools import TINY

Call = Callable[..., tuple[int, str, str]]
PLAIN = ("evaluate", "arms=[plain]", "-q")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A storage with one run, up to its evaluation."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "tiny.yaml").write_text(TINY)
    with pytest.raises(SystemExit) as ended:
        cli.main([*PLAIN, "-c", str(folder / "tiny.yaml"), f"storage.uri={folder / 'storage'}"])
    assert ended.value.code in (0, None)
    return folder / "storage"


@pytest.fixture
def root(made: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(made, tmp_path / "storage"))


@pytest.fixture
def store(root: Path) -> Storage:
    return Storage.from_config(StorageConfig(uri=str(root), lease_timeout_s=5))


@pytest.fixture
def call(root: Path, made: Path, capsys: pytest.CaptureFixture[str]) -> Call:
    """The command line over that storage: exit code, stdout, stderr."""
    def run(command: str, *args: str, config: bool = False) -> tuple[int, str, str]:
        file = ["-c", str(made.parent / "tiny.yaml")] if config else []
        with pytest.raises(SystemExit) as ended:
            cli.main([command, *args, f"storage.uri={root}", *file])
        told = capsys.readouterr()
        return int(ended.value.code or 0), told.out, told.err
    return run


def folder_of(root: Path, label: str) -> Path:
    steps = json.loads((root / "runs/tiny/steps.json").read_text())["steps"]
    return root / "artifacts" / label.partition("/")[0] / str(steps[label])


def key_of(folder: Path) -> StageKey:
    values = json.loads((folder / "key.json").read_text())
    return StageKey(values["stage"], values["version"], values["config"], values["inputs"], values["digests"])


def at_work(store: Storage, root: Path) -> leases.Lease:
    """The lock of a process that has planned the run."""
    lock = leases.take(store, "runs/tiny/lock.json", "tiny")
    plan = json.loads((root / "runs/tiny/steps.json").read_text())
    (root / "runs/tiny/steps.json").write_text(json.dumps(plan | {"token": lock.token}))
    return lock


def all_files(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


def contents(folder: Path) -> set[str]:
    """All files, less the guards of leases, which stay."""
    return {name for name in all_files(folder) if not name.endswith(".guard")}


def test_a_finished_run_is_done_by_name_and_by_folder(call: Call, root: Path) -> None:
    code, out, err = call("status", "tiny")
    assert (code, err) == (0, "")
    first, _, _, *steps = out.splitlines()
    assert first == f"tiny: done, 5 steps, no report; {root}/runs/tiny"
    assert [line.split()[:2] for line in steps] == [[label, "done"] for label in (
        "prepare", "train/plain/seed-0", "evaluate/plain/seed-0", "evaluate/baseline/popularity",
        "evaluate/baseline/transitions")]
    assert call("status", f"{root}/runs/tiny/") == (code, out, err)
    found = json.loads(call("status", "tiny", "--json")[1])
    assert (found["state"], found["process"], len(found["steps"])) == ("done", None, 5)
    assert found["steps"][0]["fingerprint"] == folder_of(root, "prepare").name


@pytest.mark.parametrize("named", ["other", "/nowhere/runs/x", "results/demo"])
def test_a_run_that_is_not_there_is_named(call: Call, named: str) -> None:
    code, out, err = call("status", named)
    assert (code, out) == (2, "") and err.startswith("error: run: got '") and err.count("\n") == 1


def test_what_is_left_of_a_killed_run(call: Call, root: Path) -> None:
    train, evaluated = folder_of(root, "train/plain/seed-0"), folder_of(root, "evaluate/plain/seed-0")
    (train / "manifest.json").unlink()
    shutil.rmtree(evaluated)
    (next(folder_of(root, "evaluate/baseline/popularity").glob("attempts/*/ranks.parquet"))).write_bytes(b"")
    out = call("status", "tiny")[1]
    assert out.startswith("tiny: stopped, 2 of 5 steps done; the command that began it goes on\n")
    told = {line.split()[0]: line for line in out.splitlines()[1:]}
    assert told["train/plain/seed-0"].endswith("stopped  goes on where it was")
    assert told["evaluate/plain/seed-0"].split() == ["evaluate/plain/seed-0", "waiting"]
    assert "damaged  artifacts/evaluate/" in told["evaluate/baseline/popularity"]


def test_whoever_is_at_work_says_how_far_it_is(store: Storage, root: Path) -> None:
    folder = folder_of(root, "train/plain/seed-0")
    key = key_of(folder)
    shutil.rmtree(folder)
    lock = at_work(store, root)

    def build(out: ArtifactDir) -> Any:
        with Progress("train", 40, "epochs") as progress:
            progress.update(10, "loss 7.1")
            deadline = time.monotonic() + 30
            while time.monotonic() < deadline:
                found = status(str(root / "runs/tiny"), StorageConfig(uri=str(root)))
                step = next(step for step in found.steps if step.fingerprint == key.fingerprint)
                if "train: " in step.note:
                    return found, step
                time.sleep(0.1)
        raise AssertionError("no news within 30 s")

    found, step = find_or_build(store, key, "train", build, resumable=True, found="there")  # type: ignore[misc]
    lock.release()
    assert (found.state, found.process) == ("at work", lock._record["pid"])
    assert (step.state, step.process) == ("at work", lock._record["pid"])
    assert "train: 25 % (10 of 40 epochs), " in step.note and step.note.endswith("; loss 7.1")
    assert next(iter(found.lines())).startswith("tiny: at work, 4 of 5 steps done; process ")


def test_nothing_goes_that_a_run_needs(call: Call, root: Path) -> None:
    before = all_files(root)
    code, out, err = call("clean", "--yes")
    assert (code, err) == (0, "")
    assert "needed by run tiny (5)" in out and out.endswith(f"nothing to remove in {root}\n")
    assert all_files(root) == before


def test_what_a_change_of_settings_has_left_goes_when_agreed(call: Call, root: Path) -> None:
    old = [folder_of(root, label) for label in ("train/plain/seed-0", "evaluate/plain/seed-0")]
    assert call(*PLAIN, "train.epochs=3", config=True)[0] == 0
    before = all_files(root)
    code, out, _ = call("clean")
    assert code == 0 and "would be freed; --yes removes it" in out
    assert {line.split()[0] for line in out.splitlines()[2:4]} == {str(path.relative_to(root)) for path in old}
    assert all_files(root) == before
    code, out, _ = call("clean", "--yes")
    assert code == 0 and out.splitlines()[-1].endswith(" freed")
    assert not any(map(contents, old))
    code, out, _ = call(*PLAIN, "train.epochs=3", config=True)
    assert code == 0 and out.startswith("nothing to do")


def test_a_run_goes_with_what_only_it_needs(call: Call, root: Path) -> None:
    assert call(*PLAIN, "name=other", "train.epochs=3", config=True)[0] == 0
    prepared, trained = folder_of(root, "prepare"), folder_of(root, "train/plain/seed-0")
    code, out, _ = call("clean", "--run", "tiny", "--yes")
    assert code == 0 and "runs/tiny" in out
    assert contents(prepared) and not contents(trained) and not (root / "runs/tiny").exists()
    assert call("clean", "--run", "other", "--yes")[0] == 0
    assert [path for path in contents(root) if not path.startswith("cache/")] == []
    assert call("clean")[1] == f"kept: no artifact\nnothing to remove in {root}\n"


def test_what_is_being_built_or_searched_or_named_by_another_stays(call: Call, root: Path, store: Storage) -> None:
    """A first training is a search's; a second starts from it by its fingerprint; a third is being built."""
    first = folder_of(root, "train/plain/seed-0")
    assert call(*PLAIN, f"train.init_from={first.name}", "name=later", config=True)[0] == 0
    shutil.rmtree(root / "runs/tiny")
    assert call("clean", "--yes")[0] == 0
    assert contents(first)
    shutil.rmtree(root / "runs/later")
    (root / "tune/wide/trained").mkdir(parents=True)
    (root / "tune/wide/search.json").write_text("{}")
    (root / f"tune/wide/trained/{first.name}.json").write_text("{}")
    held = artifacts.begin(store, StageKey("reduce", 1, {}))
    code, out, _ = call("clean", "--yes")
    assert code == 0 and contents(first) and "search wide (2)" in out and f"process {os.getpid()} on " in out
    assert store.exists(held.folder)
    held.release()
    assert call("clean", "--yes")[0] == 0
    assert not store.exists(held.folder) and contents(first)


def test_files_of_others_and_paid_answers_stay(call: Call, root: Path) -> None:
    for name in ("runs/.DS_Store", "artifacts/.DS_Store", "artifacts/train/.DS_Store", "artifacts/notes/mine.txt",
                 "ledger/ab/parts/0.parquet", "mine.csv"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("x" * 2000)
    (root / "artifacts/train/0123456789abcdef/attempts/0000000000001-abcdef").mkdir(parents=True)
    before = contents(root)
    code, out, err = call("clean", "--yes")
    assert (code, err) == (0, "") and "unfinished, and no run needs it" in out and "2.0 kB of language models'" in out
    assert contents(root) == before
    assert list((root / "artifacts/train/0123456789abcdef").rglob("*/*")) == []
    assert "nothing to remove" in call("clean")[1]


def test_what_a_smaller_command_did_not_plan_stays(call: Call, root: Path) -> None:
    """A killed training's checkpoints; a later `prepare` of the same run plans less."""
    train = folder_of(root, "train/plain/seed-0")
    (train / "manifest.json").unlink()
    (root / "runs/tiny/references.json").write_text("{}")
    assert call("prepare", "-q", config=True)[0] == 0
    assert call("clean", "--yes")[0] == 0
    assert list(train.glob("attempts/*/model/model.safetensors")) != []


def test_what_a_killed_process_left_for_itself_goes_and_its_attempt_stays(call: Call, root: Path, store: Storage
                                                                          ) -> None:
    prepared = folder_of(root, "prepare")
    (prepared / "manifest.json").unlink()
    (attempt,) = (prepared / "attempts").iterdir()
    before = contents(root)
    for name in ("scratch/a.arrow", "scratch-x1/b.arrow"):
        (attempt / name).parent.mkdir()
        (attempt / name).write_bytes(b"x" * 1000)
    at_work_on_it = leases.take(store, str(prepared.relative_to(root) / artifacts.LEASE), "prepare")
    assert "nothing to remove" in call("clean")[1]
    at_work_on_it.release()
    code, out, _ = call("clean")
    assert code == 0 and out.endswith("2.0 kB would be freed; --yes removes it\n")
    assert out.count("left by a killed process") == 2 and f"{attempt.relative_to(root)}/scratch " in out
    code, out, _ = call("clean", "--yes")
    assert code == 0 and out.endswith("2.0 kB freed\n") and contents(root) == before
    assert not list(attempt.glob("scratch*"))


def test_what_a_step_that_is_not_begun_will_read_stays(call: Call, root: Path) -> None:
    """`train.init_from` stands in no key on disk before the training begins."""
    first = folder_of(root, "train/plain/seed-0")
    assert call(*PLAIN, f"train.init_from={first.name}", "name=later", config=True)[0] == 0
    later = json.loads((root / "runs/later/steps.json").read_text())["steps"]
    for label in ("train/plain/seed-0", "evaluate/plain/seed-0"):
        shutil.rmtree(root / "artifacts" / label.partition("/")[0] / later[label])
    (root / "runs/later/references.json").write_text("{}")
    assert call("clean", "--run", "tiny", "--yes")[0] == 0
    assert contents(first) and not (root / "runs/tiny").exists()


def test_what_another_has_begun_to_need_meanwhile_stays(store: Storage, root: Path) -> None:
    first = folder_of(root, "train/plain/seed-0")
    shutil.move(root / "runs/tiny", root / "aside")
    found = survey(store)
    assert str(first.relative_to(root)) in [path for path, _, _ in found.goes]
    shutil.move(root / "aside", root / "runs/tiny")  # a run that began after the survey, and reuses it
    remove(found)
    assert contents(first) and found.goes == []


def test_a_run_at_work_or_being_planned_is_not_touched(call: Call, store: Storage, root: Path) -> None:
    before = contents(root)
    lock = leases.take(store, "runs/tiny/lock.json", "tiny")
    for command in (("clean", "--yes"), ("status", "tiny")):
        code, _, err = call(*command)
        assert code == 2 and "is just planning it; try again in a moment" in err
    lock.release()
    lock = at_work(store, root)
    code, _, err = call("clean", "--run", "tiny")
    assert code == 2 and "is at work on it; stop it first" in err
    lock.release()
    code, _, err = call("clean", "--run", "typo")
    assert code == 2 and "legal: one of those in" in err and "tiny" in err
    assert contents(root) == before


def test_a_run_that_is_planned_for_the_first_time_is_waited_for(call: Call, store: Storage, root: Path) -> None:
    """It may have found an artifact already, that no other run needs."""
    shutil.rmtree(root / "runs/tiny")
    lock = leases.take(store, "runs/new/lock.json", "new")
    before = contents(root)
    code, _, err = call("clean", "--yes")
    assert code == 2 and err.startswith("error: run new: process ") and "is just planning it" in err
    assert contents(root) == before
    lock.release()
    assert call("clean", "--yes")[0] == 0


def test_a_search_whose_first_trial_has_not_begun_needs_nothing_yet(call: Call, store: Storage, root: Path) -> None:
    lock = leases.take(store, "tune/wide/lock.json", "wide")
    (root / "tune/wide/search.json").write_text("{}")
    assert call("clean", "--yes")[0] == 0
    (root / "tune/wide/ray").mkdir()
    code, _, err = call("clean", "--yes")
    assert code == 2 and "is about to begin its first trial; try again when it has" in err
    (root / "tune/wide/trained").mkdir()
    assert call("clean", "--yes")[0] == 0
    lock.release()


def test_what_an_older_version_has_begun_is_not_guessed(call: Call, root: Path) -> None:
    (root / "runs/tiny/steps.json").unlink()
    for command in (("clean", "--yes"), ("status", "tiny")):
        code, _, err = call(*command)
        assert code == 2 and "there is no steps.json in " in err and "the command that began it writes one" in err
    assert call(*PLAIN, config=True)[0] == 0
    (root / "tune/old/ray").mkdir(parents=True)
    (root / "tune/old/search.json").write_text("{}")
    code, _, err = call("clean", "--yes")
    assert code == 2 and err.startswith("error: search old: there is no trained/ in ")
