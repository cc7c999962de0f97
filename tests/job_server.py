"""A Ray cluster of this machine that takes jobs."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any


@contextlib.contextmanager
def job_server() -> Iterator[tuple[str, dict[str, str]]]:
    """A head of two CPUs.

    Yields:
        The job server's address, and the environment for clients.
    """
    with ray_head("--num-cpus", "2") as (_, address, environment):
        yield address, environment


@contextlib.contextmanager
def ray_head(*args: str) -> Iterator[tuple[str, str, dict[str, str]]]:
    """`ray start --head --block ARGS` with a folder of its own, ended by its own handle.

    Yields:
        Its own address, the job server's, and the environment for clients: no Ray settings of ours, the running
        interpreter's commands first, a home of its own for tokens.
    """
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # Ray's sockets need a short path
    home = Path(folder) / "home"  # tokens are kept there
    home.mkdir()
    environment = environment_for(home)
    ports = []
    for _ in range(3):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            ports.append(str(free.getsockname()[1]))
    head = subprocess.Popen(
        ["ray", "start", "--head", "--block", "--port", ports[0], "--dashboard-port", ports[1],
         "--dashboard-agent-listen-port", ports[2], "--temp-dir", folder, "--disable-usage-stats",
         "--include-dashboard", "true", *args], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{ports[1]}"
    try:
        wait_for(lambda: urllib.request.urlopen(f"{address}/api/version", timeout=5), head, f"job server at {address}")
        yield f"127.0.0.1:{ports[0]}", address, environment
    finally:
        head.terminate()
        head.wait(timeout=90)
        shutil.rmtree(folder, ignore_errors=True)


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
