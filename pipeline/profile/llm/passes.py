"""The passes of an engine that asks: replay all users, ask what they want, replay those again, until nobody wants more.

Below the attempt: ``work/pass-NNN/rows`` (what the replays left), ``…/requests`` (each prompt once), ``…/known`` (the
answers known when the pass began, by reference), ``…/pending.parquet`` (who wants answers), ``…/split.json`` (written
last: the pass is replayed). Users whose profiles stand go to ``work/rows``. Killed anywhere, the same call goes on:
replayed blocks are kept by Ray Data's checkpoint, answers by the ledger.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.profile.llm.actor import FAILURES_FILE, INDEX_FILE, AnswerSnapshot, ReplayActor
from pipeline.profile.llm.cost import Estimate
from pipeline.profile.llm.inference import Backend, Failures, infer
from pipeline.profile.llm.ledger import Index, Ledger
from pipeline.profile.llm.progress import commonest
from pipeline.profile.llm.prompt_builder import PromptBuilder
from pipeline.profile.llm.refresh import why
from pipeline.profile.llm.split import PENDING, split_pass
from pipeline.store import rows
from pipeline.store.arrow import write_arrow
from pipeline.store.artifacts import Artifact, ArtifactDir
from pipeline.store.columns import ITEMS, REVIEWS, SIGNALS, USER_IDX
from pipeline.work.mapping import map_rows
from pipeline.work.progress import say

SHARED = f"{rows.WORK}/engine"
_MAX_PASSES = 10_000
"""Each pass settles a retry or a level of every user, so this is never met but by a defect."""
_FEW_USERS = 500
"""So many are replayed by this process itself: sooner than Ray has started an actor for them."""


@dataclass(frozen=True)
class Passes:
    """The passes of one attempt."""

    builder: PromptBuilder
    backend: Backend
    prepared: Artifact
    out: ArtifactDir
    ids: np.ndarray
    """Every user who gets a profile, ascending."""
    confirmed: bool
    """Whether the price was agreed to."""

    def run(self) -> dict[str, Any]:
        """Bring every user to a profile or a reason; returns facts for the manifest.

        Raises:
            ResourceError: the planned price needs a confirmation.
        """
        ledger, failures = Ledger.of(self.out.storage, self.builder.author), Failures(self.out)
        if failures.any():  # of an earlier command: what failed then is asked anew
            for name in self.out.storage.names(self.out.relative(rows.WORK)):
                if name.startswith("pass-") or name == "rows":
                    self.out.storage.delete(self.out.relative(f"{rows.WORK}/{name}"))
            failures.clear()
        facts, pending = self._shared(), self.ids
        totals: Counter[str] = Counter()
        refusals: Counter[str] = Counter()
        for number in range(_MAX_PASSES):
            folder = f"{rows.WORK}/pass-{number:03d}"
            split = self._replayed(folder, number, pending, ledger, failures)
            totals.update(split["settled"])
            refusals.update(split["refusals"])
            pending = self.out.storage.read_table(self.out.relative(f"{folder}/{PENDING}"))[USER_IDX].to_numpy()
            if number:
                self._tell_verdicts(number, len(pending), totals, refusals + Counter(split["refused_so_far"]))
            else:
                estimate = Estimate.nothing(self.builder.llm, ledger.speed).counting(split["estimate"])
                self._tell_plan(estimate, split, pending)
                if len(pending) and not self.confirmed:
                    estimate.demand_confirmation(self.builder.config.max_cost_without_confirm)
            if not len(pending):
                break
            infer(self.backend, self.out, folder, ledger, failures, number)
        return facts | {"requests": totals["requests"], "from_ledger": totals["reused"],
                        "asked": ledger.gather(self.out.attempt), "without_answer": failures.table().num_rows,
                        "retried": totals["retried"], "reasoning_cut": totals["reasoning"],
                        "gate": dict(sorted(refusals.items())),
                        "prompt_tokens": totals["prompt_tokens"], "output_tokens": totals["output_tokens"],
                        "interactions_left_out": totals["left_out"], "passes": number + 1,
                        "author": dict(self.builder.author.values), "ledger": ledger.folder}

    def _shared(self) -> dict[str, Any]:
        marker = f"{SHARED}.json"
        if not self.out.storage.exists(self.out.relative(marker)):
            with self.out.storage.upload_folder(self.out.relative(SHARED)) as folder:
                facts = self.builder.build(self.prepared, folder)
            self.out.write_json(marker, facts)
        return dict(self.out.storage.read_json(self.out.relative(marker)))

    def _replayed(self, folder: str, number: int, pending: np.ndarray, ledger: Ledger, failures: Failures
                  ) -> Mapping[str, Any]:
        """Replay the pending users, unless a call before has done so; returns what ``split.json`` holds."""
        split = self.out.relative(f"{folder}/split.json")
        if not all(map(self.out.storage.exists, (split, self.out.relative(f"{folder}/{PENDING}")))):
            known = self._known(folder, ledger, failures)
            columns = [USER_IDX, ITEMS, SIGNALS, *([REVIEWS] if self.builder.llm.prompt.reviews else [])]
            execution = self.builder.config.execution
            if number and len(pending) <= _FEW_USERS:
                execution = execution.model_copy(update={"actors": 0})
            map_rows(self.prepared.storage, self.prepared.relative("histories"), self.out, actor=ReplayActor,
                     arguments={"builder": self.builder, "out": self.out, "shared": SHARED, "known": known},
                     id_column=USER_IDX, columns=columns, num_rows=len(pending), execution=execution,
                     label=f"profile: writing prompts, pass {number + 1}", folder=folder,
                     only=pending if number or self.builder.config.users else None)
            parted = split_pass(self.out, folder, pending, Estimate.nothing(self.builder.llm, ledger.speed),
                                first=not number)
            self.out.storage.write_json(split, parted)
        return dict(self.out.storage.read_json(split))

    def _known(self, folder: str, ledger: Ledger, failures: Failures) -> AnswerSnapshot:
        inside = f"{folder}/known"
        marker = self.out.relative(f"{inside}.json")
        if not self.out.storage.exists(marker):
            with self.out.storage.upload_folder(self.out.relative(inside)) as local:
                index, failed = Index.build(ledger), failures.table()
                index.save(local / INDEX_FILE)
                write_arrow(local / FAILURES_FILE, failed)
            self.out.storage.write_json(marker, {"answers": len(index), "failures": failed.num_rows})
        return AnswerSnapshot(ledger, self.out.relative(inside))

    def _tell_plan(self, estimate: Estimate, split: Mapping[str, Any], pending: np.ndarray) -> None:
        if not len(pending):
            say(f"profile: nothing is to be asked; {split['settled'].get('requests', 0):,} answers are in the ledger")
            return
        say(f"profile: {len(self.ids):,} users; {len(pending):,} of them want {estimate.first:,} first "
            f"prompts, {estimate.first_known:,} answered in the ledger, {estimate.asked:,} to be asked")
        for line in estimate.lines():
            say(f"  {line}")
        for line in why(self.out, pending):
            say(f"  {line}")

    def _tell_verdicts(self, number: int, pending: int, totals: Counter[str], refusals: Counter[str]) -> None:
        """What became of the pass's answers."""
        refused = f"; answers refused so far: {commonest(refusals, most=len(refusals))}" if refusals else ""
        cut = f"; {totals['reasoning']:,} answers held reasoning, which is cut" if totals["reasoning"] else ""
        left = f"; {totals['left_out']:,} interactions are left out of their profiles" if totals["left_out"] else ""
        say(f"profile: pass {number}: {len(self.ids) - pending:,} of {len(self.ids):,} users are done, {pending:,} "
            f"want more{refused}{left}{cut}")
