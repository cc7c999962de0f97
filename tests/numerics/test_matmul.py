"""Our products against torch's, in every layout that they are called with, and the linear layer made of them."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from models import matmul
from models.linear import Linear
from models.matmul import ROWS, Precision, add_product, factor, product, rounding


@pytest.mark.parametrize("library", ["oneDNN", "torch"])
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-5), ("bf16", 2e-2)])
def test_products_in_every_layout(library: str, precision: Precision, tolerance: float,
                                  monkeypatch: pytest.MonkeyPatch) -> None:
    if library == "oneDNN" and not matmul.HAS_ONEDNN:
        pytest.skip("torch was built without oneDNN")
    monkeypatch.setattr(matmul, "_ONEDNN", library == "oneDNN")
    left_MK, right_NK = torch.randn(96, 33), torch.randn(50, 33)
    expected_MN = left_MK.double() @ right_NK.double().T
    with rounding(precision):
        for left in (left_MK, left_MK.T.contiguous().T, torch.cat([left_MK, left_MK], 1)[:, :33]):
            for right in (right_NK, right_NK.T.contiguous().T, torch.cat([right_NK, right_NK])[:50]):
                found_MN = product(left, right)
                wide_MX = torch.ones(96, 60)
                add_product(wide_MX[:, 5:55], left, right)
                for close in (found_MN, wide_MX[:, 5:55] - 1):
                    assert close.dtype == torch.float32
                    torch.testing.assert_close(close.double(), expected_MN, rtol=tolerance, atol=tolerance * 10)
                assert bool((wide_MX[:, :5] == 1).all()) and bool((wide_MX[:, 55:] == 1).all())


@pytest.mark.parametrize("shape", [(ROWS,), (2, ROWS), (3, 5)])
@pytest.mark.parametrize("bias", [True, False])
def test_the_layer_is_torchs_own_in_value_and_gradients(shape: tuple[int, ...], bias: bool,
                                                        monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matmul, "_ONEDNN", matmul.HAS_ONEDNN)
    torch.manual_seed(0)
    mine = Linear(7, 11, bias)
    theirs = nn.Linear(7, 11, bias)
    theirs.load_state_dict(copy.deepcopy(mine.state_dict()))
    results = []
    for layer in (mine, theirs):
        x = torch.linspace(-1, 1, 7 * torch.Size(shape).numel()).view(*shape, 7).requires_grad_()
        y = layer(x)
        (y.sin().sum() + 2 * y.flatten()[3]).backward()
        results.append([y.detach(), x.grad, *(p.grad for p in layer.parameters())])
    torch.testing.assert_close(results[0], results[1])


def test_rounding_lasts_as_long_as_its_block() -> None:
    cpu, gpu = torch.backends.mkldnn.matmul, torch.backends.cuda.matmul  # type: ignore[attr-defined]
    before = cpu.fp32_precision, gpu.fp32_precision
    with rounding("bf16"):
        assert (cpu.fp32_precision, gpu.fp32_precision) == ("bf16", "tf32")
        with rounding("fp32"):
            assert (cpu.fp32_precision, gpu.fp32_precision) == ("ieee", "ieee")
        assert (cpu.fp32_precision, gpu.fp32_precision) == ("bf16", "tf32")
    with pytest.raises(ZeroDivisionError), rounding("bf16"):
        raise ZeroDivisionError
    assert (cpu.fp32_precision, gpu.fp32_precision) == before


@pytest.mark.parametrize("stored", [True, False])
def test_factors_are_rounded_by_us_or_by_the_processor(stored: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not stored and not torch.cpu.get_capabilities().get("amx_bf16"):
        pytest.skip("this CPU has no matrix units")
    if stored and matmul.HAS_ONEDNN and not matmul.HAS_BF16:
        pytest.skip("oneDNN has no bf16 products for this CPU")
    monkeypatch.setattr(matmul, "_STORE_BF16", stored)
    left_MK, right_NK = torch.randn(ROWS, 32), torch.randn(ROWS, 32)
    expected_MN = left_MK.bfloat16().double() @ right_NK.bfloat16().double().T
    with rounding("bf16"):
        found_MN = product(factor(left_MK, "bf16"), factor(right_NK, "bf16"))
    tolerance = 2e-2 if stored else 1e-5  # stored factors give a product that is rounded too
    torch.testing.assert_close(found_MN.double(), expected_MN, rtol=tolerance, atol=tolerance)
    assert found_MN.dtype == torch.float32
    assert not torch.allclose(found_MN, product(left_MK, right_NK), rtol=1e-5, atol=1e-5)


def test_factors_in_full_precision_stay_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matmul, "_STORE_BF16", True)
    x = torch.randn(3, 4)
    assert factor(x, "fp32") is x
