"""How far a stage is stands at Ray's Prometheus endpoint."""

from __future__ import annotations

import re
import time
import urllib.request
from collections.abc import Callable

import pytest

from pipeline.profile.llm.progress import AnswerProgress
from pipeline.work import metrics
from pipeline.work.progress import Progress

PROFILE = "profile: pass 1"


def scraped() -> dict[str, dict[str, float]]:
    """{work: {name: value}} of one scrape: a gauge that nobody refreshes leaves it after some 20 s."""
    import ray

    (node,) = [node for node in ray.nodes() if node["Alive"]]
    with urllib.request.urlopen(f"http://127.0.0.1:{node['MetricsExportPort']}/metrics", timeout=10) as answer:
        text = str(answer.read().decode())
    found: dict[str, dict[str, float]] = {}
    for name, work, value in re.findall(r'^ray_mentorec_(\w+){[^}]*work="([^"]*)"[^}]*} (\S+)$', text, re.MULTILINE):
        found.setdefault(work, {})[name] = float(value)
    return found


def wait_for(work: str, shown: Callable[[dict[str, float]], bool]) -> None:
    """Until one scrape shows it: Ray collects now and then."""
    deadline, last = time.monotonic() + 90, {}
    while time.monotonic() < deadline:
        last = scraped()
        if shown(last.get(work, {})):
            return
        time.sleep(0.5)
    pytest.fail(f"{work!r} was not so within 90 s: {last}")


def test_done_and_total_and_tokens(ray_cluster: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "EVERY_S", 0.2)
    with metrics.published():
        with Progress("encode", 40, "texts") as progress:
            progress.update(10)
            time.sleep(1)
        wait_for("encode", lambda values: values == {"done": 10, "total": 40, "per_second": 0})
        with AnswerProgress(PROFILE, 8) as answers:
            answers.add(2, 500, 60, [], time.time())
            speeds = {"per_second", "prompt_tokens_per_second", "output_tokens_per_second"}
            wait_for(PROFILE, lambda values: all(values.get(name, 0) > 0 for name in speeds))
    over = {"done": 2, "total": 8, **dict.fromkeys(speeds, 0)}
    wait_for(PROFILE, lambda values: values == over)
