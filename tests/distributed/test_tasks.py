"""Calls as Ray tasks: results in their order, the first error in that order, and what a worker that dies costs."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from cluster.config import Placement
from configs.errors import DataError, ResourceError
from pipeline.work.tasks import RayTasks, ThisProcess

pytestmark = pytest.mark.usefixtures("ray_cluster")
LONG_S = 500
"""How long a call goes on that nobody ends."""


def tasks(number: int = 2, num_cpus: float = 1.0, **placement: object) -> RayTasks:
    return RayTasks("prepare", number, num_cpus, Placement.model_validate(placement), "lower something")


def later_first(call: int, shared: list[int], folder: Path) -> int:
    """The first ends last; the third dies once with its process, the fourth refuses."""
    time.sleep(0.5 if call == 0 else 0.0)
    if call == 2 and not (folder / "died").exists():
        (folder / "died").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if call == 3:
        raise DataError(f"call {call}: refused")
    if call == 4:
        raise DataError("a later error")
    if call > 4:
        time.sleep(LONG_S)
        (folder / "late").touch()
    return call * shared[0]


def variable(name: str) -> str | None:
    return os.environ.get(name)


def test_results_come_in_order_and_the_first_error_ends_the_others(tmp_path: Path) -> None:
    workers, found = tasks(), []
    shared = workers.share([10])
    started = time.monotonic()
    with pytest.raises(DataError, match="^call 3: refused$"):
        for value in workers.run(later_first, ((call, shared, tmp_path) for call in range(9))):
            found.append(value)
    assert found == [0, 10, 20] and (tmp_path / "died").exists()
    assert list(tasks().run(variable, [("OURS",)] * 2)) == [None, None], "both CPUs are free again"
    assert time.monotonic() - started < LONG_S and not (tmp_path / "late").exists()


def test_this_process_does_the_same(tmp_path: Path) -> None:
    workers = ThisProcess()
    (tmp_path / "died").touch()
    assert list(workers.run(later_first, ((call, workers.share([10]), tmp_path) for call in range(3)))) == [0, 10, 20]
    assert list(tasks().run(later_first, [])) == []


def test_a_task_has_variables_of_its_own_and_few_threads() -> None:
    names = [("POLARS_MAX_THREADS",), ("OURS",)]
    assert list(tasks(runtime_env={"env_vars": {"OURS": "yes"}}).run(variable, names)) == ["1", "yes"]
    assert list(tasks(runtime_env={"env_vars": {"POLARS_MAX_THREADS": "7"}}).run(variable, names[:1])) == ["7"]


def test_what_no_node_has_is_told() -> None:
    tasks().require_nodes()
    with pytest.raises(ResourceError, match=r"prepare: no node has 64 CPU; lower prepare.execution.num_cpus"):
        tasks(num_cpus=64).require_nodes()
    with pytest.raises(ResourceError, match="1 gold are asked for, the cluster has 0; correct prepare.execution.reso"):
        tasks(resources={"gold": 1}).require_nodes()
