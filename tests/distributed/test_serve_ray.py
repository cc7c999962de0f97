"""The service on a real Ray Serve: answers from batches, and a newer model while requests go on."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="Ray Serve (extra `serve`) is not installed")

import httpx
from ray import serve

from pipeline.api import load
from pipeline.serve.config import ServeConfig
from pipeline.serve.deployment import build
from tests.tools import free_port
from tests.unit.test_serve import write_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("serve") / "model", "first")


@pytest.fixture(scope="module")
def address(ray_cluster: None, folder: Path) -> Iterator[str]:
    port = free_port()
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    config = ServeConfig(model=str(folder), num_cpus=0.5, watch_s=0.2, max_batch=8)
    serve.run(build(config.model_dump()), name="mentorec", route_prefix="/")
    yield f"http://127.0.0.1:{port}"
    serve.shutdown()


def test_clients_at_once_get_the_lists_of_the_notebook(address: str, folder: Path) -> None:
    histories = [[f"item-{1 + i % 40}", f"item-{1 + (3 * i) % 40}"] for i in range(60)]
    expected = load(folder).recommend(histories, k=5).ids

    def ask(history: list[str]) -> list[str]:
        found = client.post("/recommend", json={"history": history, "k": 5})
        assert found.status_code == 200, found.text
        return [item["item_id"] for item in found.json()["items"]]

    with httpx.Client(base_url=address, timeout=60) as client, ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, histories)) == expected
        assert client.get("/ready").json()["model"] == "first"
        bad = client.post("/recommend", json={"history": "x"})
        assert (bad.status_code, bad.json()["fields"][0]["field"]) == (422, "history")
        assert "mentorec_answers_total" in client.get("/metrics").text


def test_a_newer_model_takes_over_and_no_request_fails(address: str, folder: Path) -> None:
    over, codes, models = threading.Event(), [], []

    def ask() -> None:
        with httpx.Client(base_url=address, timeout=60) as client:
            while not over.is_set():
                found = client.post("/recommend", json={"history": ["item-1"]})
                codes.append(found.status_code)
                models.append(found.json()["model"])

    def wait_for(model: str) -> None:
        deadline = time.monotonic() + 120
        while model not in models and time.monotonic() < deadline and any(t.is_alive() for t in threads):
            time.sleep(0.05)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    wait_for("first")  # requests are under way before the model changes, however slow the machine
    write_model(folder, "second", seed=1)
    wait_for("second")
    over.set()
    for thread in threads:
        thread.join()
    assert set(codes) == {200}
    assert set(models) == {"first", "second"} and models[0] == "first"
