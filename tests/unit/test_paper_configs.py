"""The eight configurations of the paper resolve to its published table, and to what its text says of all runs."""

from __future__ import annotations

from typing import Any

import pytest

from configs.files import SHIPPED
from configs.loader import load
from models.config import BERT4RecConfig
from pipeline.config import RunConfig

COLUMNS = ("d", "blocks", "heads", "dropout", "k", "pooling", "gamma", "epochs", "distil", "lr", "batch", "loss",
           "alpha", "beta")
TABLE: dict[str, tuple[Any, ...]] = {
    "beauty-sasrec":      (128, 4, 2, 0.3, 3, "mean", None, 25, 12, 5e-4, 256, "mse", 0.4, True),
    "ml-20m-sasrec":      (256, 4, 4, 0.2, 1, "exponential", 0.1, 200, 30, 7.5e-4, 256, "mse", 0.8, False),
    "kion-sasrec":        (64, 4, 4, 0.3, 3, "mean", None, 30, 8, 5e-4, 256, "rmse", 0.65, True),
    "amazon-m2-sasrec":   (64, 2, 8, 0.2, 1, "exponential", 0.1, 30, 10, 5e-4, 128, "rmse", 0.8, False),
    "beauty-bert4rec":    (128, 4, 2, 0.3, 3, "mean", None, 60, 20, 5e-4, 256, "mse", 0.4, True),
    "ml-20m-bert4rec":    (256, 4, 2, 0.2, 3, "exponential", 0.1, 100, 20, 7.5e-4, 256, "mse", 0.8, False),
    "kion-bert4rec":      (64, 4, 2, 0.3, 3, "mean", None, 30, 20, 1e-4, 256, "mse", 0.6, False),
    "amazon-m2-bert4rec": (64, 2, 8, 0.3, 1, "exponential", 0.1, 100, 50, 5e-4, 128, "rmse", 0.6, True),
}
SOURCES = {"beauty": "amazon_reviews", "ml-20m": "movielens", "kion": "kion", "amazon-m2": "amazon_m2"}


def paper(name: str) -> RunConfig:
    return load(RunConfig, SHIPPED / "paper" / f"{name}.yaml")


def test_the_folder_holds_these_eight_and_no_other() -> None:
    assert sorted(path.stem for path in (SHIPPED / "paper").glob("*.yaml")) == sorted(TABLE)


@pytest.mark.parametrize("name", TABLE)
def test_resolved_values_equal_the_published_table(name: str) -> None:
    config = paper(name)
    model, train, distillation = config.model, config.train, config.train.distillation
    resolved = (model.hidden_dim, model.num_blocks, model.num_heads, model.dropout, distillation.layer,
                distillation.pooling.kind, getattr(distillation.pooling, "gamma", None), train.epochs,
                train.distill_epochs, train.optimizer.lr, train.batch_size, distillation.loss.kind, train.alpha,
                train.beta)
    assert dict(zip(COLUMNS, resolved, strict=True)) == dict(zip(COLUMNS, TABLE[name], strict=True))


@pytest.mark.parametrize("name", TABLE)
def test_what_all_runs_share(name: str) -> None:
    config = paper(name)
    train, distillation = config.train, config.train.distillation
    assert config.name == f"paper-{name}"
    assert config.model.max_length == 50
    assert train.gradient_clip == 0.5
    assert train.loss.kind == "softmax"
    assert train.beta_cap is None
    assert train.alpha_schedule == "constant"
    assert not distillation.standardize_targets
    assert distillation.projection.kind == ("identity" if name == "ml-20m-bert4rec" else "trained")
    assert distillation.projection.variance_floor == 0.0
    assert (config.encode.model, config.encode.prefix) == ("intfloat/multilingual-e5-large", "query: ")


@pytest.mark.parametrize("name", TABLE)
def test_umap_is_in_step_with_the_hidden_width(name: str) -> None:
    config = paper(name)
    assert config.reduce.method.kind == "umap"
    assert config.reduce.method.components == config.model.hidden_dim
    assert not config.reduce.whiten


@pytest.mark.parametrize("name", TABLE)
def test_source_filter_and_split(name: str) -> None:
    dataset, _, model = name.rpartition("-")
    config = paper(name)
    source, split = config.prepare.source, config.prepare.split
    assert source.kind == SOURCES[dataset]
    assert f"$MENTOREC_DATA/paper/{dataset}" in str(source.model_dump())
    assert config.model.kind == model
    assert (config.prepare.filter.k_core, config.prepare.filter.mode) == (3 + 1, "once")
    if dataset == "amazon-m2":
        assert split.model_dump() == {"kind": "sessions", "test_users": 0.2,
                                      "validation_users": pytest.approx(0.2 * (1 - 0.2))}
    else:
        assert split.model_dump() == {"kind": "global_temporal", "quantile": 0.8, "boundary": None,
                                      "validation_users": 0.2}


@pytest.mark.parametrize("name", [name for name in TABLE if name.endswith("bert4rec")])
def test_bert4rec_masks_fifteen_percent(name: str) -> None:
    model = paper(name).model
    assert isinstance(model, BERT4RecConfig)
    assert model.mask_probability == 0.15
