"""`make bench-onnx`: how far ONNX's scores are from torch's, and how fast both are, for every kind of student.

Each student is trained on Beauty for some epochs by its shipped configuration. Then both runtimes score the whole
catalogue for the same test users, and answer one user and many at a time, in turn, with the same number of threads.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.api.loading import find_trained, prepared_of
from pipeline.export.onnx import SCORES_FILE, Scores, longest_input, write_onnx
from pipeline.store import arrays
from pipeline.train.export import load_model
from tests.bench.ledger import Ledger
from tests.bench.pages import RESULTS, table
from tests.tools import ROOT, cli

STUDENTS = ("sasrec", "esasrec", "bert4rec", "gru4rec")
K, BATCH, ROUNDS = 10, 64, 100
MIB = 2**20


def main() -> None:
    """Train, write and compare every student."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--users", type=int, default=1000)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--storage", type=Path, default=ROOT / "results" / "bench-onnx", metavar="FOLDER")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="FOLDER")
    parser.add_argument("--again", action="store_true", help="measure finished parts anew")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    ledger = Ledger("onnx", given.results, given.again)
    for name in STUDENTS:
        ledger.run(name, partial(of_student, name, given))
        _write(ledger)


def of_student(name: str, given: argparse.Namespace) -> dict[str, Any]:
    """One student's differences and speeds."""
    import onnxruntime

    trained = cli("train", "-q", "--config", f"configs/beauty/{name}.yaml", "arms=[plain]", "train.distill_epochs=0",
                  f"train.epochs={given.epochs}", f"train.execution.threads_per_worker={given.threads}",
                  "train.execution.num_workers=0", f"storage.uri={given.storage}", f"name={name}", timeout_s=3600)
    if trained.returncode:
        raise RuntimeError(trained.stderr[-2000:])
    artifact = find_trained(str(given.storage.absolute() / "runs" / name)).artifact
    prepared = prepared_of(artifact)
    student = load_model(artifact.local("model"), item_digest=prepared.manifest.id_digest)
    histories = arrays.cases(prepared.local("test.arrow")).histories
    chosen = np.sort(np.random.default_rng(0).choice(len(histories), given.users, replace=False))
    items_NL = histories.padded(chosen, longest_input(student))
    with tempfile.TemporaryDirectory() as folder:
        write_onnx(student, Path(folder))
        mib = (Path(folder) / SCORES_FILE).stat().st_size / MIB
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = given.threads
        session = onnxruntime.InferenceSession(str(Path(folder) / SCORES_FILE), options,
                                               providers=["CPUExecutionProvider"])
    module = Scores(student).eval()

    def by_torch(items_BL: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return module(torch.from_numpy(items_BL))[1].numpy()

    def by_onnx(items_BL: np.ndarray) -> np.ndarray:
        found: np.ndarray = session.run(["scores"], {"items": items_BL})[0]
        return found

    return {"users": given.users, "items": student.num_items, "epochs": given.epochs, "threads": given.threads,
            "mib": round(mib, 1), **_differences(by_torch, by_onnx, items_NL),
            **{f"{way}_{users}_ms": figure for users in (1, BATCH)
               for way, figure in _latency({"torch": by_torch, "onnx": by_onnx}, items_NL, users).items()}}


Run = Callable[[np.ndarray], np.ndarray]


def _differences(by_torch: Run, by_onnx: Run, items_NL: np.ndarray) -> dict[str, float]:
    """Of all scores of all users; lists are compared as sets of the ``K`` best."""
    largest, spread, alike = 0.0, [], []
    for start in range(0, len(items_NL), BATCH):
        ours, theirs = (run(items_NL[start : start + BATCH]) for run in (by_torch, by_onnx))
        largest = max(largest, float(np.abs(ours - theirs).max()))
        spread.append(float(ours.std(axis=1).mean()))
        best = [np.argpartition(-scores, K, axis=1)[:, :K] for scores in (ours, theirs)]
        alike += [len(np.intersect1d(a, b)) / K for a, b in zip(*best, strict=True)]
    return {"largest_difference": largest, "scores_std": round(statistics.fmean(spread), 3),
            "same_items": round(statistics.fmean(alike), 5)}


def _latency(ways: dict[str, Run], items_NL: np.ndarray, users: int) -> dict[str, float]:
    """Median milliseconds of each way, asked in turn."""
    waits: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(ROUNDS):
        rows = items_NL[(turn * users + np.arange(users)) % len(items_NL)]
        for name, run in ways.items():
            started = time.perf_counter()
            run(rows)
            waits[name].append(time.perf_counter() - started)
    return {name: round(1000 * statistics.median(times), 2) for name, times in waits.items()}


def _write(ledger: Ledger) -> None:
    found = ledger.figures()
    first = next(iter(found.values()))
    rows = [(name, f"{row['largest_difference']:.1e}", row["scores_std"], f"{row['same_items']:.5f}", row["mib"],
             row["torch_1_ms"], row["onnx_1_ms"], row[f"torch_{BATCH}_ms"], row[f"onnx_{BATCH}_ms"])
            for name, row in found.items()]
    ledger.show(f"""## ONNX beside torch

Students of the shipped Beauty configurations after {first['epochs']} epochs; scores of all {first['items']:,} items
for {first['users']:,} test users; {first['threads']} threads. same: share of the ten best items that both find. Median
milliseconds of {ROUNDS} calls, both runtimes in turn, histories padded to the longest.

""" + table(("student", "largest difference", "scores' std", "same", "graph, MiB", "torch, 1 user", "ONNX, 1 user",
             f"torch, {BATCH} users", f"ONNX, {BATCH} users"), rows))


if __name__ == "__main__":
    main()
