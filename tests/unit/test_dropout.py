"""Our dropout against the definition: what is dropped, what the rest is scaled by, what the gradient sees."""

from __future__ import annotations

import pytest
import torch

from models.dropout import Dropout


@pytest.mark.parametrize("p", [0.001, 0.2, 0.6])
def test_a_share_is_dropped_and_the_rest_scaled(p: float) -> None:
    torch.manual_seed(0)
    x = torch.rand(301, 1003) + 1  # not a multiple of the elements that share a draw
    out = Dropout(p)(x)
    dropped = out == 0
    assert float(dropped.double().mean()) == pytest.approx(p, abs=4 * (p / x.numel()) ** 0.5)
    torch.testing.assert_close(out[~dropped], x[~dropped] / (1 - p), rtol=1e-4, atol=0)
    by_column = dropped.double().mean(0)
    assert float(by_column.std()) == pytest.approx((p * (1 - p) / 301) ** 0.5, rel=0.15)


def test_the_gradient_passes_where_the_value_did() -> None:
    x = torch.ones(50, 7, requires_grad=True)
    out = Dropout(0.5)(x)
    out.sum().backward()
    assert x.grad is not None and torch.equal(x.grad, out.detach())


def test_masks_follow_torchs_seed() -> None:
    def draw(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return Dropout(0.5)(torch.ones(999))

    assert torch.equal(draw(1), draw(1)) and not torch.equal(draw(1), draw(2))


def test_nothing_happens_in_evaluation_or_without_a_share() -> None:
    x = torch.ones(5)
    assert Dropout(0.5).eval()(x) is x and Dropout(0.0)(x) is x


def test_the_type_of_the_input_is_kept() -> None:
    assert Dropout(0.5)(torch.ones(8, dtype=torch.bfloat16)).dtype == torch.bfloat16
