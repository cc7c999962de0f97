"""Whether the cluster grows, and whether it is about to. Ray has no public call that says so; `ray status` does."""

from __future__ import annotations

import json
import re
import time
from typing import Any

_SPEAKS_WITHIN_S = 15.0
"""A head that is just up has not been told of its autoscaler yet: KubeRay starts that beside it, and later."""
_BY_HAND = re.compile(r"^node_[0-9a-f]{40,}$")
"""How Ray names the types of nodes that no autoscaler knows: each after itself."""


def nodes_on_their_way() -> int | None:
    """Nodes that the autoscaler has asked for and that have not joined; None: there is no autoscaler. Ray must be
    running."""
    import ray

    if getattr(ray._private.worker.global_worker.node, "head", False):  # this process started it, without one
        return None
    deadline = time.monotonic() + _SPEAKS_WITHIN_S
    while (told := _told()) is None and time.monotonic() < deadline:
        time.sleep(1.0)
    if told is None or all(_BY_HAND.match(name) for name in told[0]):
        return None
    return told[1]


def _told() -> tuple[set[str], int] | None:
    """Types of the nodes that are there, and how many are pending; None where nothing has looked at the nodes yet."""
    import ray
    from ray.autoscaler.v2.utils import is_autoscaler_v2

    if is_autoscaler_v2(fetch_from_server=True):
        from ray.autoscaler.v2.sdk import get_cluster_status

        status = get_cluster_status(ray.get_runtime_context().gcs_address)
        there = {node.ray_node_type_name for node in (*status.active_nodes, *status.idle_nodes)}
        pending = len(status.pending_nodes) + sum(launch.count for launch in status.pending_launches)
        return (there, pending) if there else None
    from ray._private.ray_constants import DEBUG_AUTOSCALING_STATUS
    from ray.experimental.internal_kv import _internal_kv_get

    report: dict[str, Any] | None = json.loads(_internal_kv_get(DEBUG_AUTOSCALING_STATUS) or b"{}").get(
        "autoscaler_report")
    if report is None:
        return None
    pending = len(report["pending_nodes"]) + sum(report["pending_launches"].values())
    return {*report["active_nodes"], *(report["idle_nodes"] or ())}, pending
