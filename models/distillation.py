"""L_distil between H_k and T(P(u)), its scale β, and the numbers that show a collapse (ECIR'26, eqs. 4-5).

All functions take the rows of the global batch, so their values are global, and so are their gradients
(``parallel.gather_rows``).

Legend: G profiled users of the global batch, D hidden width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from models.config import (
    CosineDistillation,
    DistillationConfig,
    DistillationLossConfig,
    InfoNCEDistillation,
    RMSEDistillation,
)

_TINY = 1e-8


def distillation_loss(config: DistillationLossConfig, student_GD: Tensor, teacher_GD: Tensor) -> Tensor:
    """The configured form of L_distil, a scalar; G ≥ 1."""
    if isinstance(config, CosineDistillation):
        return 1 - F.cosine_similarity(student_GD, teacher_GD, dim=1).mean()
    if isinstance(config, InfoNCEDistillation):
        own_G = torch.arange(len(student_GD), device=student_GD.device)
        return F.cross_entropy(cosines(student_GD, teacher_GD) / config.temperature, own_G)
    mse = F.mse_loss(student_GD, teacher_GD)
    # Equal sides would have an infinite gradient under the root.
    return mse.clamp(min=_TINY**2).sqrt() if isinstance(config, RMSEDistillation) else mse


def variance_hinge(teacher_GD: Tensor) -> Tensor:
    """mean_d max(0, 1 - std_d) of T(P(u)) over users, the variance term of VICReg (Bardes et al., ICLR'22)."""
    std_D = (teacher_GD.var(0, correction=0) + 1e-4).sqrt()
    return F.relu(1 - std_D).mean()


def dynamic_scale(ranking: Tensor, distillation: Tensor, cap: float | None) -> Tensor:
    """β = sg(L_model / L_distil), at most ``cap`` (ECIR'26, eq. 5)."""
    beta = ranking.detach() / distillation.detach().clamp(min=_TINY)
    return beta if cap is None else beta.clamp(max=cap)


def cosines(student_GD: Tensor, teacher_GD: Tensor) -> Tensor:
    """[G, G]: student i against the profile of user j."""
    return F.normalize(student_GD, dim=1) @ F.normalize(teacher_GD, dim=1).T


@torch.no_grad()
def mean_variance(rows_GD: Tensor) -> Tensor:
    """Variance over users, averaged over dimensions; near 0 means that this side has collapsed."""
    return rows_GD.var(0, correction=0).mean()


@torch.no_grad()
def retrieval_accuracy(student_GD: Tensor, teacher_GD: Tensor) -> Tensor:
    """Share of users whose H_k is nearest, by cosine, to their own T(P(u)); chance is 1 / G."""
    own_G = torch.arange(len(student_GD), device=student_GD.device)
    return (cosines(student_GD, teacher_GD).argmax(1) == own_G).float().mean()


@dataclass(frozen=True)
class DistillationTerms:
    """The distilling half of eq. 5, before α: ``objective`` carries the gradient, the rest is detached."""

    objective: Tensor
    distillation: Tensor
    floor: Tensor
    beta: Tensor
    stats: dict[str, Tensor]


def no_distillation(like: Tensor) -> DistillationTerms:
    """Of a step that does not distil, or has nobody to."""
    zero = torch.zeros_like(like)
    return DistillationTerms(zero, zero, zero, zero, {})


def distill(
    config: DistillationConfig, rows_GC: Tensor, ranking: Tensor, beta: bool, beta_cap: float | None, with_stats: bool
) -> DistillationTerms:
    """β·L_distil plus the weighted variance hinge, which β does not scale."""
    student_GD, teacher_GD = rows_GC.chunk(2, 1)
    distillation = distillation_loss(config.loss, student_GD, teacher_GD)
    scale = dynamic_scale(ranking, distillation, beta_cap) if beta else torch.ones_like(ranking)
    objective, floor = scale * distillation, torch.zeros_like(ranking)
    if config.projection.variance_floor > 0:
        floor = variance_hinge(teacher_GD)
        objective = objective + config.projection.variance_floor * floor
    stats = {}
    if with_stats:
        stats = {
            "student_variance": mean_variance(student_GD),
            "teacher_variance": mean_variance(teacher_GD),
            "retrieval": retrieval_accuracy(student_GD, teacher_GD),
        }
    return DistillationTerms(objective, distillation.detach(), floor.detach(), scale, stats)
