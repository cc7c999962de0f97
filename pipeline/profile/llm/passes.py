"""The passes of an engine that asks: play all users, ask what they want, play those again, until nobody wants more.

Below the attempt: ``work/pass-NNN/rows`` (what the players left), ``…/requests`` (each prompt once), ``…/known`` (the
answers of the pass's beginning, by reference), ``…/split.json`` (written last: the pass is played). Users whose
profiles stand go to ``work/rows``. Killed anywhere, the same call goes on: played blocks are kept by Ray Data's
checkpoint, answers by the ledger.

Legend: N users, K requests.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.profile.llm import asking
from pipeline.profile.llm.actor import (
    FAILURES_FILE,
    HISTORY,
    INDEX_FILE,
    LEAVES,
    REFUSALS,
    SPENT,
    WANTED,
    Known,
    PlayActor,
)
from pipeline.profile.llm.asking import Asker, Failures
from pipeline.profile.llm.cost import Estimate
from pipeline.profile.llm.kit import Kit
from pipeline.profile.llm.ledger import Index, Ledger, heads_of
from pipeline.profile.llm.refresh import FIRST_PASS, why
from pipeline.profile.llm.requests import REQUEST
from pipeline.store import rows
from pipeline.store.arrow import write_arrow
from pipeline.store.artifacts import Artifact, ArtifactDir
from pipeline.store.columns import ANGLE, ITEMS, PROFILE, REASON, REVIEWS, SIGNALS, USER_IDX
from pipeline.work.mapping import map_rows
from pipeline.work.progress import say

SHARED = f"{rows.WORK}/engine"
_PART_USERS = 5000
_MAX_PASSES = 10_000
"""Each pass settles a retry or a level of every user, so this is never met but by a defect."""


@dataclass(frozen=True)
class Passes:
    """The passes of one attempt."""

    kit: Kit
    asker: Asker
    prepared: Artifact
    out: ArtifactDir
    ids: np.ndarray
    """Every user, ascending."""
    confirmed: bool
    """Whether the price was agreed to."""

    def run(self) -> dict[str, Any]:
        """Bring every user to a profile or a reason; returns facts for the manifest.

        Raises:
            ResourceError: the planned price needs a confirmation.
        """
        ledger, failures = Ledger.of(self.out.storage, self.kit.author), Failures(self.out)
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
            split = self._played(folder, number, pending, ledger, failures)
            totals.update(split["settled"])
            refusals.update(split["refusals"])
            pending = np.array(split["pending"], np.int64)
            if number == 0:
                estimate = Estimate(**split["estimate"])
                self._tell_plan(estimate, split)
                if len(pending) and not self.confirmed:
                    estimate.demand_confirmation(self.kit.config.max_cost_without_confirm)
            if not len(pending):
                break
            asking.ask(self.asker, self.out, folder, ledger, failures, number)
        return facts | {"requests": totals["requests"], "from_ledger": totals["reused"],
                        "asked": ledger.gather(self.out.attempt), "without_answer": failures.table().num_rows,
                        "retried": totals["retried"], "gate": dict(sorted(refusals.items())),
                        "prompt_tokens": totals["prompt_tokens"], "output_tokens": totals["output_tokens"],
                        "interactions_left_out": totals["left_out"], "passes": number + 1,
                        "author": dict(self.kit.author.values), "ledger": ledger.folder}

    def _shared(self) -> dict[str, Any]:
        marker = f"{SHARED}.json"
        if not self.out.storage.exists(self.out.relative(marker)):
            with self.out.storage.upload_folder(self.out.relative(SHARED)) as folder:
                facts = self.kit.build(self.prepared, folder)
            self.out.write_json(marker, facts)
        return dict(self.out.storage.read_json(self.out.relative(marker)))

    def _played(self, folder: str, number: int, pending: np.ndarray, ledger: Ledger, failures: Failures
                ) -> Mapping[str, Any]:
        """Play the pending users, unless a call before has done so; returns what ``split.json`` holds."""
        split = self.out.relative(f"{folder}/split.json")
        if not self.out.storage.exists(split):
            known = self._known(folder, ledger, failures)
            columns = [USER_IDX, ITEMS, SIGNALS, *([REVIEWS] if self.kit.llm.prompt.reviews else [])]
            map_rows(self.prepared.storage, self.prepared.relative("histories"), self.out, actor=PlayActor,
                     arguments={"kit": self.kit, "out": self.out, "shared": SHARED, "known": known},
                     id_column=USER_IDX, columns=columns, num_rows=len(pending), execution=self.kit.config.execution,
                     label=f"profile: writing prompts, pass {number + 1}", folder=folder,
                     only=pending if number else None)
            self.out.storage.write_json(split, self._split(folder, number, pending))
        return dict(self.out.storage.read_json(split))

    def _known(self, folder: str, ledger: Ledger, failures: Failures) -> Known:
        inside = f"{folder}/known"
        if not self.out.storage.exists(self.out.relative(f"{inside}/{FAILURES_FILE}")):
            with self.out.storage.upload_folder(self.out.relative(inside)) as local:
                Index.build(ledger).save(local / INDEX_FILE)
                write_arrow(local / FAILURES_FILE, failures.table())
        return Known(ledger, self.out.relative(inside))

    def _split(self, folder: str, number: int, pending: np.ndarray) -> dict[str, Any]:
        """Part the users who stand from those who want more; one part of the users is in memory at once."""
        settled: Counter[str] = Counter()
        refusals: Counter[str] = Counter()
        waiting: list[np.ndarray] = []
        estimate = Estimate.nothing(self.kit.llm)
        met = np.zeros(0, np.uint64)
        for place, part in enumerate(rows.sorted_parts(self.out, USER_IDX, pending, _PART_USERS,
                                                       rows.rows_of(folder))):
            wants = pc.greater(pc.list_value_length(part[WANTED]), 0)
            stand, more = part.filter(pc.invert(wants)), part.filter(wants)
            settled.update({name: int(pc.sum(stand[name]).as_py() or 0) for name in SPENT})
            refusals.update(pc.list_flatten(stand[REFUSALS]).to_pylist())
            if stand.num_rows:
                name = f"{rows.RAW}/{folder.rpartition('/')[2]}-{place:05d}.parquet"
                self.out.write_table(name, stand.select([USER_IDX, ANGLE, PROFILE, REASON]))
            if more.num_rows:
                waiting.append(more[USER_IDX].to_numpy())
                wanted = pc.list_flatten(more[WANTED]).combine_chunks()
                requests = pa.Table.from_arrays(wanted.flatten(), names=[field.name for field in wanted.type])
                heads = heads_of(requests[REQUEST].to_pylist())
                _, first = np.unique(heads, return_index=True)
                first = np.sort(first[~np.isin(heads[first], met)])
                met = np.union1d(met, heads[first])
                requests = requests.take(first)
                self.out.write_table(f"{folder}/requests/part-{place:05d}.parquet", requests, row_group_size=500,
                                     compression="zstd")
                estimate = estimate.plus(more, requests)
            if number == 0:
                rows.write_part(self.out, FIRST_PASS, place, part.select([USER_IDX, ANGLE, HISTORY, LEAVES]))
        return {"settled": dict(settled), "refusals": dict(refusals), "requests": len(met),
                "estimate": estimate.values(),
                "pending": np.concatenate([*waiting, np.zeros(0, np.int64)]).tolist()}

    def _tell_plan(self, estimate: Estimate, split: Mapping[str, Any]) -> None:
        if not len(split["pending"]):
            say(f"profile: nothing is to be asked; {split['settled'].get('requests', 0):,} answers are in the ledger")
            return
        say(f"profile: {len(self.ids):,} users; {len(split['pending']):,} of them want {estimate.first:,} first "
            f"prompts, {estimate.first_known:,} answered in the ledger, {estimate.asked:,} to be asked")
        for line in estimate.lines():
            say(f"  {line}")
        for line in why(self.out, np.array(split["pending"], np.int64)):
            say(f"  {line}")

