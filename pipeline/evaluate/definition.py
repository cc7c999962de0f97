"""`evaluate` as plan, run and describe see it. Light: see :mod:`pipeline.stage`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.prepare.definition import TEST_FILE
from pipeline.stage import Columns, Resources, Stage, Step
from pipeline.store import columns as c
from pipeline.train.definition import recommenders

if TYPE_CHECKING:
    from pipeline.config import RunConfig
    from pipeline.evaluate.config import Baseline
    from pipeline.store.artifacts import Artifact, ArtifactDir, StageKey
    from pipeline.store.digests import DigestCache

ITEM_TEXTS = "encode/items"
"""Label of the step that the content baseline reads."""
RANKS = "ranks.parquet"
TOP_LISTS = "top.parquet"
HISTORY_LENGTH = "history_length"
"""Column: items of the history that was ranked from, int32."""
TARGET_COUNT = "target_count"
"""Column: training interactions of the target, int32."""
TOP, TOP_UNFILTERED = "top", "top_unfiltered"
"""Columns: the best items without those seen, and among all items; fixed_size_list<int32>."""
COLUMNS: Columns = {
    RANKS: (c.USER_IDX, c.TARGET, c.RANK, c.RANK_UNFILTERED, HISTORY_LENGTH, TARGET_COUNT),
    TOP_LISTS: (c.USER_IDX, TOP, TOP_UNFILTERED),
}


@dataclass(frozen=True, kw_only=True)
class EvaluateStep(Step):
    """A trained recommender → its ranks on the test users. ``inputs``: the prepared data, the `train` step."""

    def key(self, fingerprints: Mapping[str, str], digests: DigestCache) -> StageKey:
        from pipeline.evaluate.keys import key

        prepare, trained = self.inputs
        return key(self.config.evaluate, fingerprints[prepare], fingerprints[trained])

    def build(self, inputs: Mapping[str, Artifact], out: ArtifactDir, confirmed: bool) -> Artifact:
        from pipeline.evaluate.stage import evaluate_model

        prepare, trained = self.inputs
        return evaluate_model(self.config.evaluate, inputs[prepare], inputs[trained], out)

    def needs_ray(self, inputs: Mapping[str, Artifact]) -> bool:
        return self.config.evaluate.execution.workers > 0


@dataclass(frozen=True, kw_only=True)
class BaselineStep(EvaluateStep):
    """A baseline, fitted on the training part → its ranks on the test users."""

    inputs: tuple[str, ...] = ("prepare",)
    baseline: Baseline

    def key(self, fingerprints: Mapping[str, str], digests: DigestCache) -> StageKey:
        from pipeline.evaluate.keys import BASELINE, key

        return key(self.config.evaluate, fingerprints["prepare"], f"{BASELINE}{self.baseline}",
                   fingerprints.get(ITEM_TEXTS))

    def build(self, inputs: Mapping[str, Artifact], out: ArtifactDir, confirmed: bool) -> Artifact:
        from pipeline.evaluate.stage import evaluate_baseline

        return evaluate_baseline(self.config.evaluate, self.baseline, inputs["prepare"], out, inputs.get(ITEM_TEXTS))


def _steps(config: RunConfig) -> Iterator[Step]:
    for step in recommenders(config):
        yield EvaluateStep(config=config, label=step.label.replace("train", "evaluate", 1),
                           inputs=("prepare", step.label))
    for name in config.evaluate.baselines:
        yield BaselineStep(config=config, label=f"evaluate/baseline/{name}", baseline=name,
                           inputs=("prepare", ITEM_TEXTS) if name == "content" else ("prepare",))


def _resources(config: RunConfig) -> Resources:
    tasks = config.evaluate.execution
    return Resources(tasks.workers, 1.0, float(tasks.use_gpu), others=tasks.others)


EVALUATE = Stage(
    name="evaluate",
    help="Up to ranks and metrics on the test users.",
    needs={TEST_FILE: (c.USER_IDX, c.HISTORY, c.TARGET), "model/model.safetensors": ()},
    makes=COLUMNS,
    steps=_steps,
    wanted="always",
    resources=_resources,
)
