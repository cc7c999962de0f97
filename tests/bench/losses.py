"""`make bench-losses`: what sampling costs in quality: the tuned SASRec on Beauty, trained to its end with each loss.

Validation alone decides and is all that is shown; the test part is not opened. One thread, one seed.
"""

from __future__ import annotations

import argparse
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from configs.loader import load
from pipeline.config import RunConfig
from pipeline.store.artifacts import begin, find
from pipeline.train.keys import key
from pipeline.train.stage import train
from tests.bench.beauty import prepare_beauty
from tests.bench.ledger import Ledger
from tests.bench.pages import RESULTS, check_parts, table, verdict

CONFIG = "configs/beauty/sasrec.yaml"
FULL, TARGET, METRIC = "softmax", 0.98, "ndcg@10"
LOSSES: dict[str, dict[str, Any]] = {
    FULL: {"kind": "softmax"},
    "sampled-512": {"kind": "sampled_softmax", "negatives": 512},
    "sampled-512-popularity": {"kind": "sampled_softmax", "negatives": 512, "source": "popularity"},
    "sampled-2048": {"kind": "sampled_softmax", "negatives": 2048},
}


def main() -> None:
    """Train with the losses that are named, or with all, and write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("losses", nargs="*", metavar="LOSS", help=f"any of {', '.join(LOSSES)}; none: all")
    parser.add_argument("--epochs", type=int, help="at most; for a trial")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scratch", type=Path, default=Path(tempfile.gettempdir()) / "mentorec-bench-losses",
                        metavar="FOLDER", help="a storage root: it keeps the trainings, whole or begun, between calls")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="FOLDER")
    parser.add_argument("--again", action="store_true", help="look at finished trainings anew")
    given = parser.parse_args()
    check_parts(parser, given.losses, LOSSES)
    ledger = Ledger("losses", given.results, given.again)
    for loss in given.losses or LOSSES:
        ledger.run(loss, partial(measure, loss, given))
        _write(ledger)


def measure(loss: str, given: argparse.Namespace) -> dict[str, Any]:
    """Train to the end, or find the model, and read how it validated."""
    overrides = [f"train.loss={LOSSES[loss]}"]
    if given.epochs:
        overrides += [f"train.epochs={given.epochs}", "train.distill_epochs=0"]
    config = load(RunConfig, CONFIG, [*overrides, "train.execution.num_workers=0",
                                      "train.execution.threads_per_worker=1"])
    prepared = prepare_beauty(given.scratch.resolve())
    storage = prepared.storage
    stage_key = key(config.train, config.model, "plain", given.seed, prepared.fingerprint, None)
    trained = find(storage, stage_key) or train(config.train, config.model, "plain", given.seed, prepared, None,
                                                begin(storage, stage_key))
    info = trained.manifest.info
    return {"seed": given.seed, "validation": info["validation"],
            **{name: info[name] for name in ("best_epoch", "epochs", "steps", "stopped_early")}}


def _write(ledger: Ledger) -> None:
    found = ledger.figures()
    full = found[FULL]["validation"][METRIC] if FULL in found else None
    rows = []
    for name, each in sorted(found.items(), key=lambda pair: [*LOSSES].index(pair[0])):
        value = each["validation"][METRIC]
        share = value / full if full else None
        rows.append((name, f"{value:.4f}", "" if share is None else f"{100 * share:.1f} %",
                     verdict(None if share is None or name == FULL else share >= TARGET),
                     f"{each['best_epoch']} of {each['epochs']}"))
    ledger.show("\n\n".join([
        "## Losses at convergence",
        f"Real Beauty data, `{CONFIG}`, the plain arm trained to its end on one thread, seed "
        f"{', '.join(sorted({str(each['seed']) for each in found.values()}))}; validation NDCG@10 of the chosen epoch "
        f"(target for sampled losses: {100 * TARGET:g} % of the full softmax's).",
        table(("loss", "validation NDCG@10", "of the full softmax's", "met", "epoch"), rows)]))


if __name__ == "__main__":
    main()
