"""`make bench-recommend RUN=FOLDER ARM=NAME`: lists for all users of a run: time, memory, and whether they are right.

`mentorec recommend` answers every test user in a process of its own, and the lists are compared with those that
`evaluate` has kept; then all users by all they have done; then a hundred sequences from JSON lines. Last, the exported
model answers a sample of the users exactly and by its index.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from pipeline.api import load
from pipeline.api.items import catalogue
from pipeline.api.loading import find_trained, prepared_of
from pipeline.evaluate.definition import TOP, TOP_LISTS
from pipeline.export.folder import evaluation_of
from pipeline.store import arrays
from pipeline.store.columns import ITEM_ID, USER_ID, USER_IDX
from tests.bench.ledger import Ledger
from tests.bench.pages import RESULTS, table
from tests.bench.watch import watched
from tests.tools import ROOT, command

K, SEQUENCES = 10, 100
GB = 1e9


def main() -> None:
    """Measure one run."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", help="a run's folder, such as results/runs/demo")
    parser.add_argument("--name", help="in the table; default: the run's")
    parser.add_argument("--arm", required=True, help="whose recommender answers")
    parser.add_argument("--users", type=int, default=20_000, help="of the comparison with the index")
    parser.add_argument("--parts", nargs="*", default=("evaluated", "all", "sequences", "index"))
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="FOLDER")
    parser.add_argument("--again", action="store_true", help="measure finished parts anew")
    given = parser.parse_args()
    ledger = Ledger("recommend", given.results, given.again)
    run = Path(given.run).expanduser().absolute()
    ways: dict[str, Callable[[Path, str, Path], dict[str, Any]]] = {
        "evaluated": of_evaluated, "all": of_all, "sequences": of_sequences, "index": partial(of_index, given.users)}
    with tempfile.TemporaryDirectory() as folder:
        for part in given.parts:
            ledger.run(f"{given.name or run.name}/{part}", partial(ways[part], run, given.arm, Path(folder)))
            _write(ledger)


def of_evaluated(run: Path, arm: str, folder: Path) -> dict[str, Any]:
    """Test users, with the histories that `evaluate` ranked from; and how many lists are not its own."""
    figures, lists = _called(run, arm, folder / "evaluated.parquet", "recommend.history=evaluated")
    trained = find_trained(str(run), arm).artifact
    prepared = prepared_of(trained)
    evaluated = evaluation_of(trained)
    if evaluated is None:
        raise RuntimeError(f"nothing has evaluated {trained.folder}")
    kept = evaluated.read_table(TOP_LISTS, [USER_IDX, TOP])
    ids = catalogue(prepared)[ITEM_ID].to_pylist()
    users = dict(zip(*(prepared.read_table("users.parquet", [USER_IDX, USER_ID])[name].to_pylist()
                       for name in (USER_IDX, USER_ID)), strict=True))
    expected = {users[user]: [ids[item - 1] for item in top[:K] if item > 0]
                for user, top in zip(kept[USER_IDX].to_pylist(), kept[TOP].to_pylist(), strict=True)}
    found = dict(zip(lists["user_id"].to_pylist(), lists["items"].to_pylist(), strict=True))
    return {**figures, "expected": len(expected),
            "other_lists": sum(found.get(user) != items for user, items in expected.items())}


def of_all(run: Path, arm: str, folder: Path) -> dict[str, Any]:
    """All users, with all that they have done."""
    return _called(run, arm, folder / "all.parquet")[0]


def of_sequences(run: Path, arm: str, folder: Path) -> dict[str, Any]:
    """Test users' histories as new sequences from JSON lines; and how many lists are not those of the users."""
    trained = find_trained(str(run), arm).artifact
    prepared = prepared_of(trained)
    ids = catalogue(prepared)[ITEM_ID].to_pylist()
    histories = arrays.cases(prepared.local("test.arrow")).histories
    raw = [[ids[item - 1] for item in histories[row].tolist()] for row in range(min(SEQUENCES, len(histories)))]
    asked = folder / "new.jsonl"
    asked.write_text("".join(json.dumps({"items": items}) + "\n" for items in raw))
    figures, lists = _called(run, arm, folder / "sequences.parquet", "--sequences", str(asked))
    own = load(trained).recommend(raw, K).to_polars()
    expected = [own.filter(own["sequence"] == row)["item_id"].to_list() for row in range(len(raw))]
    return {**figures, "expected": len(raw), "other_lists": sum(
        mine != theirs for mine, theirs in zip(lists["items"].to_pylist(), expected, strict=True))}


