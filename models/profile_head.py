"""The teacher's side: T, the map from profile space to R^d, and the aggregation of several profiles per user.

Its parameters exist only during training; nothing of it is served.

Legend: N profiled users, A profiles per user, P profile width, D hidden width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from configs.errors import ConfigError
from models.config import DistillationConfig, ProjectionConfig


class ProfileHead(nn.Module):
    """T(P(u)) for users with at least one profile, as one vector each.

    Every profile is projected, then the real ones are averaged: evenly, or by softmax(w·T(p) + b_angle), learnt and
    starting even.
    """

    def __init__(self, config: DistillationConfig, profile_dim: int, num_angles: int, hidden_dim: int, seed: int):
        """Raises ConfigError for ``identity`` with unequal widths."""
        super().__init__()
        self.projection = _projection(config.projection, profile_dim, hidden_dim, seed)
        self.attend = config.profile_aggregation == "attention"
        if self.attend:
            self.angle_weight = nn.Parameter(torch.zeros(hidden_dim))
            self.angle_bias = nn.Parameter(torch.zeros(num_angles))

    def forward(self, profiles_NAP: Tensor, real_NA: Tensor) -> Tensor:
        """fp32 [N, D]; at least one profile of each row must be real."""
        projected_NAD: Tensor = self.projection(profiles_NAP)
        if real_NA.shape[1] == 1:
            return projected_NAD.squeeze(1)
        scores_NA = projected_NAD.new_zeros(real_NA.shape)
        if self.attend:
            scores_NA = projected_NAD @ self.angle_weight + self.angle_bias
        weights_NA = scores_NA.masked_fill(~real_NA, float("-inf")).softmax(1)
        pooled: Tensor = (weights_NA.unsqueeze(1) @ projected_NAD).squeeze(1)
        return pooled


class FixedLinear(nn.Module):
    """A linear map without gradient, kept as a buffer."""

    weight_DP: Tensor

    def __init__(self, weight_DP: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight_DP", weight_DP)

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight_DP.T


def _projection(config: ProjectionConfig, profile_dim: int, hidden_dim: int, seed: int) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    if config.kind == "identity":
        if profile_dim != hidden_dim:
            raise ConfigError(
                f"train.distillation.projection.kind: identity needs equal widths, but profiles have {profile_dim} "
                f"and the model {hidden_dim}; set reduce's width to {hidden_dim} or choose trained or orthogonal"
            )
        return nn.Identity()
    if config.kind == "orthogonal":
        return FixedLinear(nn.init.orthogonal_(torch.empty(hidden_dim, profile_dim), generator=generator))
    with torch.random.fork_rng(devices=[]):
        linear = nn.Linear(profile_dim, hidden_dim)
    nn.init.xavier_normal_(linear.weight, generator=generator)
    nn.init.zeros_(linear.bias)
    return linear
