"""A cluster of a head without work and three nodes, in a process of its own that is told by lines what to do.

Prints the address, and then one line of JSON for each line that it reads:

- ``actors``: how many living actors each of the three has
- ``at-work TASK``: in how many processes of each of the three such a task runs
- ``lose``: kills the busiest node; how many of its CPUs were taken, 0: none was killed
- ``lose TASK``: of the node with most such tasks; in how many processes they ran
- ``add``: starts another in the place of the one that was lost
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import sys
import tempfile
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
import ray
import ray._private.state
from ray.cluster_utils import Cluster

from tests.tools import free_port

NODES, CPUS, MOST_LATE = 3, 2, 5
AGENTS = ("metrics_agent_port", "metrics_export_port", "dashboard_agent_listen_port", "runtime_env_agent_port")


def main() -> None:
    """Serve the lines of stdin until it ends."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # Ray prints there that a node has died
    folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))  # Ray's sockets need a short path
    numbers, late = itertools.count(), itertools.count(1)

    def new_node() -> Any:
        """With a disk of its own: what a dead node leaves to be tidied up is not the code that the others run.

        Ray gives it half a minute to come, and of those its agents 15 seconds to say at which ports they are unless
        these are given. A busy machine may exceed both: what came too late dies, and another is tried.
        """
        own, there = folder / str(next(numbers)), raylets()
        own.mkdir()
        try:
            return cluster.add_node(num_cpus=CPUS, temp_dir=str(own), **{name: free_port() for name in AGENTS})
        except Exception:
            traceback.print_exc()
            for process in raylets() - there:
                process.kill()
            if next(late) == MOST_LATE:
                raise
            return new_node()

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False,
                                                            "temp_dir": str(folder)})
    nodes = [new_node() for _ in range(NODES)]
    ray.init(address=cluster.address, logging_level="error")
    cluster.wait_for_nodes()
    print(cluster.address, file=answers)
    lost = 0
    for line in sys.stdin:
        if line.strip() == "actors":
            living = [actor for actor in ray._private.state.actors().values() if actor["State"] == "ALIVE"]
            places = Counter(actor["Address"]["NodeID"] for actor in living)
            answer: Any = [places[node.node_id] for node in nodes]
        elif line.strip() == "add":
            nodes[lost] = new_node()
            answer = len(nodes)
        elif line.startswith("at-work "):
            answer = [running(node, line.split()[1]) for node in nodes]
        else:
            _, *task = line.split()
            used = [running(node, task[0]) for node in nodes] if task else taken(nodes)
            answer = max(used)
            if answer:
                lost = used.index(answer)
                cluster.remove_node(nodes[lost], allow_graceful=False)
        print(json.dumps(answer), file=answers)
    ray.shutdown()
    cluster.shutdown()
    shutil.rmtree(folder, ignore_errors=True)


def raylets() -> set[psutil.Process]:
    """Of the nodes that this process has started and that live."""
    return {process for process in psutil.Process().children() if process.name() == "raylet"}


def taken(nodes: list[Any]) -> list[float]:
    """CPUs of each node that are given to work, as Ray has it."""
    free = ray._private.state.available_resources_per_node()
    return [CPUS - free[node.node_id].get("CPU", 0.0) if node.node_id in free else 0.0 for node in nodes]


def running(node: Any, task: str) -> int:
    """Processes of a node that run such a task at this moment, as the system has it: Ray names them so."""
    count = 0
    for process in psutil.Process(node.all_processes["raylet"][0].process.pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):  # it may have ended
            count += process.cmdline()[:1] == [f"ray::{task}"]
    return count


if __name__ == "__main__":
    main()
