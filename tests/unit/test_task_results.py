"""What becomes of a Ray task's result where there is none."""

from __future__ import annotations

from typing import Any

import pytest
import ray
from ray.exceptions import NodeDiedError, OutOfMemoryError, RayTaskError, WorkerCrashedError

from configs.errors import DataError, ResourceError
from pipeline.work.tasks import result


def of(error: Exception, monkeypatch: pytest.MonkeyPatch) -> Any:
    def get(_: object) -> Any:
        raise error

    monkeypatch.setattr(ray, "get", get)
    return result(object(), "reduce", "lower reduce.fit_rows")


@pytest.mark.parametrize("died", [WorkerCrashedError(), OutOfMemoryError("killed"), NodeDiedError("gone")],
                         ids=lambda error: type(error).__name__)
def test_a_process_that_dies_again_and_again_is_one_line_with_a_remedy(died: Exception,
                                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ResourceError) as told:
        of(died, monkeypatch)
    assert str(told.value) == ("reduce: a task's process died again and again, perhaps for want of memory; lower "
                               "reduce.fit_rows")
    assert told.value.__cause__ is died


def test_what_a_task_raises_arrives_as_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, defect = DataError("one line\nand a remedy of Ray's"), ValueError("a defect")
    with pytest.raises(DataError, match="^one line$"):
        of(RayTaskError("f", "a traceback", ours), monkeypatch)
    with pytest.raises(RayTaskError):
        of(RayTaskError("f", "a traceback", defect), monkeypatch)
