"""A linear layer whose products a CPU makes as fast as it can while a packed batch trains."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from models.matmul import ROWS, by_onednn, product


class Linear(nn.Linear):
    """``nn.Linear``; by ``matmul.product`` where that pays and positions come in multiples of ``matmul.ROWS``."""

    def forward(self, x: Tensor) -> Tensor:
        positions = x.numel() // self.in_features
        if not self.training or not by_onednn(x.device) or positions % ROWS or x.dtype != torch.float32:
            return super().forward(x)
        y: Tensor = _Linear.apply(x.reshape(positions, self.in_features), self.weight, self.bias)
        return y.view(*x.shape[:-1], self.out_features)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_TD: Tensor, weight_ED: Tensor, bias_E: Tensor | None) -> Tensor:
        ctx.save_for_backward(x_TD, weight_ED)
        ctx.biased = bias_E is not None
        y_TE = product(x_TD, weight_ED)
        return y_TE if bias_E is None else y_TE.add_(bias_E)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, Tensor, Tensor | None]:
        x_TD, weight_ED = ctx.saved_tensors
        grad_TE = grads[0]
        bias_grad_E = grad_TE.sum(0) if ctx.biased else None
        return product(grad_TE, weight_ED.T), grad_TE.T @ x_TD, bias_grad_E
