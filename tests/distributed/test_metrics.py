"""How far a stage is stands at Ray's Prometheus endpoint."""

from __future__ import annotations

import re
import time
import urllib.request

import pytest

from pipeline.profile.llm.progress import AnswerProgress
from pipeline.work import metrics
from pipeline.work.progress import Progress


def scraped() -> str:
    import ray

    (node,) = [node for node in ray.nodes() if node["Alive"]]
    with urllib.request.urlopen(f"http://127.0.0.1:{node['MetricsExportPort']}/metrics", timeout=10) as answer:
        return str(answer.read().decode())


def value(name: str, work: str) -> float | None:
    found = re.search(rf'^ray_mentorec_{name}{{[^}}]*work="{work}"[^}}]*}} (\S+)$', scraped(), re.MULTILINE)
    return None if found is None else float(found[1])


def test_done_and_total_and_tokens(ray_cluster: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "EVERY_S", 0.2)
    with metrics.published():
        with Progress("encode", 40, "texts") as progress:
            progress.update(10)
            time.sleep(1)
        with AnswerProgress("profile: pass 1", 8) as answers:
            answers.add(2, 500, 60, [], time.time())
            deadline = time.monotonic() + 90  # Ray collects now and then
            while value("output_tokens_per_second", "profile: pass 1") is None and time.monotonic() < deadline:
                time.sleep(0.5)
            assert (value("prompt_tokens_per_second", "profile: pass 1") or 0) > 0
            assert (value("per_second", "profile: pass 1") or 0) > 0
            assert value("per_second", "encode") == 0, "it is over"
    while value("output_tokens_per_second", "profile: pass 1") and time.monotonic() < deadline:
        time.sleep(0.5)
    assert (value("done", "encode"), value("total", "encode")) == (10, 40)
    assert (value("done", "profile: pass 1"), value("total", "profile: pass 1")) == (2, 8)
    assert [value(f"{name}_tokens_per_second", "profile: pass 1") for name in ("prompt", "output")] == [0, 0]
