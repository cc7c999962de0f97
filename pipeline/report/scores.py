"""The figures of the tables: means over users and seeds, paired differences, slices.

Legend: S seeds, N test users, M metrics.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from models import metrics
from pipeline.family import beside, compared
from pipeline.report.config import ReportConfig
from pipeline.report.effects import COLD_START, Groups
from pipeline.report.ranks import PROTOCOLS, Cases, Protocol, Ranked
from pipeline.report.significance import halves, holm, sign_flip_p
from pipeline.report.statistics import intervals, mean_and_deviation

_CONTENT = "content"
"""The baseline that knows an item without interactions as well as any."""
_ROUNDING = 1e-12
"""What a mean over seeds that is zero may be off by."""


@dataclass(frozen=True)
class Answers:
    """All recommenders of a run, ranked on the same cases."""

    cases: Cases
    arms: Mapping[str, Mapping[int, Ranked]]
    """Arm → seed → answers."""
    baselines: Mapping[str, Ranked]
    cutoffs: tuple[int, ...]
    control_for: Mapping[str, str | None]
    """Arm → the arm that it is a control for; None: it is no control."""

    @property
    def cutoff(self) -> int:
        """The K of the metrics that stand for all: 10 where it is computed."""
        return 10 if 10 in self.cutoffs else self.cutoffs[-1]

    def means(self) -> dict[str, Any]:
        """``arms`` with mean, deviation and every seed's value, and ``baselines``, under both protocols."""
        arms = {arm: {protocol: _over_seeds({str(seed): self._figures(ranked, protocol)
                                             for seed, ranked in seeds.items()})
                      for protocol in PROTOCOLS} for arm, seeds in self.arms.items()}
        baselines = {name: {protocol: self._figures(ranked, protocol) for protocol in PROTOCOLS}
                     for name, ranked in self.baselines.items()}
        return {"arms": arms, "baselines": baselines}

    def _figures(self, ranked: Ranked, protocol: Protocol) -> dict[str, float]:
        return metrics.mean(ranked.per_user(protocol, self.cutoffs)) | ranked.listed[protocol]

    def differences(self, config: ReportConfig) -> list[dict[str, Any]]:
        """Paired differences between arms: every metric, both protocols; all pairs share the resamples."""
        arms = list(self.arms)
        pairs = [*compared(arms, self.control_for), *beside(arms, self.control_for)]
        if not pairs:
            return []
        return [row for protocol in PROTOCOLS for row in self._differences(protocol, pairs, config)]

    def claims(self, protocol: Protocol, config: ReportConfig) -> dict[str, Any] | None:
        """The family of tested comparisons on the primary metric, and an A/A comparison of the plain arm with itself.

        A gain is shown where its interval lies above 0 and its p value, corrected for the family, is below 1 -
        confidence; with several seeds p is the larger of that of other users of these models and that of other users
        and seeds. Flips are at least so many that the smallest corrected p is a tenth of the level.
        """
        family = compared(list(self.arms), self.control_for)
        if not family:
            return None
        metric, level = f"ndcg@{self.cutoff}", 1 - config.confidence
        values = {arm: self._values(arm, protocol)[metric] for arm in self.arms}
        changes = [values[first] - values[second] for first, second in family]
        flips = max(config.permutations, math.ceil(10 * len(family) / level))
        rows = [{"first": first, "second": second, **self._tested(change_SN, values[second], flips, config)}
                for (first, second), change_SN in zip(family, changes, strict=True)]
        for row, adjusted in zip(rows, holm([row["p"] for row in rows]), strict=True):
            row |= {"p_holm": adjusted, "shown": row["verdict"] == "above 0" and adjusted < level,
                    "worse": row["verdict"] == "below 0" and adjusted < level}
        same = halves(values["plain"]) if "plain" in values else None
        chance = None
        if same is not None:
            row = self._tested(same, values["plain"], flips, config)
            testable = len(same) > 1
            chance = {**row, "p_holm": row["p"], "seeds": len(same), "testable": testable,
                      "shown": testable and row["verdict"] in ("above 0", "below 0") and row["p"] < level}
        return {"metric": metric, "level": level, "permutations": flips, "rows": rows, "chance": chance}

    def _tested(self, change_SN: np.ndarray, base_SN: np.ndarray, flips: int, config: ReportConfig) -> dict[str, Any]:
        row = intervals(change_SN[:, :, None], config.bootstrap_samples, config.confidence, config.seed)[0]
        base, p = float(base_SN.mean()), sign_flip_p(change_SN.mean(0), flips, config.seed)
        return {"mean": row.mean, "low": row.low, "high": row.high, "verdict": row.verdict,
                "relative": row.mean / base if base > 0 else None,
                "p": max(p, row.p) if len(change_SN) > 1 else p}

    def _differences(self, protocol: Protocol, pairs: list[tuple[str, str]], config: ReportConfig
                     ) -> Iterator[dict[str, Any]]:
        values = {arm: self._values(arm, protocol) for arm in self.arms}
        names = [(first, second, metric) for first, second in pairs for metric in values[first]]
        change_SNM = np.stack([values[a][metric] - values[b][metric] for a, b, metric in names], axis=2)
        found = intervals(change_SNM, config.bootstrap_samples, config.confidence, config.seed)
        per_user_NM = change_SNM.mean(axis=0)
        for m, ((first, second, metric), row) in enumerate(zip(names, found, strict=True)):
            base = float(values[second][metric].mean())
            yield {"first": first, "second": second, "protocol": protocol, "metric": metric, "mean": row.mean,
                   "low": row.low, "high": row.high, "verdict": row.verdict, "share_above_zero": row.share_above_zero,
                   "relative": row.mean / base if base > 0 else None,
                   "better_users": float((per_user_NM[:, m] > _ROUNDING).mean()),
                   "worse_users": float((per_user_NM[:, m] < -_ROUNDING).mean())}

    def _values(self, arm: str, protocol: Protocol) -> dict[str, np.ndarray]:
        """Metric → values of every seed and user, fp64 [S, N]."""
        per_seed = [ranked.per_user(protocol, self.cutoffs) for ranked in self.arms[arm].values()]
        return {name: np.stack([values[name] for values in per_seed]) for name in per_seed[0]}

    def effects(self, protocol: Protocol, groups: Groups, config: ReportConfig) -> dict[str, list[dict[str, Any]]]:
        """Paired differences in every slice: of each arm with a teacher against the plain one, and among cold targets
        of all pairs and against the texts alone, there also in recall."""
        arms = list(self.arms)
        pairs, main = compared(arms, self.control_for), f"ndcg@{self.cutoff}"
        values = {arm: self._values(arm, protocol) for arm in arms}
        if _CONTENT in self.baselines:
            values[_CONTENT] = {name: each_N[None] for name, each_N in
                                self.baselines[_CONTENT].per_user(protocol, self.cutoffs).items()}
        found = {}
        for kind, slices in groups.items():
            cold = kind == COLD_START
            shown = [*pairs, *beside(arms, self.control_for), *((arm, _CONTENT) for arm in arms if _CONTENT in values)
                     ] if cold else [p for p in pairs if p[1] == "plain"]
            names = [(*pair, name) for pair in shown for name in ([f"recall@{self.cutoff}", main] if cold else [main])]
            if names:
                change_SNM = np.stack([values[a][name] - values[b][name] for a, b, name in names], axis=2)
                found[kind] = [
                    {"label": label, "users": int(mask_N.sum()), "first": first, "second": second, "metric": name,
                     "mean": row.mean, "low": row.low, "high": row.high, "verdict": row.verdict}
                    for label, mask_N in slices.items() for (first, second, name), row in zip(names, intervals(
                        change_SNM[:, mask_N], config.bootstrap_samples, config.confidence, config.seed,
                        self.cases.targets_N[mask_N] if cold else None), strict=True)]
        return found

    def slices(self, protocol: Protocol, groups: Groups) -> dict[str, list[dict[str, Any]]]:
        """Recall and NDCG of every recommender in every slice."""
        shown = (f"recall@{self.cutoff}", f"ndcg@{self.cutoff}")
        values: dict[str, dict[str, np.ndarray]] = {}
        for arm in self.arms:
            values[arm] = {name: v.mean(axis=0) for name, v in self._values(arm, protocol).items() if name in shown}
        for name, ranked in self.baselines.items():
            values[name] = {k: v for k, v in ranked.per_user(protocol, self.cutoffs).items() if k in shown}
        return {kind: [{"label": label, "users": int(mask_N.sum()),
                        **{metric: {who: float(v[metric][mask_N].mean()) for who, v in values.items()}
                           for metric in shown}} for label, mask_N in slices.items()]
                for kind, slices in groups.items()}


def _over_seeds(by_seed: dict[str, dict[str, float]]) -> dict[str, Any]:
    names = next(iter(by_seed.values()))
    figures = {}
    for name in names:
        mean, deviation = mean_and_deviation([values[name] for values in by_seed.values()])
        figures[name] = {"mean": mean, "sd": deviation, "seeds": {seed: v[name] for seed, v in by_seed.items()}}
    return figures