def of_index(users: int, run: Path, arm: str, folder: Path) -> dict[str, Any]:
    """A sample of the test users, exactly and by the index that `export --ann` leaves."""
    done = subprocess.run(command("export", str(run), str(folder / "model"), "--arm", arm, "--ann", "-q"), cwd=ROOT,
                          capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    recommender = load(folder / "model")
    histories = arrays.cases(prepared_of(find_trained(str(run), arm).artifact).local("test.arrow")).histories
    chosen = np.sort(np.random.default_rng(0).choice(len(histories), min(users, len(histories)), replace=False))
    asked = type(histories).from_lists([histories[row].tolist() for row in chosen])
    unknown_N = np.zeros(len(asked), np.int32)
    found, speeds = {}, {}
    for way in (False, True):
        started = time.perf_counter()
        found[way] = recommender.recommend_indexed(asked, unknown_N, K, approximate=way).items_NK
        speeds[way] = round(len(asked) / (time.perf_counter() - started))
    recall = np.mean([np.isin(exact, near).mean() for exact, near in zip(found[False], found[True], strict=True)])
    return {"users": len(asked), "items": len(recommender.items.ids), "exact_users_per_second": speeds[False],
            "index_users_per_second": speeds[True], "recall": round(float(recall), 4),
            "index_mb": round((folder / "model" / "items.faiss").stat().st_size / 1e6, 1)}


def _called(run: Path, arm: str, output: Path, *args: str) -> tuple[dict[str, Any], Any]:
    """`mentorec recommend` in a process of its own, its work done anew: figures, and the file's table."""
    root = run.parent.parent
    with tempfile.TemporaryFile("w+") as said, subprocess.Popen(
            command("recommend", "-c", str(run / "config.json"), "--output", str(output), f"recommend.arm={arm}",
                    f"recommend.k={K}", f"storage.uri={root}", *args), cwd=ROOT, stdout=said, stderr=said) as process:
        with watched(process.pid) as usage:
            code = process.wait()
        said.seek(0)
        if code or "these lists are there already" in (text := said.read()):
            raise RuntimeError(said.read()[-2000:] if code else f"{root}/artifacts/recommend holds these lists already")
    lists = pq.read_table(output)
    told = next(line for line in text.splitlines() if "users/s)" in line or "per user)" in line)
    return {"users": len(lists), "seconds": round(usage.seconds, 1), "answering": told.partition(": ")[2],
            "peak_gb": round(usage.own_bytes / GB, 2)}, lists


def _write(ledger: Ledger) -> None:
    calls: list[Sequence[object]] = []
    indexes: list[Sequence[object]] = []
    for run, found in ledger.figures().items():
        name, _, part = run.partition("/")
        if part == "index":
            indexes.append((f"{name}, {found['items']:,} items", f"{found['users']:,}", found["exact_users_per_second"],
                            found["index_users_per_second"], f"{found['recall']:.4f}", found["index_mb"]))
        else:
            right = "" if "expected" not in found else (
                f"{found['expected'] - found['other_lists']:,} of {found['expected']:,}")
            calls.append((f"{name}, {part}", f"{found['users']:,}", found["seconds"], found["answering"],
                          found["peak_gb"], right))
    text = f"""## Recommending in batch

`mentorec recommend` of lists of {K} in a process of its own, start included, {os.cpu_count()} cores. As expected: for
`evaluated` the list that `evaluate` has kept, for `sequences` the one that `load` gives.

""" + table(("run, histories", "users", "seconds", "of these answering", "peak GB", "as expected"), calls)
    if indexes:
        text += "\n\nThe exported model in one process, exactly and by the index of `export --ann`:\n\n" + table(
            ("run", "users", "users/s, exact", "users/s, index", f"recall@{K}", "index, MB"), indexes)
    ledger.show(text)


if __name__ == "__main__":
    main()
