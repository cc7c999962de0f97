"""The section of `make bench-peers` on the page of benchmarks."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from tests.bench.ledger import Ledger
from tests.bench.pages import table, verdict

SPEED_TARGET, MEMORY_TARGET, SAMPLED_TARGET, RANK_TARGET = 25.0, 2.0, 2.5, 5.0
OURS = "mentorec"
FULL = (OURS, f"{OURS}-bf16")
"""Ours with the full softmax and the batches of the others."""
SMALL = f"{OURS}-22-users"
GIB = 2**30
Figures = Mapping[str, Mapping[str, Any]]


def write(ledger: Ledger, hyperparameters: Mapping[str, Any]) -> None:
    """Everything that is measured so far."""
    settings = ", ".join(f"{name} {value}" for name, value in hyperparameters.items())
    parts = ["## Training and ranking beside RecTools, RePlay and RecBole",
             "Real Beauty data (5-core, leave-one-out, 22,363 users, 12,101 items), SASRec, full softmax; our code as "
             f"shipped, and all libraries with {settings}. Each library in a process and an environment of its own, "
             "asked for slices of an epoch in turn, two rounds, scaled to the epoch; a slice of ours is a whole epoch. "
             "Memory: peak resident bytes above the imports' own. RecBole trains on every prefix as a sample of its "
             "own, 128 to a batch. Variants of ours: bf16 rounds the factors of the loss's products; sampled is a "
             "softmax over shared sampled negatives; 22-users makes as many optimizer steps of as many targets as "
             "RecBole."]
    for threads in ("1", "2"):
        slices = ledger.figures(f"slices-{threads}").get("")
        ranks = ledger.figures(f"rank-{threads}").get("")
        if slices or ranks:
            parts.append(f"**{threads} thread{'s' if threads == '2' else ''}**")
            parts.append(_table(slices or {}, ranks or {}))
        if slices and OURS in slices:
            parts.append(_targets(slices, ranks or {}))
    fits = ledger.figures("fit-")
    if fits:
        epochs = next(iter(fits.values()))["epochs"]
        parts.append(f"Validation after {epochs} epochs (one thread, once; lists of ten by each library's own "
                     "recommending, seen items removed, measured by the same code):")
        parts.append(table(("library", "NDCG@10", "recall@10", "training CPU-s", "versions"), [
            (name, f"{each['ndcg@10']:.4f}", f"{each['recall@10']:.4f}", f"{each['fit']['cpu_s']:.0f}",
             ", ".join(f"{k} {v}" for k, v in each["versions"].items())) for name, each in fits.items()]))
        peers = [each["ndcg@10"] for name, each in fits.items() if not name.startswith(OURS)]
        if peers and OURS in fits:
            own = fits[OURS]
            parts.append(f"NDCG@10 not below the best peer's: {verdict(own['ndcg@10'] >= max(peers))}. Ranks of all "
                         f"users unlike a dense product in double precision: {own['ranks_unlike_dense']} of "
                         f"{own['users']:,}; lists that differ between fp32 and bf16: "
                         f"{own['top10_unlike_between_fp32_and_bf16']}.")
            if SMALL in fits:
                small = fits[SMALL]["ndcg@10"]
                parts.append(f"With RecBole's number of steps ({SMALL}) NDCG@10 not below the best peer's: "
                             f"{verdict(small >= max(peers))}.")
    reach = ledger.figures("reach").get("")
    if reach:
        verb = "reaches" if reach["reached"] else "does not reach"
        parts.append(f"An epoch is not the same number of optimizer steps everywhere (RecBole makes one of every 128 "
                     f"prefixes, ours one of every 128 users), so also by time: ours {verb} the "
                     f"{reach['goal']:.4f} that {reach['peer']} has after {reach['peer_cpu_s']:.0f} CPU-s in "
                     f"{reach['cpu_s']:.0f} CPU-s ({reach['epochs']} epochs, a validation after each included).")
    worker = ledger.figures("worker").get("")
    if worker:
        parts.append(f"The same training by one Ray Train worker, one thread: {worker['epoch_wall_s']:.1f} s per "
                     f"epoch, the worker process {worker['worker_bytes'] / GIB:.2f} GiB with its imports.")
    ledger.show("\n\n".join(parts))


def _table(slices: Figures, ranks: Figures) -> str:
    rows = []
    for name in dict.fromkeys([*slices, *ranks]):
        train, rank = slices.get(name), ranks.get(name)
        rows.append((
            name, *((f"{train['epoch_cpu_s']:.1f}", f"{train['epoch_wall_s']:.1f}",
                     f"{train['peak_bytes'] / GIB:.2f}", f"{train['imports_bytes'] / GIB:.2f}") if train else "––––"),
            *((f"{rank['cpu_s']:.2f}", f"{rank['wall_s']:.2f}", f"{rank['peak_bytes'] / GIB:.2f}") if rank else "–––")))
    return table(("library", "epoch CPU-s", "epoch s", "peak GiB", "imports GiB", "top-10 of all CPU-s", "s",
                  "peak GiB"), rows)


def _targets(slices: Figures, ranks: Figures) -> str:
    own = slices[OURS]
    peers = {name: each for name, each in slices.items() if not name.startswith(OURS)}
    lines = []
    for name in [each for each in FULL if peers and each in slices]:
        memory = min(each["peak_bytes"] for each in peers.values()) / slices[name]["peak_bytes"]
        lines += [f"{name}, epoch: " + _faster(peers.values(), slices[name], "epoch_", SPEED_TARGET),
                  f"{name}, memory: {memory:.1f} × less than the leanest peer (target {MEMORY_TARGET:g}): "
                  f"{verdict(memory >= MEMORY_TARGET)}"]
    if f"{OURS}-sampled" in slices:
        sampled = own["epoch_cpu_s"] / slices[f"{OURS}-sampled"]["epoch_cpu_s"]
        lines.append(f"sampled softmax: a further {sampled:.1f} × (target {SAMPLED_TARGET:g}): "
                     f"{verdict(sampled >= SAMPLED_TARGET)}")
    others = [each for name, each in ranks.items() if not name.startswith(OURS)]
    if OURS in ranks and others:
        lines.append("ranking: " + _faster(others, ranks[OURS], "", RANK_TARGET))
    return "\n".join(f"- {line}" for line in lines)


def _faster(peers: Collection[Mapping[str, Any]], own: Mapping[str, Any], kind: str, target: float) -> str:
    """Than the fastest peer by either clock; on one thread they agree."""
    found = []
    for clock, words in (("cpu_s", "CPU-seconds"), ("wall_s", "seconds")):
        ratio = min(each[kind + clock] for each in peers) / own[kind + clock]
        found.append(f"{ratio:.1f} × by {words}: {verdict(ratio >= target)}")
    return f"{', '.join(found)} (times the fastest peer's speed, target {target:g})"
