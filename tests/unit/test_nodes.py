"""How much of a wish is waited for, by which stages, and what they say."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest

import cluster.nodes
from cluster.config import ActorExecution
from cluster.nodes import Facts, Node, OneView
from cluster.storage import Storage
from configs.errors import ConfigError, ResourceError
from models.ranking import SHARD_USERS
from pipeline.evaluate.config import EvaluateConfig, EvaluateExecution
from pipeline.evaluate.sharding import TrainedModel, rank_cases
from pipeline.profile.llm.config import OpenAIEngine, VLLMEngine
from pipeline.profile.llm.openai import OpenAIBackend
from pipeline.profile.llm.vllm import VLLMBackend
from pipeline.reduce.config import ReduceConfig
from pipeline.reduce.parallel import transform_spans
from pipeline.reduce.stage import _fit_where_the_gpu_is
from pipeline.work import nodes
from pipeline.work.hub import ModelFiles
from pipeline.work.nodes import actor_resources, await_gpus, await_nodes, checked_nodes, lacks, total

ACTORS = [{"CPU": 0.5, "GPU": 1.0}] * 4 + [{"CPU": 1.0}]


def test_a_wish_is_the_sum_of_its_bundles() -> None:
    assert total(ACTORS) == {"CPU": 4 * 0.5 + 1, "GPU": 4.0}
    assert total([{"CPU": 1.0, "GPU": 0.0}]) == {"CPU": 1.0}


def test_what_falls_short_of_a_wish() -> None:
    assert lacks({"CPU": 16.0, "GPU": 3.0}, total(ACTORS))
    assert not lacks({"CPU": 3.0, "GPU": 4.0}, total(ACTORS))


class BundlesAsked(Exception):
    """The autoscaler was asked for this."""


class Cluster:
    """What a stage sees of Ray: at each look other resources, in the end the last; and nodes on their way."""

    def __init__(self, patch: pytest.MonkeyPatch, looks: Sequence[Mapping[str, float]],
                 on_their_way: int | None, on_request: Callable[[Any], None] | None = None) -> None:
        import ray
        import ray.autoscaler.sdk

        self.requests: list[list[dict[str, float]]] = []
        self.now = 0.0
        remaining = list(looks)
        ask = on_request or self.requests.append
        patch.setattr(ray, "cluster_resources", lambda: remaining.pop(0) if len(remaining) > 1 else remaining[0])
        patch.setattr(ray, "nodes", lambda: [{"Alive": True, "Resources": remaining[0]}])
        patch.setattr(ray, "is_initialized", lambda: True)
        patch.setattr(nodes, "nodes_on_their_way", lambda: on_their_way)
        patch.setattr(ray.autoscaler.sdk, "request_resources", lambda bundles: ask(bundles))
        patch.setattr(nodes, "time", self)

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def test_nodes_are_asked_for_and_awaited(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    small, grown = {"CPU": 4.0}, {"CPU": 8.0, "GPU": 4.0}
    cluster = Cluster(monkeypatch, [small, small, small, grown], 1)
    assert await_nodes(ACTORS, "encode") == grown
    assert cluster.now == 3 * 2.0
    assert cluster.requests == [ACTORS, []]
    assert capsys.readouterr().err == ("encode: asking the autoscaler for nodes with 4 GPU (there are 0) and waiting "
                                       "for them, 10 minutes at most\n")


def test_nodes_that_came_are_checked_before_they_get_work(monkeypatch: pytest.MonkeyPatch) -> None:
    small, grown = {"CPU": 4.0}, {"CPU": 8.0, "GPU": 4.0}
    grows, checked_at = Cluster(monkeypatch, [small, small, grown], 1), list[float]()
    with checked_nodes(lambda: checked_at.append(grows.now)):
        await_nodes(ACTORS, "encode")
        await_nodes(ACTORS, "encode")  # they are there: nothing is waited for
    assert checked_at == [2 * 2.0]


def test_each_node_is_asked_once_for_its_view(monkeypatch: pytest.MonkeyPatch, storage: Storage) -> None:
    there, asked = [{"NodeID": "a"}], list[list[str]]()

    def look(_: Storage, __: object, new: list[dict[str, str]]) -> list[Node]:
        asked.append([node["NodeID"] for node in new])
        facts = Facts("host", 1, None, 1, {}, None if new[-1]["NodeID"] != "d" else "it sees another disk")
        return [Node(node["NodeID"], 1, 0, facts) for node in new]

    monkeypatch.setattr(cluster.nodes, "_alive", lambda: there)
    monkeypatch.setattr(cluster.nodes, "look", look)
    view = OneView(storage)
    view.require()  # one node has no other view
    there += [{"NodeID": "b"}, {"NodeID": "c"}]
    view.require()
    view.require()
    there.append({"NodeID": "d"})
    with pytest.raises(ConfigError, match=r"node d \(host\) does not share .*: it sees another disk"):
        view.require()
    assert asked == [["a", "b", "c"], ["d"]]


@pytest.mark.parametrize(("on_their_way", "waited_s"), [(2, 600.0), (0, 60.0)])
def test_nodes_that_do_not_come(on_their_way: int, waited_s: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those on their way are given ten minutes; an autoscaler that may bring no more is found out in one."""
    cluster = Cluster(monkeypatch, [{"CPU": 4.0, "GPU": 1.0}], on_their_way)
    with pytest.raises(ResourceError, match="^encode: 4 GPUs are asked for, the cluster has 1; take fewer$"):
        await_gpus(ACTORS, "encode", "take fewer")
    assert cluster.now == waited_s
    assert cluster.requests == [ACTORS, []]


