"""The root of all settings of a run."""

from __future__ import annotations

import re

from pydantic import Field, field_validator, model_validator

from cluster.config import ClusterConfig, StorageConfig
from configs.base import Config
from models.config import ModelConfig, SASRecConfig
from pipeline.audit.config import AuditConfig
from pipeline.encode.config import EncodeConfig
from pipeline.evaluate.config import EvaluateConfig
from pipeline.prepare.config import PrepareConfig
from pipeline.profile.config import ProfileConfig
from pipeline.reduce.config import PCAReducer, ReduceConfig, ReducerConfig, UMAPReducer
from pipeline.report.config import ReportConfig
from pipeline.train.config import Arm, TextItemInit, TrainConfig

NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")


class RunConfig(Config):
    """One run: raw files → distilled recommender, its metrics against the undistilled one, and a report."""

    name: str
    """Folder of the run below `runs/`."""
    seeds: tuple[int, ...] = Field(default=(0,), min_length=1)
    """Training seeds; every arm is trained with each."""
    arms: tuple[Arm, ...] = Field(default=("plain", "distilled"), min_length=1)
    """What is trained and compared."""
    storage: StorageConfig = StorageConfig()
    cluster: ClusterConfig = ClusterConfig()
    prepare: PrepareConfig = PrepareConfig()
    profile: ProfileConfig = ProfileConfig()
    encode: EncodeConfig = EncodeConfig()
    reduce: ReduceConfig = ReduceConfig()
    model: ModelConfig = SASRecConfig()
    train: TrainConfig = TrainConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    audit: AuditConfig = AuditConfig()
    report: ReportConfig = ReportConfig()

    @field_validator("name")
    @classmethod
    def _safe_name(cls, value: str) -> str:
        if not NAME.match(value):
            raise ValueError("a run name starts with a letter or digit and holds letters, digits, '.', '_', '-' "
                             "(at most 100): it names a folder")
        return value

    @field_validator("seeds", "arms")
    @classmethod
    def _distinct(cls, value: tuple[object, ...]) -> tuple[object, ...]:
        if len(set(value)) != len(value):
            raise ValueError("each value may stand once")
        return value

    def item_reduce(self) -> ReduceConfig:
        """How item texts are brought to the student's width, where `train.item_init` asks for them."""
        init, own = self.train.item_init or TextItemInit(), self.reduce.method
        width = self.model.hidden_dim
        method: ReducerConfig = PCAReducer(components=width)
        if init.method == "umap":
            given = own if isinstance(own, UMAPReducer) else UMAPReducer()
            method = given.model_copy(update={"components": width})
        return self.reduce.model_copy(update={"method": method, "whiten": init.whiten, "fitted_by": None})

    @model_validator(mode="after")
    def _layer_exists(self) -> RunConfig:
        layer, blocks = self.train.distillation.layer, self.model.num_blocks
        if layer >= blocks:
            raise ValueError(f"train.distillation.layer={layer} needs a block of that index; "
                             f"model.num_blocks={blocks}, so legal: 0…{blocks - 1}")
        return self
