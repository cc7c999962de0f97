"""Joining and starting Ray: only what was started is ended. Each case is a process of its own."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cluster.connect import require_dashboard
from configs.errors import ResourceError

ROOT = Path(__file__).resolve().parents[2]

LOCAL = """
import json, os
import ray
from cluster.config import ClusterConfig
from cluster.connect import connect

@ray.remote
def there():
    import pipeline.store.columns
    return os.nice(0), pipeline.store.columns.__file__

with connect(ClusterConfig(num_cpus=2, object_store_gb=0.2)):
    cpus = ray.cluster_resources()["CPU"]
    store = ray.cluster_resources()["object_store_memory"]
    nice, module = ray.get(there.remote())
    with connect(ClusterConfig(num_cpus=7)):
        same = ray.cluster_resources()["CPU"]
    still = ray.is_initialized()
print(json.dumps({"cpus": cpus, "store": store, "nice": nice, "module": module, "same": same, "still": still,
                  "after": ray.is_initialized()}))
"""


def test_a_local_ray_is_started_shared_and_ended(tmp_path: Path) -> None:
    """Started from another folder, with the packages only on the driver's own path.

    That folder has packages of our names, and the temporary folder's path is too long for sockets.
    """
    for name in ("pipeline", "models"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise ImportError('not ours')")
    temporary = tmp_path / "a-rather-long-name-of-a-scratch-folder" / "job-1234567"
    temporary.mkdir(parents=True)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")} | {"TMPDIR": str(temporary)}
    environment.pop("PYTHONPATH", None)
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{LOCAL}"
    process = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True,
                             text=True, timeout=240, check=False)
    assert process.returncode == 0, process.stderr
    said: dict[str, Any] = json.loads(process.stdout.splitlines()[-1])
    assert (said["cpus"], said["same"], said["still"], said["after"]) == (2, 2, True, False)
    assert said["store"] == pytest.approx(0.2 * 2**30, rel=0.01)
    assert said["nice"] == os.nice(0)
    assert said["module"] == str(ROOT / "pipeline" / "store" / "columns.py")


SILENT = """
from cluster.config import ClusterConfig
from cluster.connect import connect
from configs.errors import ResourceError

try:
    with connect(ClusterConfig()):
        print("connected to nothing")
except ResourceError as exc:
    print(exc)
"""


def test_a_silent_address_is_one_clear_error() -> None:
    process = subprocess.run([sys.executable, "-c", SILENT], cwd=ROOT, env=os.environ | {"RAY_ADDRESS": "127.0.0.1:9"},
                             capture_output=True, text=True, timeout=240, check=False)
    assert process.returncode == 0, process.stderr
    assert re.search(r"RAY_ADDRESS=127\.0\.0\.1:9: .*ray start --head", process.stdout.splitlines()[-1])


def test_a_node_that_is_too_slow_to_start_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray raises a bare Exception then."""
    import ray

    from cluster.config import ClusterConfig
    from cluster.connect import connect

    tries: list[str] = []

    def too_slow(**_: Any) -> None:
        tries.append("init")
        raise Exception("The current node timed out during startup.")

    for name in ("RAY_BACKEND_LOG_LEVEL", "RAY_IGNORE_UNHANDLED_ERRORS", "RAY_worker_niceness"):
        monkeypatch.setenv(name, "")  # so that it is afterwards as it was, though `connect` sets it
        monkeypatch.delenv(name)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", too_slow)
    monkeypatch.setattr(ray, "shutdown", lambda: tries.append("shutdown"))  # this process may have a Ray
    with pytest.raises(ResourceError, match="did not start: .*timed out.*less busy"), connect(ClusterConfig()):
        raise AssertionError("connected to nothing")
    assert tries == ["init", "shutdown"] * 3


def test_workers_of_trials_need_the_dashboard(ray_cluster: None) -> None:
    """The fixture's Ray has none; that a search starts one with it, its own test shows."""
    with pytest.raises(ResourceError, match=r"execution.workers_per_trial: Ray's dashboard does not answer on the "
                                            r"head \(.*\), and .*; start the head with `ray start "
                                            r"--head --include-dashboard=true`"):
        require_dashboard("execution.workers_per_trial")
