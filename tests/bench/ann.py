"""`make bench-ann RUN=FOLDER`: which index gives lists that miss little, at what size and speed.

The item vectors and the users' states are those of a trained run. Each kind of index is searched harder and harder
until it finds ``TARGET`` of the exact lists' items. usearch is measured where it is installed.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from pipeline.api.loading import find_trained, load, prepared_of
from pipeline.store import arrays
from tests.bench.ledger import Ledger
from tests.bench.pages import RESULTS, table

K, TARGET, ONE_BY_ONE = 10, 0.99, 500
EFFORTS = (32, 64, 128, 256, 512, 1024)
MIB = 2**20


class Index(NamedTuple):
    """A built index: items (0…) of largest inner product, how hard to look, how large it is."""

    search: Callable[[np.ndarray, int], np.ndarray]
    size: int


def main() -> None:
    """Measure every kind on one run's vectors."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", help="a run's folder, such as results/runs/demo")
    parser.add_argument("--name", help="of the vectors in the table; default: the run's")
    parser.add_argument("--users", type=int, default=5000)
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="FOLDER")
    parser.add_argument("--again", action="store_true", help="measure finished parts anew")
    given = parser.parse_args()
    ledger = Ledger("ann", given.results, given.again)
    items_VD, states_ND = vectors(given.run, given.users)
    name = given.name or given.run.rstrip("/").rpartition("/")[2]
    exact_NK = exact(items_VD, states_ND)
    ledger.run(f"{name}/exact", partial(of_exact, items_VD, states_ND))
    for kind, build in KINDS.items():
        if kind.startswith("usearch") and importlib.util.find_spec("usearch") is None:
            continue
        ledger.run(f"{name}/{kind}", partial(of_index, build, items_VD, states_ND, exact_NK))
        _write(ledger)


def vectors(run: str, users: int) -> tuple[np.ndarray, np.ndarray]:
    """Item vectors of a run's model, fp32 [V, D], and states of its test users, fp32 [N, D]."""
    trained = find_trained(str(Path(run).expanduser().absolute())).artifact
    histories = arrays.cases(prepared_of(trained).local("test.arrow")).histories
    recommender = load(trained, None, None, "cpu")
    scorer = recommender._scorer
    chosen = np.sort(np.random.default_rng(0).choice(len(histories), min(users, len(histories)), replace=False))
    return scorer.catalogue(0).items_VD.numpy(), scorer.states(histories, chosen).numpy()


def exact(items_VD: np.ndarray, states_ND: np.ndarray) -> np.ndarray:
    """Items (0…) of the ``K`` largest inner products, [N, K]."""
    items_VD_, found = torch.from_numpy(items_VD), []
    for start in range(0, len(states_ND), 256):
        found.append((torch.from_numpy(states_ND[start : start + 256]) @ items_VD_.T).topk(K).indices.numpy())
    return np.concatenate(found)


def of_exact(items_VD: np.ndarray, states_ND: np.ndarray) -> dict[str, Any]:
    """What an index competes with."""
    return {"items": len(items_VD), "width": items_VD.shape[1], "recall": 1.0, "effort": None, "build_seconds": 0.0,
            "mib": round(items_VD.nbytes / MIB, 1),
            **_speeds(lambda states, _: exact(items_VD, states), states_ND, 0)}


def of_index(build: Callable[[np.ndarray], Index], items_VD: np.ndarray, states_ND: np.ndarray, exact_NK: np.ndarray
             ) -> dict[str, Any]:
    """The least effort that reaches the target, or the greatest."""
    started = time.perf_counter()
    index = build(items_VD)
    built = time.perf_counter() - started
    sweep = {}
    for effort in EFFORTS:
        found_NK = index.search(states_ND, effort)
        sweep[effort] = round(float(np.mean([len(np.intersect1d(a, b)) for a, b in zip(found_NK, exact_NK, strict=True)
                                             ]) / K), 4)
        if sweep[effort] >= TARGET:
            break
    return {"items": len(items_VD), "width": items_VD.shape[1], "recall": sweep[effort], "effort": effort,
            "recall_by_effort": sweep, "build_seconds": round(built, 1), "mib": round(index.size / MIB, 1),
            **_speeds(index.search, states_ND, effort)}


