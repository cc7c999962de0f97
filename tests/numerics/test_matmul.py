"""Our products against torch's, in every layout that they are called with, and the linear layer made of them."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from models import matmul
from models.linear import Linear
from models.matmul import ROWS, factor_type, gpu_rounding, product


@pytest.mark.parametrize("library", ["oneDNN", "torch"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_products_in_every_layout(library: str, dtype: torch.dtype, tolerance: float,
                                  monkeypatch: pytest.MonkeyPatch) -> None:
    if library == "oneDNN" and not matmul._ONEDNN:
        pytest.skip("torch was built without oneDNN")
    monkeypatch.setattr(matmul, "_ONEDNN", library == "oneDNN")
    left_MK, right_NK = torch.randn(96, 33).to(dtype), torch.randn(50, 33).to(dtype)
    for left in (left_MK, left_MK.T.contiguous().T, torch.cat([left_MK, left_MK], 1)[:, :33]):
        for right in (right_NK, right_NK.T.contiguous().T, torch.cat([right_NK, right_NK])[:50]):
            found = product(left, right)
            assert found.dtype == dtype
            torch.testing.assert_close(found.float(), left_MK.float() @ right_NK.float().T, rtol=tolerance,
                                       atol=tolerance * 10)


@pytest.mark.parametrize("shape", [(ROWS,), (2, ROWS), (3, 5)])
@pytest.mark.parametrize("bias", [True, False])
def test_the_layer_is_torchs_own_in_value_and_gradients(shape: tuple[int, ...], bias: bool) -> None:
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


def test_factors_are_rounded_before_a_product_only_on_a_cpu() -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert factor_type("bf16", cpu) == torch.bfloat16 and factor_type("fp32", cpu) == torch.float32
    assert factor_type("bf16", gpu) == torch.float32
    before = torch.backends.cuda.matmul.fp32_precision
    with gpu_rounding("bf16"):
        assert torch.backends.cuda.matmul.fp32_precision == "tf32"
    assert torch.backends.cuda.matmul.fp32_precision == before