def test_gpus_that_no_node_has_together_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    Cluster(monkeypatch, [{"CPU": 8.0, "GPU": 2.0}], None)
    two = [{"Alive": True, "Resources": {"CPU": 4.0, "GPU": 1.0}}] * 2
    monkeypatch.setattr("ray.nodes", lambda: two)
    assert await_gpus([{"GPU": 1.0}] * 2, "encode", "take fewer")
    assert await_gpus([{"GPU": 0.1}] * 20, "encode", "take fewer")
    with pytest.raises(ResourceError, match="^encode: 1 times 2 GPUs of one node .* there is room for 0; take"):
        await_gpus([{"GPU": 2.0}], "encode", "take fewer")
    with pytest.raises(ResourceError, match="^encode: 2 large_memory are asked for, the cluster has 0; take fewer"):
        await_gpus([{"CPU": 1.0, "large_memory": 1.0}] * 2, "encode", "take fewer")


def test_without_an_autoscaler_too_few_gpus_are_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(monkeypatch, [{"CPU": 4.0}], None)
    with pytest.raises(ResourceError, match=r"4 GPUs .* has 0; lower execution.actors \(4\) or execution.num_gpus"):
        actor_resources(ActorExecution(actors=4, num_gpus=1), "encode")
    assert cluster.now == 0.0 and not cluster.requests


def test_actors_leave_a_cpu_to_what_feeds_them(monkeypatch: pytest.MonkeyPatch) -> None:
    Cluster(monkeypatch, [{"CPU": 4.0, "GPU": 1.0}], None)
    assert actor_resources(ActorExecution(actors=2), "encode") == {"num_cpus": 1.0}
    assert actor_resources(ActorExecution(actors=4, num_gpus=0.25), "encode") == {"num_cpus": 0.75, "num_gpus": 0.25}


@pytest.mark.parametrize(("cpus", "actors", "each"), [
    ([4.0], 1, 1.0), ([2.0, 2.0], 4, 0.5), ([1.0, 1.0, 1.0], 3, 0.0), ([0.0, 0.5, 9.0], 16, 0.5), ([64.0], 3, 1.0)])
def test_actors_leave_a_whole_cpu_on_one_node_wherever_they_are(cpus: list[float], actors: int, each: float,
                                                                monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    monkeypatch.setattr(ray, "nodes", lambda: [
        *({"Alive": True, "Resources": {"CPU": count} if count else {}} for count in cpus),
        {"Alive": False, "Resources": {"CPU": 100.0}}])
    assert nodes.cpus_each(1.0, actors) == each


def _vllm() -> None:
    engine = VLLMEngine(model="m", execution={"replicas": 2, "tensor_parallel": 2})
    next(VLLMBackend(engine, ModelFiles("m", None), None).answers(None, None))  # type: ignore[arg-type]


def _openai() -> None:
    engine = OpenAIEngine(model="m", base_url="http://127.0.0.1:1/v1", tokenizer="t",
                          execution={"actors": 3, "num_cpus": 0.5})
    next(OpenAIBackend(engine, None).answers(None, None))  # type: ignore[arg-type]


def _evaluate() -> None:
    config = EvaluateConfig(execution=EvaluateExecution(workers=4, use_gpu=True))
    model = TrainedModel(None, "", "cuda")  # type: ignore[arg-type]
    next(rank_cases(config, None, model, SHARD_USERS + 1))  # type: ignore[arg-type]


def _reduce_fit() -> None:
    config = ReduceConfig(execution=ActorExecution(actors=4, num_gpus=1))
    _fit_where_the_gpu_is(config, None, np.arange(3))  # type: ignore[arg-type]


def _reduce_transform() -> None:
    spans = [np.arange(3), np.arange(3)]
    next(transform_spans(None, "", None, spans, ActorExecution(actors=4, num_gpus=1)))  # type: ignore[arg-type]


ONE_GPU, FEEDING = {"CPU": 1.0, "GPU": 1.0}, {"CPU": 1.0}


@pytest.mark.parametrize(("work", "asked"), [
    (_vllm, [ONE_GPU] * 4), (_openai, [{"CPU": 0.5}] * 3), (_evaluate, [ONE_GPU] * 2),
    (_reduce_fit, [ONE_GPU, FEEDING]), (_reduce_transform, [ONE_GPU] * 2 + [FEEDING])])
def test_every_stage_with_actors_asks_and_waits(monkeypatch: pytest.MonkeyPatch, work: Callable[[], None],
                                                asked: list[dict[str, float]]) -> None:
    def ask(bundles: Any) -> None:
        if bundles:
            raise BundlesAsked(bundles)

    Cluster(monkeypatch, [{"CPU": 1.0}], 0, ask)
    with pytest.raises(BundlesAsked) as caught:
        work()
    assert caught.value.args == (asked,)


def test_a_gpu_that_never_comes_ends_vllm_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray would keep its engines waiting in silence."""
    Cluster(monkeypatch, [{"CPU": 8.0}], None)
    with pytest.raises(ResourceError, match=r"profile: 4 GPUs are asked for, the cluster has 0; lower profile\.engine"):
        _vllm()