def _speeds(search: Callable[[np.ndarray, int], np.ndarray], states_ND: np.ndarray, effort: int) -> dict[str, float]:
    started = time.perf_counter()
    search(states_ND, effort)
    together = len(states_ND) / (time.perf_counter() - started)
    waits = []
    for row in range(min(ONE_BY_ONE, len(states_ND))):
        started = time.perf_counter()
        search(states_ND[row : row + 1], effort)
        waits.append(time.perf_counter() - started)
    return {"users_per_second": round(together), "one_user_ms": round(1000 * float(np.median(waits)), 3)}


def _faiss(description: str, parameter: str) -> Callable[[np.ndarray], Index]:
    """By faiss's own description of an index; the effort is the parameter of that name."""

    def build(items_VD: np.ndarray) -> Index:
        import faiss

        lists = max(16, int(4 * len(items_VD) ** 0.5))
        index = faiss.index_factory(items_VD.shape[1], description.format(lists=lists), faiss.METRIC_INNER_PRODUCT)
        if parameter == "efSearch":
            index.hnsw.efConstruction = 200
        index.train(items_VD)
        index.add(items_VD)

        def search(states_ND: np.ndarray, effort: int) -> np.ndarray:
            faiss.ParameterSpace().set_index_parameter(index, parameter, effort)
            found: np.ndarray = index.search(states_ND, K)[1]
            return found

        return Index(search, len(faiss.serialize_index(index)))

    return build


def _usearch(dtype: str) -> Callable[[np.ndarray], Index]:
    def build(items_VD: np.ndarray) -> Index:
        from usearch.index import Index as Graph

        graph = Graph(ndim=items_VD.shape[1], metric="ip", dtype=dtype, connectivity=32, expansion_add=200)
        graph.add(np.arange(len(items_VD)), items_VD)

        def search(states_ND: np.ndarray, effort: int) -> np.ndarray:
            graph.expansion_search = effort
            return np.asarray(graph.search(states_ND, K).keys).reshape(len(states_ND), -1)[:, :K]

        with tempfile.NamedTemporaryFile() as file:
            graph.save(file.name)
            return Index(search, os.path.getsize(file.name))

    return build


KINDS: dict[str, Callable[[np.ndarray], Index]] = {
    "faiss HNSW32": _faiss("HNSW32", "efSearch"), "faiss HNSW32, 8 bits": _faiss("HNSW32_SQ8", "efSearch"),
    "faiss HNSW16": _faiss("HNSW16", "efSearch"), "faiss IVF": _faiss("IVF{lists},Flat", "nprobe"),
    "faiss IVF, 8 bits": _faiss("IVF{lists},SQ8", "nprobe"), "usearch, 32 bits": _usearch("f32"),
    "usearch, 16 bits": _usearch("f16"), "usearch, 8 bits": _usearch("i8")}


def _write(ledger: Ledger) -> None:
    rows: list[Sequence[object]] = []
    for run, found in ledger.figures().items():
        name, _, kind = run.partition("/")
        rows.append((f"{name}, {found['items']:,} items", kind, found["effort"] or "", f"{found['recall']:.4f}",
                     f"{found['mib']:,}", found["build_seconds"], f"{found['users_per_second']:,}",
                     found["one_user_ms"]))
    ledger.show(f"""## Approximate lists

recall@{K} against exact lists over the whole catalogue, states of test users, {os.cpu_count()} threads; effort: the
least of {', '.join(map(str, EFFORTS))} (efSearch, nprobe, expansion_search) that reaches {TARGET}, or the greatest.

""" + table(("vectors", "kind", "effort", "recall", "MiB", "build, s", "users/s", "one user, ms"), rows))


if __name__ == "__main__":
    main()
