"""Settings of training. Torch- and Ray-free."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field, model_validator

from configs.base import Config
from models.config import DistillationConfig, RankingLossConfig, SoftmaxLoss
from pipeline.train.execution_config import TrainExecution
from pipeline.train.teaching_config import (
    EnsembleConfig,
    ItemTableConfig,
    MappedTextTable,
    ProfileInputConfig,
    TextItemInit,
)

Arm = Literal["plain", "distilled", "shuffled", "random", "collaborative"]
"""plain: no teacher. distilled: the user's own profile. Controls: shuffled: another user's; random: noise of the same
covariance; collaborative: what the interactions alone know, a truncated SVD of the training matrix."""


_STEPS_PER_EPOCH, _BATCHES = 40, tuple(2**power for power in range(4, 10))
"""What a batch whose size is not set aims at, and what it may be."""


class OptimizerConfig(Config):
    """AdamW."""

    lr: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=0.0, ge=0)
    beta1: float = Field(default=0.9, ge=0, lt=1)
    beta2: float = Field(default=0.999, ge=0, lt=1)
    warmup_steps: int = Field(default=0, ge=0)
    """Linear warm-up of the learning rate, in optimizer steps; it starts over with a fresh optimizer."""
    schedule: Literal["constant", "cosine"] = "constant"
    """`cosine`: the rate falls to 0 over all epochs along half a cosine (Loshchilov & Hutter, ICLR'17)."""
    table: Literal["dense", "rowwise"] = "dense"
    """`rowwise` updates only the item rows that a step reads, to the same weights up to rounding: its cost does not
    grow with the catalogue. For losses with sampled negatives; needs beta1 < √beta2."""

    @model_validator(mode="after")
    def _momentum_runs_out(self) -> OptimizerConfig:
        if self.table == "rowwise" and self.beta1 >= self.beta2**0.5:
            raise ValueError(f"table=rowwise needs beta1 below the root of beta2, got {self.beta1} and {self.beta2}: "
                             "the momentum of a resting row must run out")
        return self


class EarlyStoppingConfig(Config):
    """Stops the fine-tuning phase; it cannot fire before the last switch (`distill_epochs`, `ensemble.epochs`)."""

    patience_epochs: int = Field(default=10, ge=0)
    """Validated epochs without a better metric before stopping; 0 = never stop early."""
    min_delta: float = Field(default=0.0, ge=0)
    """By how much the metric must rise to count as better for the patience; any rise is kept as the best epoch."""


class TrainConfig(Config):
    """Two phases (ECIR'26, eq. 6): ``distill_epochs`` with the total loss of eq. 5, then next items alone."""

    alpha: float = Field(default=0.4, ge=0, le=1)
    """α of eq. 5: weight of distillation against ranking, in the first phase."""

    alpha_schedule: Literal["constant", "linear", "cosine"] = "constant"
    """How α moves over the first phase: constant, or decaying to 0 (progressive distillation)."""

    beta: bool = False
    """Dynamic scaling β = sg(L_model / L_distil) of eq. 5; off: β = 1."""

    beta_cap: float | None = Field(default=10.0, gt=0)
    """Upper bound of β; None: unbounded, as published."""

    distillation: DistillationConfig = DistillationConfig()

    loss: RankingLossConfig = SoftmaxLoss()

    epochs: int = Field(default=200, ge=1)
    """All epochs, both phases, at most: `early_stopping` ends most trainings before."""

    distill_epochs: int = Field(default=6, ge=0)
    """Epochs of the first phase. The plain arm counts them too: same epochs, same optimizer treatment."""

    batch_size: int | None = Field(default=None, ge=1)
    """Users per optimizer step, over all workers; with `batch_tokens` at most so many. None: by the number of training
    users, see `users_per_batch`."""

    batch_tokens: int | None = Field(default=None, ge=1)
    """Positions per optimizer step, padding counted, over all workers: short sequences share a batch with many others,
    long ones with few. None: every batch holds `batch_size` users."""

    optimizer: OptimizerConfig = OptimizerConfig()

    switch_optimizer: Literal["keep", "reset"] = "keep"
    """At the phase switch: keep AdamW's moments, or start anew (also for the plain arm)."""

    finetune_lr: float | None = Field(default=None, gt=0)
    """Learning rate after the switch; None keeps optimizer.lr."""

    gradient_clip: float | None = Field(default=None, gt=0)
    """Global gradient norm bound."""

    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16: inputs of matrix products are rounded to it: in the ranking loss, and on a GPU in the encoder too
    (autocast). Losses and β stay fp32."""

    early_stopping: EarlyStoppingConfig = EarlyStoppingConfig()

    validate_every_epochs: int = Field(default=1, ge=1)

    validation_metric: str = Field(default="ndcg@10", pattern=r"^(recall|ndcg|mrr)@(5|10|20)$")
    """Chooses the epoch, on validation users, seen items handled as `filter_seen` says."""

    filter_seen: bool = True
    """Whether a validation user's own history is removed from the ranking."""

    validation_users: int | None = Field(default=None, ge=1)
    """Rank only a seeded sample of this many validation users during training; None: all."""

    compat: Literal["none", "upstream"] = "none"
    """`upstream` reproduces deviations of the published code: pooling averages over padding; the last epoch is kept."""

    init_from: str | None = None
    """Fingerprint of a `train` artifact, or path of an exported model folder, whose weights start this training;
    items are matched by raw id, new ones start fresh."""

    item_init: TextItemInit | None = None
    """What item embeddings start from; None: random. With `init_from` it is for the items that its model lacks."""

    item_table: ItemTableConfig | None = None
    """What the item table is while the student trains; None: every row a parameter."""

    profile_input: ProfileInputConfig | None = None
    """Read the users' profiles beside their items; None: items alone."""

    place_untrained: bool = False
    """At export, items that were never a target of training are put where their text says (see `models.item_init`): as
    negatives of the softmax they would stand below all others. The texts are those that training reads (`item_init`, a
    `mapped_text` table), or else the items' own as they are encoded."""

    place_scale: float = Field(default=1.0, gt=0, le=1)
    """With `place_untrained`: how far placed items spread about the mean of the trained ones, as a share of how far
    those do. At 1 they compete as equals and push trained items down everybody's list; what that does to validation is
    told when training ends."""

    ensemble: EnsembleConfig | None = None
    """Recommenders to learn from; None: next items alone."""

    execution: TrainExecution = TrainExecution()

    @model_validator(mode="after")
    def _phases_fit(self) -> TrainConfig:
        if self.distill_epochs >= self.epochs:
            raise ValueError(f"distill_epochs={self.distill_epochs} must be below epochs={self.epochs}: "
                             "the best epoch is chosen in the fine-tuning phase")
        return self

    @model_validator(mode="after")
    def _rows_are_few(self) -> TrainConfig:
        if self.optimizer.table == "rowwise" and isinstance(self.loss, SoftmaxLoss):
            raise ValueError("optimizer.table=rowwise needs a loss with sampled negatives, but loss.kind=softmax reads "
                             "every item in every step; choose sampled_softmax, bce or gbce, or table=dense")
        return self

    @model_validator(mode="after")
    def _rows_can_be_shared(self) -> TrainConfig:
        if self.execution.shard_item_table:
            if self.optimizer.table != "rowwise":
                raise ValueError("execution.shard_item_table=true needs optimizer.table=rowwise (and a loss with "
                                 f"sampled negatives), got table={self.optimizer.table}")
            if self.profile_input is not None:
                raise ValueError("execution.shard_item_table=true does not go with profile_input: its validation reads "
                                 "profiles on the workers' devices; choose one of them")
        return self

    @model_validator(mode="after")
    def _whole_catalogue(self) -> TrainConfig:
        for name, wanted in (("ensemble", self.ensemble), ("item_table", self.item_table)):
            if wanted is not None and not isinstance(self.loss, SoftmaxLoss):
                raise ValueError(f"{name} reads the whole catalogue in every step: it goes with loss.kind=softmax, "
                                 f"got {self.loss.kind}")
        return self

    @model_validator(mode="after")
    def _one_start(self) -> TrainConfig:
        mapped = isinstance(self.item_table, MappedTextTable)
        for name, given in (("init_from", self.init_from), ("item_init", self.item_init)):
            if mapped and given is not None:
                raise ValueError(f"{name} gives item embeddings to start from, but item_table.kind=mapped_text makes "
                                 "all of them from texts; set one of them to null")
        if mapped and self.starts_from_member:
            raise ValueError("ensemble.start names a member whose item embeddings training starts from, but "
                             "item_table.kind=mapped_text makes all of them from texts; set one of them to null")
        if self.init_from is not None and self.starts_from_member:
            raise ValueError("init_from and ensemble.start both say what training starts from; set one of them to null")
        return self

    @model_validator(mode="after")
    def _second_rate_has_a_phase(self) -> TrainConfig:
        if self.ensemble is not None and self.ensemble.epochs is not None and self.ensemble.epochs > self.epochs:
            raise ValueError(f"ensemble.epochs={self.ensemble.epochs} must not be above epochs={self.epochs}; leave it "
                             "out to match in all epochs")
        if self.compat == "upstream" and self.early_stopping.patience_epochs:
            raise ValueError("compat=upstream keeps the last of all epochs, as the published code does, so nothing may "
                             f"stop earlier: got early_stopping.patience_epochs={self.early_stopping.patience_epochs}; "
                             "legal: 0")
        if self.finetune_lr is not None and not self.distill_epochs:
            raise ValueError("finetune_lr is the rate after the switch, and with distill_epochs=0 there is none; set "
                             "optimizer.lr, or distill_epochs of 1 or more")
        return self

    @property
    def reads_texts(self) -> bool:
        """Whether training reads the items' text vectors as they were encoded."""
        baselines = self.ensemble.baselines if self.ensemble is not None else ()
        return (isinstance(self.item_table, MappedTextTable) or any(each.kind == "content" for each in baselines)
                or self.place_untrained and self.item_init is None)

    @property
    def starts_from_member(self) -> bool:
        """Whether training starts from the weights of a member of the ensemble."""
        return self.ensemble is not None and self.ensemble.start is not None

    @property
    def starts_somewhere(self) -> bool:
        """Whether the items' rows start from texts or from a model, not at random."""
        return self.starts_from_member or self.init_from is not None or self.item_init is not None

    @property
    def last_switch(self) -> int:
        """Epochs after which training is as it stays: the phase of profiles and that of an ensemble are over."""
        matching = self.ensemble.epochs if self.ensemble is not None else None
        return max(self.distill_epochs, matching or 0)

    def users_per_batch(self, num_users: int) -> int:
        """`batch_size`, or of the powers of 2 from 16 to 512 the one nearest to a fortieth of the training users: an
        epoch then has steps enough for its validation to tell, whatever the data's size."""
        if self.batch_size is not None:
            return self.batch_size
        return min(_BATCHES, key=lambda size: abs(math.log2(size * _STEPS_PER_EPOCH / max(num_users, 1))))

    def arm_key(self, arm: Arm) -> dict[str, object]:
        """The values this arm's result depends on; the plain arm does not depend on distillation's."""
        key = self.key()
        if arm == "plain":
            for name in ("alpha", "alpha_schedule", "beta", "beta_cap", "distillation"):
                del key[name]
        elif self.distillation.target.kind == "profile":
            del key["distillation"]["target"]
        return key
