"""The row-wise optimizer against AdamW over the whole table, through the real students and losses."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from configs.errors import ConfigError
from models import rowwise
from models.config import (
    BCELoss,
    BERT4RecConfig,
    GBCELoss,
    ModelConfig,
    RankingLossConfig,
    SampledSoftmaxLoss,
    SASRecConfig,
    SoftmaxLoss,
)
from models.distilled import DistilledRecommender
from models.rowwise import RowwiseTable, item_table
from models.sequences import Batch
from models.students import build_encoder

ITEMS, STEPS = 200, 40
SASREC = SASRecConfig(hidden_dim=8, max_length=6, dropout=0.0)
BERT4REC = BERT4RecConfig(hidden_dim=8, max_length=6, dropout=0.0, mask_probability=0.3)
IN_BATCH = SampledSoftmaxLoss(negatives=12, source="in_batch")
COUNTS = torch.arange(1, ITEMS + 1)


def batch(step: int) -> Batch:
    """Few of the lower items, so that most rows rest for many steps, and the upper half for ever."""
    generator = torch.Generator().manual_seed(step)
    items_BL = torch.randint(1, ITEMS // 2, (3, 7), generator=generator)
    items_BL[torch.arange(7) >= torch.tensor([[7], [4], [2]])] = 0
    return Batch(torch.arange(3), items_BL)


@dataclass
class Trained:
    weights: dict[str, Tensor]
    losses: list[float]
    state: dict[str, Tensor]


def rate(step: int) -> float:
    return 3e-3 * (1 + step % 5)


def train(model: ModelConfig, loss: RankingLossConfig, by_rows: bool, weight_decay: float, settle: int | None = None,
          betas: tuple[float, float] = (0.9, 0.999)) -> Trained:
    encoder = build_encoder(model, ITEMS, seed=0)
    recommender = DistilledRecommender(encoder, loss, None, 0, 0, 0, item_counts_V=COUNTS)
    table = RowwiseTable(encoder, betas, weight_decay) if by_rows else None
    if table is not None:
        recommender.train_rows_of(table)
    others = {name: p for name, p in recommender.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(others.values(), betas=betas, weight_decay=weight_decay)
    losses = []
    for step in range(STEPS):
        optimizer.param_groups[0]["lr"] = rate(step)
        optimizer.zero_grad()
        terms = recommender(batch(step), alpha=0.0, mask_seed=step, draw_seed=step)
        terms.total.backward()
        optimizer.step()
        if table is not None:
            table.exchange()
            table.step(rate(step))
            if step == settle:
                table.settle()
        losses.append(float(terms.ranking))
    if table is None:
        state = optimizer.state[recommender.encoder.get_parameter("item_embedding.weight")]  # type: ignore[attr-defined]
    else:
        table.settle()
        state = table.state()
    return Trained({k: v.clone() for k, v in recommender.state_dict().items()}, losses, state)


CASES = {
    "sasrec-uniform": (SASREC, SampledSoftmaxLoss(negatives=12)),
    "sasrec-in-batch": (SASREC, IN_BATCH),
    "sasrec-gbce": (SASREC, GBCELoss(negatives=8)),
    "bert4rec-popularity": (BERT4REC, SampledSoftmaxLoss(negatives=12, source="popularity")),
    "bert4rec-bce": (BERT4REC, BCELoss(negatives=8)),
}


@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
@pytest.mark.parametrize("name", CASES)
def test_rows_end_where_adamw_over_the_whole_table_takes_them(name: str, weight_decay: float) -> None:
    """Also the rows that were read once and rested since, and those that were never read."""
    whole = train(*CASES[name], by_rows=False, weight_decay=weight_decay)
    rows = train(*CASES[name], by_rows=True, weight_decay=weight_decay)
    assert rows.losses == pytest.approx(whole.losses, rel=1e-4)
    moved = whole.weights["encoder.item_embedding.weight"] - build_encoder(CASES[name][0], ITEMS, 0).state_dict()[
        "item_embedding.weight"]
    assert moved.abs().max() > 0.02
    for key, value in whole.weights.items():
        if "key_value.bias" not in key:  # key biases change no score: their gradient is rounding noise
            torch.testing.assert_close(rows.weights[key], value, rtol=1e-3, atol=1e-3, msg=lambda m, k=key: f"{k}: {m}")
    for key in ("exp_avg", "exp_avg_sq"):
        torch.testing.assert_close(rows.state[key], whole.state[key], rtol=1e-3, atol=1e-5)
    assert float(rows.state["step"]) == float(whole.state["step"]) == STEPS


def test_settling_in_between_changes_nothing() -> None:
    once = train(SASREC, IN_BATCH, by_rows=True, weight_decay=0.1)
    twice = train(SASREC, IN_BATCH, by_rows=True, weight_decay=0.1, settle=17)
    assert twice.losses == pytest.approx(once.losses, rel=1e-5)
    torch.testing.assert_close(twice.weights["encoder.item_embedding.weight"],
                               once.weights["encoder.item_embedding.weight"], rtol=1e-4, atol=1e-5)


def test_a_bounded_reach_of_momentum_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = train(SASREC, IN_BATCH, by_rows=True, weight_decay=0.3, betas=(0.5, 0.99))
    monkeypatch.setattr(rowwise, "_REACH", 24)  # 0.5025^24 is 7e-8
    got = train(SASREC, IN_BATCH, by_rows=True, weight_decay=0.3, betas=(0.5, 0.99))
    torch.testing.assert_close(got.weights["encoder.item_embedding.weight"],
                               expected.weights["encoder.item_embedding.weight"], rtol=1e-5, atol=1e-6)


def test_a_step_touches_no_other_row() -> None:
    """Bytes of the rows that are not read stay as they are until the table is settled."""
    encoder = build_encoder(SASREC, ITEMS, seed=0)
    recommender = DistilledRecommender(encoder, SampledSoftmaxLoss(negatives=5), None, 0, 0, 0)
    table = RowwiseTable(encoder, (0.9, 0.999), 0.5)
    recommender.train_rows_of(table)
    before = encoder.state_dict()["item_embedding.weight"].clone()
    for step in range(3):
        recommender(batch(step), alpha=0.0, draw_seed=step).total.backward()
        assert encoder.get_parameter("item_embedding.weight").grad is None
        assert table.rows_TD.grad is not None and len(table.rows_TD.grad) < 25
        table.exchange()
        table.step(1e-2)
    changed = (encoder.state_dict()["item_embedding.weight"] != before).any(1)
    assert 5 < int(changed.sum()) < 60
    table.settle()
    assert (encoder.state_dict()["item_embedding.weight"] != before).any(1)[1:].all(), "weight decay reaches all"


def test_the_padding_row_stays_zero() -> None:
    trained = train(SASREC, SampledSoftmaxLoss(negatives=12), by_rows=True, weight_decay=0.1)
    assert not trained.weights["encoder.item_embedding.weight"][0].any()


def test_a_state_can_be_put_back() -> None:
    encoder = build_encoder(SASREC, ITEMS, seed=0)
    table = RowwiseTable(encoder, (0.9, 0.999), 0.0)
    state = {"exp_avg": torch.rand(ITEMS + 1, 8), "exp_avg_sq": torch.rand(ITEMS + 1, 8), "step": torch.tensor(7.0)}
    weights_VD = torch.rand(ITEMS + 1, 8)
    table.load(weights_VD, state)
    assert torch.equal(encoder.item_weights_VD(), weights_VD[1:])
    assert all(torch.equal(table.state()[key], value) for key, value in state.items())
    table.reset()
    assert not table.state()["exp_avg"].any() and float(table.state()["step"]) == 0


def test_the_full_softmax_refuses_rows() -> None:
    encoder = build_encoder(SASREC, ITEMS, seed=0)
    recommender = DistilledRecommender(encoder, SoftmaxLoss(), None, 0, 0, 0)
    with pytest.raises(ConfigError, match="sampled_softmax, bce or gbce"):
        recommender.train_rows_of(RowwiseTable(encoder, (0.9, 0.999), 0.0))


class Untied(nn.Module):
    """Scores items by a table that it does not read them from."""

    num_items, max_length, hidden_dim = 5, 4, 3

    def __init__(self) -> None:
        super().__init__()
        self.scored = nn.Parameter(torch.zeros(5, 3))

    def item_weights_VD(self) -> Tensor:
        return self.scored


def test_only_a_table_that_is_read_and_scored_by_item_id_fits() -> None:
    assert item_table(build_encoder(BERT4REC, ITEMS, 0)) == "item_embedding.weight"
    with pytest.raises(ConfigError, match="rowwise.*dense"):
        item_table(Untied())  # type: ignore[arg-type]
