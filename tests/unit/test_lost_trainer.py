"""A remote call of Ray Train's controller that is lost: training is started again, so often as workers may fail."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from cluster.storage import Storage
from configs.errors import ResourceError


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
    monkeypatch.setattr(ray_session, "_shortage", lambda execution: "")
    monkeypatch.setattr(ray_session, "_trainer", lambda *_: Trainer(errors))
    spec: Any = SimpleNamespace(fingerprint="f", folder="spec", config=SimpleNamespace(execution=SimpleNamespace(
        max_failures=2, fewest_workers=1, most_workers=1, cpus_per_worker=1.0, use_gpu=False)))
    with pytest.raises(KeyboardInterrupt if lost <= 2 else ResourceError):
        ray_session.fit(spec, storage, "ray")
    assert len(errors) == left
    assert capsys.readouterr().err.count("lost the connection to a worker for a moment") == min(lost, 2)
