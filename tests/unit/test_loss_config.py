"""The union of ranking losses and what the optimizer asks of it."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from models.config import SampledSoftmaxLoss, SoftmaxLoss
from pipeline.train.config import OptimizerConfig, TrainConfig
from pipeline.train.execution_config import TrainExecution
from pipeline.train.teaching_config import ProfileInputConfig


def test_the_loss_is_chosen_by_its_kind() -> None:
    assert TrainConfig.model_validate({}).loss == SoftmaxLoss()
    given = {"kind": "sampled_softmax", "negatives": 9, "source": "in_batch"}
    assert TrainConfig.model_validate({"loss": given}).loss == SampledSoftmaxLoss(negatives=9, source="in_batch")
    with pytest.raises(ValidationError, match="'softmax', 'sampled_softmax', 'bce', 'gbce'"):
        TrainConfig.model_validate({"loss": {"kind": "hinge"}})


def test_gbce_has_no_choice_of_source() -> None:
    with pytest.raises(ValidationError, match="source"):
        TrainConfig.model_validate({"loss": {"kind": "gbce", "source": "popularity"}})


def test_rows_need_sampled_negatives() -> None:
    rows = OptimizerConfig(table="rowwise")
    assert TrainConfig(optimizer=rows, loss=SampledSoftmaxLoss()).optimizer.table == "rowwise"
    with pytest.raises(ValidationError, match="sampled_softmax, bce or gbce"):
        TrainConfig(optimizer=rows)


def test_a_divided_table_is_trained_by_rows() -> None:
    rows, divided = OptimizerConfig(table="rowwise"), TrainExecution(shard_item_table=True)
    accepted = TrainConfig(optimizer=rows, loss=SampledSoftmaxLoss(), execution=divided)
    assert accepted.key() == TrainConfig(optimizer=rows, loss=SampledSoftmaxLoss()).key(), "the same artifact"
    with pytest.raises(ValidationError, match="needs optimizer.table=rowwise .* got table=dense"):
        TrainConfig(execution=divided)
    with pytest.raises(ValidationError, match="does not go with profile_input"):
        TrainConfig(optimizer=rows, loss=SampledSoftmaxLoss(), execution=divided, profile_input=ProfileInputConfig())


def test_rows_need_momentum_that_runs_out() -> None:
    assert OptimizerConfig(beta1=0.95, beta2=0.9, table="dense").beta2 == 0.9
    with pytest.raises(ValidationError, match="beta1 below the root of beta2"):
        OptimizerConfig(beta1=0.95, beta2=0.9, table="rowwise")
