"""Every ranking loss, value and gradients, against the same written with dense logits and autograd.

Legend: N positions, D hidden width, V items, K distinct negatives.
"""

from __future__ import annotations

from collections.abc import Callable
from math import exp, log

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from models import matmul, softmax
from models.config import BCELoss, GBCELoss, RankingLossConfig, SampledSoftmaxLoss, SoftmaxLoss
from models.losses import build_ranking_loss, gbce_exponent
from models.negatives import Negatives
from models.softmax import chunked_softmax

ITEMS = 211
Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


def inputs(rows: int = 53, items: int = ITEMS, width: int = 16) -> tuple[Tensor, Tensor, Tensor]:
    """States, an embedding table whose row 0 is padding, 0-based targets."""
    generator = torch.Generator().manual_seed(0)
    hidden_ND = torch.randn(rows, width, generator=generator)
    table = torch.randn(items + 2, width, generator=generator)
    return hidden_ND, table, torch.randint(items, (rows,), generator=generator)


def run(loss: Loss, scale: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    """Value and both gradients, the weights being a slice of the table, the loss scaled as in training."""
    hidden_ND, table, rows_N = inputs()
    hidden_ND = (hidden_ND * scale).requires_grad_()
    table.requires_grad_()
    value = loss(hidden_ND, table[1:-1], rows_N)
    (value * 0.7 / len(hidden_ND)).backward()
    assert hidden_ND.grad is not None and table.grad is not None
    return value.detach(), hidden_ND.grad, table.grad


def agree(got: tuple[Tensor, ...], expected: tuple[Tensor, ...], tolerance: float = 1e-5) -> None:
    for mine, other in zip(got, expected, strict=True):
        torch.testing.assert_close(mine, other, rtol=tolerance, atol=tolerance)


def dense(hidden_ND: Tensor, weights_VD: Tensor, rows_N: Tensor) -> Tensor:
    return F.cross_entropy(hidden_ND @ weights_VD.T, rows_N, reduction="sum")


@pytest.fixture(params=["one pass", "tiles"])
def form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both forms of the full softmax, with tiles that divide neither positions nor items."""
    if request.param == "tiles":
        monkeypatch.setattr(softmax, "_CACHED_BYTES", {"cpu": 0})
        monkeypatch.setattr(softmax, "_TILE_ROWS", 20)
        monkeypatch.setattr(softmax, "_TILE_ITEMS", 64)
    return str(request.param)


@pytest.fixture(params=["torch", "oneDNN", "stored"])
def products(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Products as on Intel's CPUs and on AMD's; bf16 factors rounded by the matrix units, or stored so."""
    library = request.param != "torch"
    if library and not matmul.HAS_ONEDNN:
        pytest.skip("torch was built without oneDNN")
    if request.param == "stored" and not matmul.HAS_BF16:
        pytest.skip("oneDNN has no bf16 products for this CPU")
    monkeypatch.setattr(matmul, "_ONEDNN", library)
    monkeypatch.setattr(matmul, "_STORE_BF16", request.param == "stored")
    return str(request.param)


def test_softmax_value_equals_plain_loops(form: str) -> None:
    hidden_ND, table, rows_N = inputs(rows=5, items=7, width=3)
    weights = table[1:-1].tolist()
    expected = 0.0
    for hidden, row in zip(hidden_ND.tolist(), rows_N.tolist(), strict=True):
        scores = [sum(a * b for a, b in zip(hidden, weight, strict=True)) for weight in weights]
        expected += log(sum(exp(score) for score in scores)) - scores[row]
    assert float(chunked_softmax(hidden_ND, table[1:-1], rows_N)) == pytest.approx(expected, rel=1e-5)


def test_softmax_equals_dense_cross_entropy(form: str, products: str) -> None:
    agree(run(chunked_softmax), run(dense))


@pytest.mark.parametrize("chunk_rows", [1, 8, 53, 128])
def test_chunks_of_any_size_give_the_same(chunk_rows: int) -> None:
    agree(run(lambda h, w, r: chunked_softmax(h, w, r, chunk_rows)), run(dense))


@pytest.mark.parametrize("scale", [30.0, 300.0])
def test_scores_too_large_for_exp_are_shifted(form: str, scale: float) -> None:
    value, hidden_grad, table_grad = run(chunked_softmax, scale)
    expected = run(dense, scale)
    torch.testing.assert_close(value, expected[0], rtol=1e-5, atol=1e-2)
    agree((hidden_grad, table_grad), expected[1:], tolerance=1e-4)


def test_bf16_products_keep_sums_in_fp32(form: str, products: str) -> None:
    """The value moves by the rounding of the inputs alone, not by the 4 % of a bf16 sum."""
    before = torch.backends.cuda.matmul.fp32_precision
    precise, rounded = run(dense), run(lambda h, w, r: chunked_softmax(h, w, r, None, "bf16"))
    assert rounded[0].dtype == torch.float32
    assert float(rounded[0]) == pytest.approx(float(precise[0]), rel=2e-3)
    for mine, other in zip(rounded[1:], precise[1:], strict=True):
        assert (mine - other).norm() < 0.02 * other.norm()
    assert torch.backends.cuda.matmul.fp32_precision == before, "the setting must not leak"


def test_half_precision_states_give_an_fp32_value() -> None:
    hidden_ND, table, rows_N = inputs()
    loss = build_ranking_loss(SoftmaxLoss(), ITEMS)(hidden_ND.bfloat16(), table[1:-1], rows_N, None)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, dense(hidden_ND.bfloat16().float(), table[1:-1], rows_N))


