"""Whole runs whose storage is an object store: the same figures, nothing half there, no secret told."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from cluster.config import StorageConfig
from cluster.storage import Storage
from pipeline.store.artifacts import open_artifact
from tests.s3_server import BUCKET, CREDENTIALS, refusing_server
from tests.tools import ON_RAY, ROOT, TINY, command

FITTED = ("reduce.fit_rows=90",)
"""Of ON_RAY what changes figures."""
PLAIN = ("arms=[plain]", "train.distill_epochs=0", "evaluate.baselines=[]")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In the environment alone, as on a cluster's nodes."""
    for name, value in (CREDENTIALS | {"TMPDIR": str(tmp_path / "tmp"), "RAY_TMPDIR": "/tmp"}).items():
        monkeypatch.setenv(name, value)
    (tmp_path / "tmp").mkdir()


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The figures of a run of all arms and of one of the plain arm, in a local folder."""
    folder = tmp_path_factory.mktemp("local")
    here = Storage.from_config(StorageConfig(uri=str(folder)))
    for name, own in (("all", FITTED), ("plain", PLAIN)):
        ended(begun(folder, "run", *own, f"name={name}", f"storage.uri={folder}"))
    return {name: results(here, name) for name in ("all", "plain")}


def opened(endpoint: str, prefix: str) -> Storage:
    return Storage.from_config(StorageConfig(uri=f"s3://{BUCKET}/{prefix}", endpoint=endpoint, region="us-east-1"))


def settings(endpoint: str, prefix: str) -> str:
    return f"storage={{uri: 's3://{BUCKET}/{prefix}', endpoint: '{endpoint}', region: us-east-1}}"


def begun(folder: Path, *args: str, by: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    (folder / "tiny.yaml").write_text(TINY)
    verb, *overrides = args
    words = [verb, "-c", str(folder / "tiny.yaml"), *overrides]
    return subprocess.Popen([sys.executable, "-m", *by, *words] if by else command(*words), cwd=ROOT, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                            env={name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"})


def ended(process: subprocess.Popen[str]) -> str:
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0, out + err
    return out + err


def results(storage: Storage, name: str = "tiny") -> dict[str, Any]:
    """The figures of a run."""
    metrics = storage.read_json(f"runs/{name}/metrics.json")
    return {part: metrics[part] for part in ("arms", "baselines")}


def manifests(storage: Storage) -> dict[str, str]:
    """Address of every finished artifact → the attempt that it is."""
    return {file.removesuffix("/manifest.json"): storage.read_json(file)["attempt"]
            for file in storage.files("artifacts") if file.endswith("/manifest.json")}


def test_the_whole_way_on_ray_ends_with_the_figures_of_a_local_folder_and_tells_no_secret(
        s3_endpoint: str, tmp_path: Path, expected: dict[str, Any]) -> None:
    remote = opened(s3_endpoint, tmp_path.name)
    assert not remote.is_local
    said = ended(begun(tmp_path, "run", *ON_RAY, settings(s3_endpoint, tmp_path.name)))
    assert results(remote) == expected["all"]
    assert not [file for file in remote.files("") if file.endswith("/epoch.json") or "/work/" in file]

    secret = CREDENTIALS["AWS_SECRET_ACCESS_KEY"].encode()
    assert secret.decode() not in said
    assert not [file for file in remote.files("") if secret in remote.read_bytes(file)]


def test_a_store_that_refuses_every_fifth_request_changes_no_figure(tmp_path: Path, expected: dict[str, Any]) -> None:
    """Without Ray; what travels to its workers is asked again by the same means (tests/unit/test_storage.py)."""
    met, refused, one_at_a_time = Counter[str](), Counter[str](), threading.Lock()
    dice = {method: random.Random(f"{method} 1") for method in ("PUT", "HEAD", "GET", "POST", "DELETE")}

    def busy(method: str, path: str) -> bool:
        if path.rstrip("/") == f"/{BUCKET}" and method == "PUT":  # the bucket is made by the server itself
            return False
        with one_at_a_time:
            refuses = dice[method].random() < 0.2
            met[method] += 1
            refused[method] += refuses
        return refuses

    with refusing_server(busy) as endpoint:
        ended(begun(tmp_path, "run", *FITTED, settings(endpoint, "x")))
        seen = refused.copy()
        remote = opened(endpoint, "x")
        assert results(remote) == expected["all"]
        kept = manifests(remote)
        assert all(remote.names(f"{address}/attempts") == [kept[address]] for address in kept), "nothing twice"
    assert min(seen[method] for method in dice) > 0, "requests of every kind were refused"
    assert seen.total() > 0.15 * met.total()


@pytest.mark.parametrize("moment", ["upload", "manifest"])
@pytest.mark.parametrize("stage", ["prepare", "train"])
def test_a_driver_killed_while_it_publishes_leaves_nothing_to_read_and_the_same_command_goes_on(
        s3_endpoint: str, tmp_path: Path, expected: dict[str, Any], stage: str, moment: str) -> None:
    remote, there = opened(s3_endpoint, tmp_path.name), settings(s3_endpoint, tmp_path.name)
    killed = begun(tmp_path, "run", *PLAIN, there, by=("tests.killed_publishing", stage, moment))
    out, err = killed.communicate(timeout=600)
    assert killed.returncode == -signal.SIGKILL, out + err

    begun_at = {name: remote.files(f"artifacts/{stage}/{name}") for name in remote.names(f"artifacts/{stage}")}
    (fingerprint, files), = begun_at.items()
    assert open_artifact(remote, stage, fingerprint) is None
    published = {file.split("/attempts/")[1].partition("/")[2] for file in files if "/attempts/" in file}

    ended(begun(tmp_path, "run", *PLAIN, there))
    found = open_artifact(remote, stage, fingerprint)
    assert found is not None
    files = {name for name in found.manifest.files if not name.startswith("tensorboard/")}  # named anew each time
    assert files & published and bool(files - published) == (moment == "upload"), "it was half there"
    assert results(remote) == expected["plain"]


def test_two_drivers_at_once_build_each_artifact_once_and_one_of_the_same_run_is_refused(
        s3_endpoint: str, tmp_path: Path) -> None:
    remote, there = opened(s3_endpoint, tmp_path.name), settings(s3_endpoint, tmp_path.name)
    one, other = (begun(tmp_path, "run", there, f"name={name}") for name in ("one", "other"))
    said = ended(one) + ended(other)
    assert results(remote, "one") == results(remote, "other")
    for address, attempt in manifests(remote).items():
        kept = {file.split("/attempts/")[1].split("/")[0] for file in remote.files(address) if "/attempts/" in file}
        assert kept == {attempt}, f"{address} was built once:\n{said}"

    pair = [begun(tmp_path, "run", there, "name=same", "seeds=[7]") for _ in range(2)]
    codes = []
    for process in pair:
        out, err = process.communicate(timeout=600)
        codes.append(process.returncode)
        if process.returncode:
            assert "another process" in err or "is at work" in err, out + err
    assert sorted(codes) == [0, 2]
    assert results(remote, "same")["arms"].keys() == {"plain", "distilled"}
