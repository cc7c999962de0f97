"""Shared fixtures: one Ray cluster per test session, the real data folder, fresh storage."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cluster.storage import Storage

if TYPE_CHECKING:
    from tests.tools import Started

# Ray reads this once per process and keeps it: a test that fails to join a cluster must not decide for the next one.
os.environ.setdefault("RAY_AUTH_MODE", "disabled")
# Several processes share a test machine's few cores: threads that spin while they wait take them from the others.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files marked `slow` begin first, so that with several processes no core is idle at the end."""
    items.sort(key=lambda item: not item.get_closest_marker("slow"))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """A machine that is much slower than most must not be cut off in the middle of a test: the rest is skipped then."""
    deadline = os.environ.get("MENTOREC_TEST_DEADLINE")
    if deadline and time.time() > float(deadline):
        pytest.skip("the time for this run is spent (MENTOREC_TEST_DEADLINE); `make test` alone has no such limit")


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
    with pytest.MonkeyPatch.context() as patch:  # not for commands that tests start: they would say that it is set
        if "RAY_BACKEND_LOG_LEVEL" not in os.environ:
            patch.setenv("RAY_BACKEND_LOG_LEVEL", "fatal")  # as `connect` has it: the core's notices are not ours
        start({"address": "local", "num_cpus": 2, "include_dashboard": False, "log_to_driver": False})
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """A server with one bucket, see tests/s3_server.py."""
    from tests.s3_server import installed, s3_server

    if not installed():
        pytest.skip("moto is not installed: pip install 'mentorec[dev]'")
    with s3_server() as endpoint:
        yield endpoint


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    """An empty local storage root."""
    from cluster.config import StorageConfig

    return Storage.from_config(StorageConfig(uri=str(tmp_path / "storage")))


@pytest.fixture
def started() -> Iterator[Started]:
    """Takes the processes that a test starts; those that still run when it is over, for it failed, are killed."""
    from tests.tools import killed_at_end

    with killed_at_end() as take:
        yield take
