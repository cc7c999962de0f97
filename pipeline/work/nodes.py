"""Clusters that grow: a stage waits for the nodes that the autoscaler can bring, as training does."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from cluster.config import ActorExecution
from configs.errors import ResourceError
from pipeline.work.autoscaler import nodes_on_their_way
from pipeline.work.progress import say

_WAIT_S = 600.0
_SILENCE_S = 60.0
"""Without a node on its way, after which no more are waited for: an autoscaler looks every few seconds."""
_POLL_S = 2.0
_ROUNDING = 1e-9
_TYPE = "accelerator_type:"
"""Begins the resource by which Ray's nodes tell their GPUs' type."""

Resources = Mapping[str, float]
_CHECK: ContextVar[Callable[[], None]] = ContextVar("check", default=lambda: None)


@contextmanager
def checked_nodes(check: Callable[[], None]) -> Iterator[None]:
    """While the block runs, nodes that were waited for are checked before they get work: ``check`` raises what is
    wrong with one."""
    token = _CHECK.set(check)
    try:
        yield
    finally:
        _CHECK.reset(token)


def await_nodes(bundles: Sequence[Resources], label: str) -> dict[str, float]:
    """What the cluster has, once it has room for the bundles or its autoscaler brings no more. Ray must be running.

    Without an autoscaler nothing is waited for. How much one may bring Ray does not say: when it has had no node on its
    way for a minute, or after ten, the answer is what is there.

    Args:
        bundles: resources of each actor or group of tasks.
        label: names the stage in the line that says what is waited for.
    """
    import ray
    from ray.autoscaler.sdk import request_resources

    there: dict[str, float] = ray.cluster_resources()
    goal = total(bundles)
    if not lacks(there, goal) or nodes_on_their_way() is None:
        return there
    shown = ", ".join(f"{amount:g} {name} (there are {there.get(name, 0.0):g})" for name, amount in goal.items()
                      if amount > there.get(name, 0.0))
    say(f"{label}: asking the autoscaler for nodes with {shown} and waiting for them, {_WAIT_S / 60:g} minutes at most")
    request_resources(bundles=[{name: amount for name, amount in bundle.items() if amount} for bundle in bundles])
    try:
        began = news = time.monotonic()
        while lacks(there, goal) and time.monotonic() < min(began + _WAIT_S, news + _SILENCE_S):
            time.sleep(_POLL_S)
            before, there = there, ray.cluster_resources()
            if nodes_on_their_way() or lacks(before, there):
                news = time.monotonic()
    finally:
        request_resources(bundles=[])  # the actors' own demand holds the nodes from here on
    _CHECK.get()()
    return there


def await_gpus(bundles: Sequence[Resources], label: str, remedy: str) -> dict[str, float]:
    """:func:`await_nodes` for work that all runs at once: what asks for a GPU, or for a custom resource, that never
    comes would wait in silence.

    Args:
        remedy: what to set where there are too few.

    Raises:
        ResourceError: the cluster has fewer of them than the bundles ask for, or no room for each on one node.
    """
    there = await_nodes(bundles, label)
    for name, wanted in total(bundles).items():
        if name == "CPU":  # work of a few CPUs takes its turns
            continue
        shown = "GPUs" if name == "GPU" else name
        if wanted > there.get(name, 0.0) + _ROUNDING * wanted:
            raise ResourceError(f"{label}: {wanted:g} {shown} are asked for, the cluster has {there.get(name, 0.0):g}; "
                                f"{remedy}")
        amounts = [bundle[name] for bundle in bundles if bundle.get(name)]
        there_is = room_for({name: max(amounts)})
        if there_is < len(amounts):
            raise ResourceError(f"{label}: {len(amounts)} times {max(amounts):g} {shown} of one node are asked for, "
                                f"and there is room for {there_is}; {remedy}")
    return there


def room_for(bundle: Resources) -> int:
    """So many of the bundle, each on one node, would the cluster's nodes hold if nothing else were there. Ray must be
    running."""
    import ray

    return sum(int(min(node["Resources"].get(name, 0.0) / amount for name, amount in bundle.items()) + _ROUNDING)
               for node in ray.nodes() if node["Alive"])


def require_room(bundle: Resources, label: str, remedy: str) -> None:
    """Work that no node has room for, be it idle, would wait in silence; an autoscaler may bring one that has. Ray must
    be running.

    Raises:
        ResourceError: there is no such node and no autoscaler.
    """
    if not room_for(bundle) and nodes_on_their_way() is None:
        shown = ", ".join(f"{amount:g} {name}" for name, amount in bundle.items())
        raise ResourceError(f"{label}: no node has {shown}; {remedy}")


def require_type(accelerator_type: str | None, label: str) -> None:
    """Work for a GPU type that never comes would wait in silence; an autoscaler may bring it. Ray must be running.

    Raises:
        ResourceError: no node has it, and there is no autoscaler.
    """
    import ray

    if accelerator_type is None:
        return
    there = sorted({name.removeprefix(_TYPE) for name in ray.cluster_resources() if name.startswith(_TYPE)})
    if accelerator_type not in there and nodes_on_their_way() is None:
        raise ResourceError(f"{label}: no node has a GPU of type {accelerator_type}; there is "
                            f"{', '.join(there) or 'none of a known type'}: correct execution.accelerator_type, or "
                            "leave it out")


def actor_resources(execution: ActorExecution, label: str) -> dict[str, Any]:
    """CPUs (as :func:`cpus_each`), GPUs and all else that Ray is told of each actor, once there is room for all.

    Raises:
        ResourceError: the cluster has fewer GPUs or custom resources than the actors ask for.
    """
    require_type(execution.accelerator_type, label)
    per_actor = {"CPU": execution.num_cpus, "GPU": execution.num_gpus, **execution.resources}
    await_gpus([per_actor] * execution.actors + [{"CPU": 1.0}], label,
               f"lower execution.actors ({execution.actors}) or execution.num_gpus ({execution.num_gpus:g}), correct "
               "execution.resources, or add nodes")
    resources: dict[str, Any] = {"num_cpus": cpus_each(execution.num_cpus, execution.actors)}
    return resources | ({"num_gpus": execution.num_gpus} if execution.num_gpus else {}) | execution.ray_options()


def cpus_each(wanted: float, actors: int) -> float:
    """What each actor may ask for, so that some node keeps a whole CPU wherever they are placed. Ray must be running.

    Ray Data looks at the files that it will read in tasks of a whole CPU and has no setting for it: where actors held
    more than all but one of every node's, these would wait for ever and nothing would say so. On nodes of a single CPU
    actors ask for none, and Ray may put them all on one.
    """
    import ray

    spare = sum(max(0.0, node["Resources"].get("CPU", 0.0) - 1.0) for node in ray.nodes() if node["Alive"])
    return math.floor(min(wanted, spare / actors) * 1000) / 1000


def cpus_held() -> str | None:
    """What to say where no node has a whole CPU free, as Ray Data's reading wants; None where one has."""
    import ray
    import ray._private.state

    free, there = ray.available_resources().get("CPU", 0.0), ray.cluster_resources().get("CPU", 0.0)
    of_nodes = ray._private.state.available_resources_per_node().values()
    if any(node.get("CPU", 0.0) >= 1.0 for node in of_nodes):
        return None
    return (f"{free:g} of the cluster's {there:g} CPUs are free: where other jobs hold them, this waits for those "
            "(`ray status` tells who)")


def total(bundles: Sequence[Resources]) -> dict[str, float]:
    """Sum per resource; what nothing asks for is left out."""
    names = dict.fromkeys(name for bundle in bundles for name in bundle)
    sums = {name: sum(bundle.get(name, 0.0) for bundle in bundles) for name in names}
    return {name: amount for name, amount in sums.items() if amount > 0}


def lacks(there: Resources, goal: Resources) -> bool:
    """Whether a resource falls short of its goal."""
    return any(there.get(name, 0.0) < amount for name, amount in goal.items())
