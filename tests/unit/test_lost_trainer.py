"""What training on Ray lives through, and what it says while it waits: lost calls, lost nodes, no room."""

from __future__ import annotations

import time
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest

from cluster.storage import Storage
from configs.errors import ResourceError, TrainingError
from pipeline.train.execution_config import TrainExecution


class Trainer:
    """Raises one error after the other, then reaches the end."""

    def __init__(self, errors: list[Exception]) -> None:
        self.errors = errors

    def fit(self) -> Any:
        if self.errors:
            raise self.errors.pop(0)
        raise KeyboardInterrupt  # what comes after is another matter


@pytest.mark.parametrize(("lost", "left"), [(0, 0), (2, 0), (3, 0), (4, 1)])
def test_training_starts_again_after_a_lost_call(storage: Storage, monkeypatch: pytest.MonkeyPatch,
                                                 capsys: pytest.CaptureFixture[str], lost: int, left: int) -> None:
    import ray.train
    from ray.exceptions import ActorUnavailableError

    from pipeline.train import ray_session

    unavailable = ActorUnavailableError("gone for a moment", None)
    errors: list[Exception] = [unavailable if n % 2 else ray.train.ControllerError(unavailable) for n in range(lost)]
    quiet(monkeypatch)
    monkeypatch.setattr(ray_session, "_trainer", lambda *_: Trainer(errors))
    monkeypatch.setattr(ray_session, "await_the_fewest", lambda execution: None)
    spec: Any = SimpleNamespace(fingerprint="f", folder="spec", config=SimpleNamespace(execution=TrainExecution(
        max_failures=2)))
    with pytest.raises(KeyboardInterrupt if lost <= 2 else ResourceError):
        ray_session.fit(spec, storage, "ray")
    assert len(errors) == left
    assert capsys.readouterr().err.count("lost the connection to a worker for a moment") == min(lost, 2)


def test_an_elastic_group_that_gets_on_is_never_given_up(storage: Storage, monkeypatch: pytest.MonkeyPatch,
                                                        capsys: pytest.CaptureFixture[str]) -> None:
    """After as many losses as are allowed, it begins anew where it has new checkpoints, else it ends."""
    import ray.train

    from pipeline.train import ray_session

    lost = ray.train.WorkerGroupError("lost", {0: RuntimeError("a node")})
    tries: list[str | None] = ["checkpoint_1", "checkpoint_2", None, "never"]

    class Group:
        def fit(self) -> Any:
            if (new := tries.pop(0)) is not None:
                storage.make_dir(f"ray/f/{new}")
            raise lost

    quiet(monkeypatch)
    monkeypatch.setattr(ray_session, "_trainer", lambda *_: Group())
    monkeypatch.setattr(ray_session, "await_the_fewest", lambda execution: None)
    spec: Any = SimpleNamespace(fingerprint="f", folder="spec", config=SimpleNamespace(execution=TrainExecution(
        num_workers=(1, 2))))
    with pytest.raises(TrainingError, match="training workers failed"):
        ray_session.fit(spec, storage, "ray")
    assert tries == ["never"]
    assert capsys.readouterr().err.count("going on from the last checkpoint") == 2


@pytest.mark.parametrize(("workers", "cpus", "nodes", "held"), [
    ((3, 4), 2, [3, 3], 2), ((2, 3), 3, [4, 2], 1), (2, 0.5, [1], None), ((1, 8), 1, [4], None), (5, 1, [2, 2], 4)])
def test_room_is_that_of_each_node(monkeypatch: pytest.MonkeyPatch, workers: Any, cpus: float, nodes: list[int],
                                   held: int | None) -> None:
    import ray

    from pipeline.train import room

    monkeypatch.setattr(ray, "nodes", lambda: [*({"Alive": True, "Resources": {"CPU": float(n)}} for n in nodes),
                                               {"Alive": False, "Resources": {"CPU": 100.0}}])
    execution = TrainExecution(num_workers=workers, cpus_per_worker=cpus)
    assert room._shortage(execution) == ("" if held is None else (
        f"{execution.fewest_workers} workers are asked for, each with {cpus:g} CPU of one node; there is room for "
        f"{held}"))
    monkeypatch.setattr(room, "await_nodes", lambda bundles, label: {})
    if held is None or not room.elastic(execution):
        room.await_the_fewest(execution)  # one of a fixed size waits
    else:
        with pytest.raises(ResourceError, match=f"room for {held}; lower the first number of train.execution"):
            room.await_the_fewest(execution)


def test_waiting_is_told_once_until_workers_run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
                                                ) -> None:
    from pipeline.train import room

    seen: list[tuple[int, str]] = [(0, "no room"), (0, "no room"), (2, ""), (0, ""), (0, ""), (0, "no room")]
    looks: list[tuple[int, str]] = []

    def alive() -> int:
        looks.append(seen[len(looks) % len(seen)])
        return looks[-1][0]

    monkeypatch.setattr(room, "_workers_alive", alive)
    monkeypatch.setattr(room, "_shortage", lambda execution: looks[-1][1])
    monkeypatch.setattr(room, "_WATCH_S", 0.02)
    monkeypatch.setattr(room, "_IDLE_S", 0.03)
    with room.telling_of_waiting(TrainExecution()):
        while len(looks) <= len(seen):  # of the last one the line is said by then
            time.sleep(0.01)
    said = capsys.readouterr().err.splitlines()
    assert [line.split(";")[0] for line in said][:3] == [
        "train: no room", "train: no worker has run for a minute: other work in the cluster may hold its room (`ray "
        "status`)", "train: no room"]


def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """No Ray is there to be watched."""
    from pipeline.train import ray_session

    monkeypatch.setattr(ray_session, "telling_of_waiting", lambda execution: nullcontext())
