"""What every client of `tests/bench/serve.py` does: run by locust, in an environment that holds nothing of ours.

``SERVE_QUESTIONS`` names a JSON file: ``histories``, and for each model's fingerprint the ``answers`` that are right.
"""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

from locust import FastHttpUser, constant, task

_ASKED = json.loads(Path(os.environ["SERVE_QUESTIONS"]).read_text())


class Client(FastHttpUser):
    """Asks again as soon as it is answered."""

    wait_time = constant(0)

    @task
    def recommend(self) -> None:
        """One question; a wrong answer counts as a failure."""
        row = random.randrange(len(_ASKED["histories"]))
        body = {"history": _ASKED["histories"][row], "k": _ASKED["k"]}
        with self.client.post("/recommend", json=body, catch_response=True) as found:
            if found.status_code != 200:
                found.failure(f"status {found.status_code}")
                return
            answer = found.json()
            right = _ASKED["answers"].get(answer["model"])
            if right is None or [item["item_id"] for item in answer["items"]] != right[row]:
                found.failure("wrong list")
            else:
                found.success()
