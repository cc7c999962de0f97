"""The teacher *neighbours*: a user's state is drawn to the mean state of the users whose profiles are nearest.

The target lies in the student's own space, so no map between spaces is learnt ("LLM-ESR", Liu et al., NeurIPS'24). Each
user's state is kept as it was in the step that last read them; the store is part of the training state, equal on every
rank, and nothing of it is served.

Legend: R profiled training users, K neighbours, B batch, U users of this rank, G of the global batch, D hidden width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.parallel import gather_rows, gather_values


class NeighbourStates(nn.Module):
    """The kept states, and who is whose neighbour."""

    def __init__(self, users_R: Tensor, near_RK: Tensor, hidden_dim: int) -> None:
        """
        Args:
            users_R: int64, ascending: user indices as batches have them.
            near_RK: int64, places in ``users_R`` of each user's neighbours.
            hidden_dim: D.
        """
        super().__init__()
        self.register_buffer("users_R", users_R, persistent=False)
        self.register_buffer("near_RK", near_RK, persistent=False)
        self.register_buffer("states_RD", torch.zeros(len(users_R), hidden_dim))
        self.register_buffer("seen_R", torch.zeros(len(users_R), dtype=torch.bool))
        self.users_R: Tensor
        self.near_RK: Tensor
        self.states_RD: Tensor
        self.seen_R: Tensor

    def places(self, users_B: Tensor) -> Tensor:
        """int64 [B], places of users in the store; -1: no profile."""
        place_B = torch.searchsorted(self.users_R, users_B).clamp(max=len(self.users_R) - 1)
        return torch.where(self.users_R[place_B] == users_B, place_B, -1)

    @torch.no_grad()
    def mean_states(self, places_U: Tensor) -> tuple[Tensor, Tensor]:
        """fp32 [U, D], the mean of the neighbours' kept states, and bool [U], whether any of them has been read."""
        near_UK = self.near_RK[places_U]
        seen_UK1 = self.seen_R[near_UK].unsqueeze(2)
        count_U1 = seen_UK1.sum(1)
        mean_UD = (self.states_RD[near_UK] * seen_UK1).sum(1) / count_U1.clamp(min=1)
        return mean_UD, count_U1.squeeze(1) > 0

    @torch.no_grad()
    def keep(self, places_U: Tensor, states_UD: Tensor) -> None:
        """Store the states of all ranks' users; every rank must call it."""
        count = torch.tensor([len(places_U)], device=places_U.device)
        counts = [int(n) for n in gather_values(count).flatten().tolist()]
        places_G = gather_rows(places_U.unsqueeze(1), counts).squeeze(1)
        self.states_RD[places_G] = gather_rows(states_UD.detach(), counts)
        self.seen_R[places_G] = True