def negatives() -> Negatives:
    """Rows 3, 6, 9, … of the table; the first is made the target of a position, so that there is a hit."""
    rows_K = torch.arange(3, ITEMS, 3)
    hit = inputs()[2][7]
    rows_K = torch.cat([rows_K[rows_K != hit], hit[None]]).sort().values
    counts_K = torch.ones(len(rows_K)) + torch.arange(len(rows_K)) % 3
    expected_K = torch.linspace(0.2, 3.0, len(rows_K))
    return Negatives(rows_K, counts_K, expected_K)


def pairs(hidden_ND: Tensor, weights_VD: Tensor, rows_N: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Scores of the target [N] and of the negatives [N, K], and which of these are another item [N, K]."""
    rows_K = negatives().items_K
    other_NK = rows_N.unsqueeze(1) != rows_K
    assert 0 < int((~other_NK).sum()) < len(rows_N)
    return (hidden_ND * weights_VD[rows_N]).sum(1), hidden_ND @ weights_VD[rows_K].T, other_NK


def dense_sampled(log_q: bool) -> Loss:
    def loss(hidden_ND: Tensor, weights_VD: Tensor, rows_N: Tensor) -> Tensor:
        drawn = negatives()
        right_N, scores_NK, other_NK = pairs(hidden_ND, weights_VD, rows_N)
        weight_K = drawn.counts_K / drawn.expected_K if log_q else drawn.counts_K
        normaliser_N = right_N.exp() + (scores_NK.exp() * weight_K * other_NK).sum(1)
        return (normaliser_N.log() - right_N).sum()

    return loss


def dense_binary(exponent: float) -> Loss:
    def loss(hidden_ND: Tensor, weights_VD: Tensor, rows_N: Tensor) -> Tensor:
        right_N, scores_NK, other_NK = pairs(hidden_ND, weights_VD, rows_N)
        right = (torch.sigmoid(right_N) ** exponent).log().sum()
        wrong = ((1 - torch.sigmoid(scores_NK.double())).log() * negatives().counts_K * other_NK).sum().float()
        return -(right + wrong) / (1 + negatives().counts_K.sum())

    return loss


GBCE = GBCELoss(negatives=40, calibration=0.75)
SAMPLED: dict[str, tuple[RankingLossConfig, Loss]] = {
    "sampled-softmax": (SampledSoftmaxLoss(), dense_sampled(log_q=True)),
    "sampled-softmax-without-logq": (SampledSoftmaxLoss(log_q=False), dense_sampled(log_q=False)),
    "bce": (BCELoss(negatives=40), dense_binary(1.0)),
    "gbce": (GBCE, dense_binary(gbce_exponent(GBCE, ITEMS))),
}


@pytest.mark.parametrize("name", SAMPLED)
def test_sampled_losses_equal_their_dense_forms(name: str, products: str) -> None:
    config, reference = SAMPLED[name]
    loss = build_ranking_loss(config, ITEMS)
    agree(run(lambda h, w, r: loss(h, w, r, negatives()), scale=0.5), run(reference, scale=0.5))


@pytest.mark.parametrize("name", SAMPLED)
def test_negatives_shape_each_loss_and_its_own_target_does_not_count(name: str) -> None:
    """A position whose target is the only negative is left with its own term, one of the two that were drawn."""
    hidden_ND, table, rows_N = inputs(rows=1)
    lone = Negatives(rows_N, torch.ones(1), torch.ones(1))
    value = float(build_ranking_loss(SAMPLED[name][0], ITEMS)(hidden_ND, table[1:-1], rows_N, lone))
    right = float((hidden_ND * table[1:-1][rows_N]).sum())
    expected = {"bce": log(1 + exp(-right)) / 2,
                "gbce": gbce_exponent(GBCE, ITEMS) * log(1 + exp(-right)) / 2}.get(name, 0.0)
    assert value == pytest.approx(expected, abs=1e-5)


def test_the_whole_catalogue_as_negatives_is_the_full_softmax() -> None:
    everything = Negatives(torch.arange(ITEMS), torch.ones(ITEMS), torch.ones(ITEMS))
    loss = build_ranking_loss(SampledSoftmaxLoss(), ITEMS)
    agree(run(lambda h, w, r: loss(h, w, r, everything)), run(dense))


@pytest.mark.parametrize("name", SAMPLED)
def test_bf16_products_of_sampled_losses(name: str, products: str) -> None:
    config, reference = SAMPLED[name]
    loss = build_ranking_loss(config, ITEMS, "bf16")
    precise, rounded = run(reference), run(lambda h, w, r: loss(h, w, r, negatives()))
    assert float(rounded[0]) == pytest.approx(float(precise[0]), rel=5e-3)


@pytest.mark.parametrize("config", [SoftmaxLoss(), *(config for config, _ in SAMPLED.values())],
                         ids=["softmax", *SAMPLED])
def test_no_position_gives_zero_and_zero_gradients(config: RankingLossConfig) -> None:
    hidden_ND, table, _ = inputs()
    hidden_ND.requires_grad_()
    table.requires_grad_()
    nothing = torch.zeros(0, dtype=torch.long)
    loss = build_ranking_loss(config, ITEMS)(hidden_ND[:0], table[1:-1], nothing, negatives())
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert hidden_ND.grad is not None and table.grad is not None
    assert not hidden_ND.grad.any() and not table.grad.any()


@pytest.mark.parametrize("calibration, negatives, expected", [
    (0.0, 10, 1.0), (1.0, 10, 10 / 100), (0.75, 10, 0.1 * (0.75 * (1 - 10) + 10)), (0.5, 1000, 1.0)])
def test_the_exponent_of_gbce(calibration: float, negatives: int, expected: float) -> None:
    config = GBCELoss(negatives=negatives, calibration=calibration)
    assert gbce_exponent(config, 101) == pytest.approx(expected)
