"""`make bench-serve`: the service at the size of Amazon-M2's catalogue, asked by 1, 8 and 64 clients, and under damage.

Models are untrained: speed does not depend on weights. Clients are locust's, on this machine, so they take their share
of its cores; each asks again as soon as it is answered, and every list is compared with the one that `load` gives.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import json
import os
import signal
import subprocess
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pyarrow as pa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from models.config import SASRecConfig
from pipeline.api import load
from tests.bench.ledger import Ledger
from tests.bench.pages import RESULTS, table, verdict
from tests.bench.peers.environments import Environment, made
from tests.builders import export_untrained
from tests.tools import ROOT, command, free_port

ITEMS, K, HISTORIES = 334_060, 10, 200
MODEL = SASRecConfig(hidden_dim=64, num_blocks=2, num_heads=1, max_length=50)
CLIENTS, DAMAGED_CLIENTS, P99_TARGET_MS, SLOW_MS = (1, 8, 64), 8, 25, 1000
WARM_UP_S = 10
PROXIES = {"ray": {}, "haproxy": {"RAY_SERVE_ENABLE_HA_PROXY": "1"}}
"""Who hands requests to a replica → what the service's environment holds."""
LOCUST = Environment("locust", "locust==2.47.0", (("locust==2.47.0",),))


def main() -> None:
    """Measure every number of clients, then the service under damage."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--items", type=int, default=ITEMS)
    parser.add_argument("--seconds", type=int, default=30, help="of each measurement")
    parser.add_argument("--bodies", type=int, default=10_000, help="malformed ones")
    parser.add_argument("--folder", type=Path, default=ROOT / "results" / "bench-serve")
    parser.add_argument("--indexed", type=Path, metavar="FOLDER", help="a trained model that was exported with --ann: "
                        "also measured with approximate lists")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="FOLDER")
    parser.add_argument("--again", action="store_true", help="measure finished parts anew")
    asked = parser.parse_args()
    ledger = Ledger("serve", asked.results, asked.again)
    locust = made(LOCUST, asked.folder / "environments")
    first, second = (write_model(asked.folder / name, asked.items, name, seed) for seed, name in enumerate(("a", "b")))
    questions = write_questions(asked.folder, (first, second), asked.items)
    for proxy in PROXIES:
        for clients in CLIENTS:
            ledger.run(f"{proxy}-{clients}", partial(of_clients, clients, proxy, asked, locust, first, questions))
            _write(ledger)
    if asked.indexed is not None:
        model = asked.indexed.absolute()
        own = write_own_questions(asked.folder / "own", model)
        for clients in CLIENTS:
            ledger.run(f"index-{clients}", partial(of_clients, clients, "haproxy", asked, locust, model, own,
                                                   "approximate=true"))
            _write(ledger)
    ledger.run("damage", partial(of_damage, asked, locust, questions))
    _write(ledger)


def write_model(folder: Path, items: int, fingerprint: str, seed: int) -> Path:
    """An exported folder of an untrained SASRec."""
    ids = [f"B{n:09d}" for n in range(1, items + 1)]
    rows = pa.table({"item_id": ids, "title": [f"Item number {n}" for n in range(items)], "category": [None] * items,
                     "train_count": np.arange(items), "first_time": pa.nulls(items, pa.int64()),
                     "last_time": pa.nulls(items, pa.int64())})
    return export_untrained(folder, MODEL, rows, fingerprint, seed)


def write_questions(folder: Path, models: tuple[Path, ...], items: int) -> Path:
    """Histories of 1 to 50 items and the lists of each model."""
    rng = np.random.default_rng(0)
    histories = [[f"B{n:09d}" for n in rng.integers(1, items + 1, rng.integers(1, 51))] for _ in range(HISTORIES)]
    answers = {model.name: load(model).recommend(histories, k=K).ids for model in models}
    path = folder / "questions.json"
    path.write_text(json.dumps({"histories": histories, "k": K, "answers": answers}))
    return path


def write_own_questions(folder: Path, model: Path) -> Path:
    """The same of a trained model: histories of its items, and the approximate lists that `load` gives."""
    folder.mkdir(parents=True, exist_ok=True)
    rng, recommender = np.random.default_rng(0), load(model)
    ids = np.array(recommender.items.ids)
    histories = [ids[rng.integers(0, len(ids), rng.integers(1, 51))].tolist() for _ in range(HISTORIES)]
    answers = {str(recommender.card["fingerprint"]): [
        recommender.recommend([history], k=K, approximate=True).ids[0] for history in histories]}
    path = folder / "questions.json"
    path.write_text(json.dumps({"histories": histories, "k": K, "answers": answers}))
    return path


@contextlib.contextmanager
def service(model: Path, *overrides: str, proxy: str = "ray") -> Iterator[tuple[str, psutil.Process]]:
    """`mentorec serve` in a process of its own: its address, once it answers."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    log = model.parent / "service.log"
    with log.open("w") as out, subprocess.Popen(command("serve", str(model), f"port={port}", *overrides), cwd=ROOT,
                                                env={**os.environ, **PROXIES[proxy]}, stdout=out, stderr=out
                                                ) as process:
        try:
            deadline = time.monotonic() + 300
            while True:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"the service does not answer: {log.read_text()[-2000:]}")
                with contextlib.suppress(OSError), urllib.request.urlopen(f"{url}/ready", timeout=5):
                    break
                time.sleep(0.5)
            yield url, psutil.Process(process.pid)
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(120)


