"""Several nodes: each is asked what it has, and one that does not share the storage stops a run before its work."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.job_server import environment_for, wait_for
from tests.small_disk import _UNSHARE, can_mount
from tests.tools import ON_RAY, ROOT, TINY, command, free_port

pytestmark = [pytest.mark.slow, pytest.mark.skipif(
    not can_mount(), reason="this user may not mount a tmpfs in a namespace of its own")]


@dataclass(frozen=True)
class TwoNodes:
    """A head, and a node that sees another, empty disk at `hidden`."""

    environment: dict[str, str]
    hidden: Path

    def call(self, *args: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command(*args), cwd=ROOT, env=self.environment, capture_output=True, text=True,
                              timeout=300, check=False)


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TwoNodes]:
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # Ray's sockets need a short path
    home, hidden = Path(folder) / "home", tmp_path_factory.mktemp("hidden")
    home.mkdir()
    port = free_port()
    environment = environment_for(home)
    start = ["ray", "start", "--block", "--num-cpus", "2", "--disable-usage-stats"]
    quiet = {"env": environment, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    of_head = ["--head", "--port", str(port), "--temp-dir", folder, "--include-dashboard", "false"]
    head = subprocess.Popen([*start, *of_head], **quiet)  # type: ignore[call-overload]
    mounted = f"mount -t tmpfs tmpfs {hidden} && exec {' '.join(start)} --address 127.0.0.1:{port}"
    other = None
    try:
        wait_for(lambda: socket.create_connection(("127.0.0.1", port), timeout=5), head, f"Ray at port {port}")
        other = subprocess.Popen([*_UNSHARE, "sh", "-c", mounted], **quiet)  # type: ignore[call-overload]
        two = TwoNodes(environment | {"RAY_ADDRESS": f"127.0.0.1:{port}"}, hidden)
        wait_for_nodes(two, 2)
        yield two
    finally:
        started = [process for process in (other, head) if process is not None]
        for process in started:
            process.terminate()
        for process in started:
            process.wait(timeout=120)
        shutil.rmtree(folder, ignore_errors=True)


def wait_for_nodes(two: TwoNodes, count: int) -> None:
    asked = ("import ray, time; from cluster.addresses import use_own_token; use_own_token('127.0.0.1'); "
             "ray.init(address='auto', logging_level='error')\n"
             f"while sum(node['Alive'] for node in ray.nodes()) < {count}: time.sleep(0.2)")
    subprocess.run([sys.executable, "-c", asked], cwd=ROOT, env=two.environment, capture_output=True, timeout=180,
                   check=True)


def test_the_doctor_asks_every_node(nodes: TwoNodes, tmp_path: Path) -> None:
    done = nodes.call("doctor", "--cluster", "--json", f"storage.uri={tmp_path}")
    found = [check for check in json.loads(done.stdout) if check["name"].startswith("node ")]
    assert [check["status"] for check in found] == ["ok", "ok"], found
    assert all(f"{socket.gethostname()}: 2 CPUs, 0 GPUs, " in check["detail"] for check in found)
    assert list(tmp_path.iterdir()) == []


def test_the_doctor_names_a_node_that_has_another_disk(nodes: TwoNodes) -> None:
    done = nodes.call("doctor", "--cluster", "--json", f"storage.uri={nodes.hidden / 'results'}")
    found = [check for check in json.loads(done.stdout) if check["name"].startswith("node ")]
    assert done.returncode == 1
    assert sorted(check["status"] for check in found) == ["fail", "ok"]
    (bad,) = [check for check in found if check["status"] == "fail"]
    assert "storage: it does not see a file that was just written there" in bad["detail"]
    assert not (nodes.hidden / "results").exists()


def test_a_run_is_refused_before_its_work_where_a_node_has_another_disk(nodes: TwoNodes, tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(TINY)
    done = nodes.call("profile", "-c", str(tmp_path / "tiny.yaml"), *ON_RAY, f"storage.uri={nodes.hidden}")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: storage.uri: node ")
    assert f"does not share {nodes.hidden}" in done.stderr and "Traceback" not in done.stderr
    assert not (nodes.hidden / "artifacts" / "profile").exists()


def test_a_model_folder_that_a_node_lacks_is_named(nodes: TwoNodes, tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(TINY)
    (nodes.hidden / "model").mkdir()
    done = nodes.call("encode", "-c", str(tmp_path / "tiny.yaml"), *ON_RAY, f"storage.uri={tmp_path / 'storage'}",
                      f"encode.model={nodes.hidden / 'model'}")
    assert done.returncode == 2
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: node ") and f"does not have {nodes.hidden / 'model'}" in last
    assert not list((tmp_path / "storage").glob("artifacts/encode/*/attempts/*/work/rows/*"))


def test_two_nodes_that_share_the_disk_do_the_work(nodes: TwoNodes, tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(TINY)
    every_cpu = "profile.execution={actors: 4, num_cpus: 1, block_rows: 40}"
    done = nodes.call("profile", "-c", str(tmp_path / "tiny.yaml"), *ON_RAY, every_cpu,
                      f"storage.uri={tmp_path / 'storage'}")
    assert done.returncode == 0, done.stderr
    assert [path.name for path in (tmp_path / "storage").iterdir() if path.name.startswith(".nodes")] == []
