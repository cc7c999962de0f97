"""A Ray cluster of this machine that takes jobs."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID as _HEAD_NODE
from ray.autoscaler._private.monitor import BASE_READONLY_CONFIG

from tests.tools import free_port

_PROVIDER = "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider"
"""Ray's own for tests, which starts nodes on this machine."""


@contextlib.contextmanager
def job_server() -> Iterator[tuple[str, dict[str, str]]]:
    """A head of two CPUs.

    Yields:
        The job server's address, and the environment for clients.
    """
    with ray_head("--num-cpus", "2") as (_, address, environment):
        yield address, environment


@contextlib.contextmanager
def ray_head(*args: str, autoscaler: int | None = None) -> Iterator[tuple[str, str, dict[str, str]]]:
    """`ray start --head --block ARGS` with a folder of its own, ended by its own handle.

    Args:
        autoscaler: its version, 1 or 2: Ray's own for tests, which starts up to two nodes of two CPUs and one `large`.

    Yields:
        Its own address, the job server's, and the environment for clients: no Ray settings of ours, the running
        interpreter's commands first, a home of its own for tokens.
    """
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # Ray's sockets need a short path
    home = Path(folder) / "home"  # tokens are kept there
    home.mkdir()
    environment = environment_for(home)
    ports = [str(free_port()) for _ in range(3)]
    if autoscaler is not None:
        grown = Path(folder) / "autoscaler.json"
        grown.write_text(json.dumps(_growing(f"127.0.0.1:{ports[0]}")))
        args = (*args, "--autoscaling-config", str(grown), "--node-ip-address", "127.0.0.1")
        environment |= {"RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1"}
    if autoscaler == 2:
        environment |= {"RAY_enable_autoscaler_v2": "1", "RAY_CLOUD_INSTANCE_ID": _HEAD_NODE,
                        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": _HEAD_NODE, "RAY_NODE_TYPE_NAME": "ray.head.default"}
    head = subprocess.Popen(
        ["ray", "start", "--head", "--block", "--port", ports[0], "--dashboard-port", ports[1],
         "--dashboard-agent-listen-port", ports[2], "--temp-dir", folder, "--disable-usage-stats",
         "--include-dashboard", "true", *args], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{ports[1]}"
    try:
        wait_for(lambda: urllib.request.urlopen(f"{address}/api/version", timeout=5), head, f"job server at {address}")
        yield f"127.0.0.1:{ports[0]}", address, environment
    finally:
        if autoscaler is None:
            head.terminate()
        else:
            _end(head)
        head.wait(timeout=90)
        shutil.rmtree(folder, ignore_errors=True)


def _end(head: subprocess.Popen[bytes]) -> None:
    """A head that grew, with the nodes that its autoscaler started, which nobody else ends and whose end it awaits."""
    below = psutil.Process(head.pid).children(recursive=True)
    head.kill()
    for process in below:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def _growing(address: str) -> dict[str, Any]:
    worker = {"resources": {"CPU": 2, "large": 1}, "node_config": {}, "min_workers": 0, "max_workers": 2}
    return BASE_READONLY_CONFIG | {
        "max_workers": 2, "idle_timeout_minutes": 5, "head_node_type": "ray.head.default",
        "provider": {"type": "external", "module": _PROVIDER, "gcs_address": address, "head_node_id": _HEAD_NODE,
                     "launch_multiple": True, "use_node_id_as_ip": True, "disable_node_updaters": True,
                     "disable_launch_config_check": True},
        "available_node_types": {
            "ray.head.default": {"resources": {"CPU": 2}, "node_config": {}, "max_workers": 0}, "worker": worker}}


def wait_for(answer: Callable[[], Any], head: subprocess.Popen[bytes], what: str) -> None:
    """Until ``answer`` gives something that can be closed, and raises no OSError any more."""
    deadline = time.monotonic() + 180
    while True:
        try:
            answer().close()
            return
        except OSError as exc:  # a URLError and a TimeoutError too
            if head.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"no {what}") from exc
            time.sleep(0.5)


def environment_for(home: Path) -> dict[str, str]:
    """No Ray settings of ours, the running interpreter's commands first, a home of its own for tokens."""
    return {name: value for name, value in os.environ.items() if not name.startswith("RAY_")} | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "HOME": str(home), "RAY_worker_niceness": "0"}