def replicas(top: psutil.Process) -> list[psutil.Process]:
    """The replicas' processes below the service."""
    return [each for each in top.children(recursive=True) if "ServeReplica" in " ".join(each.cmdline())]


def asked_by(clients: int, seconds: int, locust: Path, url: str, questions: Path) -> dict[str, Any]:
    """What so many clients saw: requests, milliseconds (whole ones below 100), failures by their kind."""
    prefix = questions.parent / "locust"
    done = subprocess.run(
        [str(locust), "-m", "locust", "-f", str(ROOT / "tests/bench/serve_load.py"), "--headless", "--only-summary",
         "--host", url, "-u", str(clients), "-r", str(clients), "-t", f"{seconds}s", "--json", "--csv", str(prefix),
         "--exit-code-on-error", "0"],
        env={**os.environ, "SERVE_QUESTIONS": str(questions)}, capture_output=True, text=True, check=False)
    if done.returncode or not (found := json.loads(done.stdout)):
        raise RuntimeError(f"locust had no answer: {done.stderr[-2000:]}")
    found = found[0]
    counts = {float(ms): count for ms, count in found["response_times"].items()}
    waits = np.repeat(list(counts), list(counts.values()))
    with Path(f"{prefix}_failures.csv").open() as rows:
        failures = {row["Error"]: int(row["Occurrences"]) for row in csv.DictReader(rows)}
    return {"requests": found["num_requests"], "p50_ms": round(float(np.percentile(waits, 50)), 1),
            "p99_ms": round(float(np.percentile(waits, 99)), 1), "longest_ms": round(found["max_response_time"], 1),
            "slow": int((waits > SLOW_MS).sum()), "failures": failures,
            "requests_per_second": round(found["num_requests"] / (
                found["last_request_timestamp"] - found["start_time"]))}


def of_clients(clients: int, proxy: str, asked: argparse.Namespace, locust: Path, model: Path, questions: Path,
               *overrides: str) -> dict[str, Any]:
    """One replica, some seconds of warm-up, then the measurement."""
    with service(model, *overrides, proxy=proxy) as (url, top):
        asked_by(clients, WARM_UP_S, locust, url, questions)
        found = asked_by(clients, asked.seconds, locust, url, questions)
        memory = [each.memory_info().rss for each in replicas(top)]
    return {"items": asked.items, "proxy": ", ".join((proxy, *overrides)), "clients": clients, **found,
            "replica_gib": [round(rss / 2**30, 2) for rss in memory]}


