"""Shared fixtures: one Ray cluster per test session, the real data folder, fresh storage."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.storage import Storage

# Ray reads this once per process and keeps it: a test that fails to join a cluster must not decide for the next one.
os.environ.setdefault("RAY_AUTH_MODE", "disabled")
# Several processes share a test machine's few cores: threads that spin while they wait take them from the others.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real data sets; tests that need it are skipped where it is absent."""
    folder = os.environ.get("MENTOREC_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("MENTOREC_DATA does not name a folder with the real data sets")
    return Path(folder)


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """A real Ray of two CPUs on this machine."""
    import ray

    from cluster.connect import start

    os.environ.setdefault("RAY_worker_niceness", "0")
    start({"address": "local", "num_cpus": 2, "include_dashboard": False, "log_to_driver": False})
    yield
    ray.shutdown()


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    """An empty local storage root."""
    from cluster.config import StorageConfig

    return Storage.from_config(StorageConfig(uri=str(tmp_path / "storage")))