def of_damage(asked: argparse.Namespace, locust: Path, questions: Path) -> dict[str, Any]:
    """Two replicas under load: one is killed, a newer model is exported over the old one, malformed bodies come in."""
    folder = asked.folder / "served"
    write_model(folder, asked.items, "a", 0)
    events: dict[str, Any] = {}
    with service(folder, "replicas=2", "num_cpus=0.5", "watch_s=1") as (url, top):
        asked_by(DAMAGED_CLIENTS, WARM_UP_S, locust, url, questions)
        load: dict[str, Any] = {}
        seconds = 4 * asked.seconds
        thread = threading.Thread(
            target=lambda: load.update(asked_by(DAMAGED_CLIENTS, seconds, locust, url, questions)))
        thread.start()
        time.sleep(asked.seconds / 2)
        victim = replicas(top)[0]
        victim.kill()
        time.sleep(asked.seconds / 2)
        write_model(folder, asked.items, "b", 1)
        events["bodies"] = malformed(url, asked.bodies)
        thread.join()
        with urllib.request.urlopen(f"{url}/ready", timeout=30) as ready:
            events["model_at_the_end"] = json.load(ready)["model"]
        events["replicas_at_the_end"] = len(replicas(top))
    return {"items": asked.items, "clients": DAMAGED_CLIENTS, "seconds": seconds, **load, **events}


_JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
                     lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4))
_BODIES = st.binary(max_size=200) | _JSON.map(lambda value: json.dumps(value).encode("utf-8", "surrogatepass")) | (
    st.fixed_dictionaries({}, optional=dict.fromkeys(("history", "k", "allow", "deny", "new_days", "x"), _JSON)).map(
        lambda value: json.dumps(value).encode("utf-8", "surrogatepass")))


def malformed(url: str, bodies: int) -> dict[str, int]:
    """Status codes of generated bodies, few of which are right."""
    codes: Counter[str] = Counter()
    with httpx.Client(base_url=url, timeout=60) as client:

        @settings(max_examples=bodies, deadline=None, database=None, derandomize=True,
                  suppress_health_check=list(HealthCheck))
        @given(_BODIES)
        def post(body: bytes) -> None:
            found = client.post("/recommend", content=body, headers={"Content-Type": "application/json"})
            codes[str(found.status_code)] += 1
            if "Traceback" in found.text:
                codes["with a traceback"] += 1

        post()
    return dict(codes)


def _write(ledger: Ledger) -> None:
    found = ledger.figures()
    names = [f"{way}-{clients}" for way in (*PROXIES, "index") for clients in CLIENTS]
    by_clients: list[Mapping[str, Any]] = [found[name] for name in names if name in found]
    text = f"""## The service

`mentorec serve` of an untrained SASRec (width 64, two blocks) over {by_clients[0]['items']:,} items, one replica,
lists of {K}; locust's clients on the same cores. Every list was compared with the one that `load` gives. The proxy is
Ray Serve's own, or HAProxy (`RAY_SERVE_ENABLE_HA_PROXY=1`), which Ray brings. With `approximate=true` the model is a
trained one of that size, exported with `--ann`.

""" + table(
        ("proxy", "clients", "requests/s", "p50, ms", "p99, ms", "longest, ms", "failed or wrong", "replica, GiB"), [
        (row["proxy"], row["clients"], row["requests_per_second"], row["p50_ms"], row["p99_ms"], row["longest_ms"],
         sum(row["failures"].values()), ", ".join(map(str, row["replica_gib"]))) for row in by_clients])
    text += "\n"
    for proxy in (*PROXIES, "index"):
        if at_8 := found.get(f"{proxy}-8"):
            text += (f"\n- p99 at 8 clients, {proxy}: {at_8['p99_ms']:.0f} ms (target {P99_TARGET_MS}): "
                     f"{verdict(at_8['p99_ms'] <= P99_TARGET_MS)}")
    damage = found.get("damage")
    if damage:
        failed = "; ".join(f"{kind}: {count}" for kind, count in damage["failures"].items()) or "none"
        codes = ", ".join(f"{code}: {count:,}" for code, count in sorted(damage["bodies"].items()))
        text += (f"\n- Two replicas, {damage['clients']} clients, {damage['seconds']} s; one replica killed, a newer "
                 f"model exported over the old one, {sum(damage['bodies'].values()):,} generated bodies at the same "
                 f"time: {damage['requests']:,} questions, failed or wrong: {failed}; answers after more than "
                 f"{SLOW_MS} ms: {damage['slow']}, the longest {damage['longest_ms']} ms. Codes of generated bodies: "
                 f"{codes}. At the end model `{damage['model_at_the_end']}`, {damage['replicas_at_the_end']} replicas.")
    ledger.show(text)


if __name__ == "__main__":
    main()
