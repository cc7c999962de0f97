"""The student and its teacher's side in one module, so that DDP sees every parameter (ECIR'26, eqs. 5-6).

Legend: B batch, L positions, D hidden width, N positions with a target, X rows that are scored against,
U profiled users of this rank, G of the global batch, C = 2D, W ranks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from configs.errors import ConfigError, DataError, illegal
from models.base import Student
from models.config import DistillationConfig, MatchingConfig, RankingLossConfig
from models.distillation import distill, no_distillation
from models.ensemble import Ensemble
from models.hashing import derive_seed
from models.item_rows import ForeignRows, ItemRows, LookUp, RowwiseRows, StudentRows
from models.item_table import ItemTable
from models.losses import build_ranking_loss, build_sampler
from models.matching import MatchingSums, match
from models.matmul import Precision
from models.neighbours import NeighbourStates
from models.parallel import gather_rows, gather_values, world_size
from models.perturbation import perturb
from models.pooling import Pooling
from models.profile_head import ProfileHead
from models.profile_reader import ProfileReader
from models.protocols import SequenceEncoder
from models.rowwise import RowwiseTable
from models.sequences import Batch
from models.states import States, encode

_TEACHER_STREAM = 1
_PERTURBATION_STREAM = 2


@dataclass(frozen=True)
class LossTerms:
    """``total`` is for ``backward``; everything else is detached and global, equal on every rank."""

    total: Tensor
    """Scaled by the world size: the mean over ranks that DDP takes is the gradient of the global objective."""
    ranking: Tensor
    """L_model, mean over positions."""
    matching: Tensor
    """τ²·KL(ensemble ‖ student), mean over positions; 0 in a step that does not match."""
    distillation: Tensor
    """L_distil; 0 when no user of the global batch has a profile, or the phase does not distil."""
    variance_floor: Tensor
    """The hinge on T(P(u)), before its weight."""
    beta: Tensor
    """β of eq. 5; 0 when nothing is distilled."""
    num_positions: int
    num_profiled: int
    student_variance: Tensor | None = None
    """Of H_k over profiled users, mean over dimensions. None where not asked for or nobody is profiled."""
    teacher_variance: Tensor | None = None
    """Of T(P(u)), likewise."""
    retrieval: Tensor | None = None
    """Share of profiled users whose H_k finds their own T(P(u)) in the global batch."""

    def values(self) -> dict[str, float]:
        """The global numbers for a log, absent ones left out."""
        logged = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "total"}
        tensors = {name: value for name, value in logged.items() if isinstance(value, Tensor)}
        numbers = torch.stack(list(tensors.values())).tolist()  # one wait for a GPU, not one per value
        return dict(zip(tensors, numbers, strict=True)) | {
            name: float(value) for name, value in logged.items() if isinstance(value, int)}


class DistilledRecommender(nn.Module):
    """L = α·(β·L_distil + floor) + (1 - α)·L_model while α > 0, else L_model.

    A global batch without any profiled user has β = 0 and keeps (1 - α)·L_model, its weight among the others. In a step
    that matches an ensemble, (1 - w)·L_model + w·L_match stands in place of L_model, on perturbed histories.
    """

    def __init__(
        self,
        encoder: SequenceEncoder,
        loss: RankingLossConfig,
        distillation: DistillationConfig | None,
        profile_dim: int,
        num_angles: int,
        seed: int,
        compat: Literal["none", "upstream"] = "none",
        precision: Precision = "fp32",
        item_counts_V: Tensor | None = None,
        item_table: ItemTable | None = None,
        neighbours: NeighbourStates | None = None,
        profile_reader: ProfileReader | None = None,
    ) -> None:
        """
        Args:
            encoder: the student; it stays in ``.encoder`` and its state dict is what is served.
            loss: form of L_model.
            distillation: None for the plain arm, which then has no teacher-side parameter at all.
            profile_dim: width of the teacher's vectors.
            num_angles: profiles per user, at most.
            seed: of the teacher's side; the encoder has been initialised already.
            compat: ``upstream`` pools over padding as the published code does.
            precision: of the ranking loss's matrix products.
            item_counts_V: of items 1…n, where the loss samples by them: interactions in training, for ``in_batch``
                positions that ask for them.
            item_table: computes the student's item table; a module whose parameters are trained in its place.
            neighbours: takes the place of T where ``distillation.target`` says so.
            profile_reader: lets the student read the users' profiles beside their items.

        Raises:
            ConfigError: the encoder is no torch module; T's widths do not fit; counts are needed.
        """
        super().__init__()
        if not isinstance(encoder, nn.Module):
            raise ConfigError(illegal("encoder", type(encoder).__name__, "a torch.nn.Module that is a SequenceEncoder"))
        self.encoder: SequenceEncoder = encoder
        self.ranking_loss = build_ranking_loss(loss, encoder.num_items, precision)
        self.sampler = build_sampler(loss, encoder.num_items, item_counts_V)
        self._precision: Precision = precision
        self.item_table, self.profile_reader = item_table, profile_reader
        self._packs = isinstance(encoder, Student) and encoder.packs
        self._items: ItemRows = (StudentRows(encoder, item_table) if isinstance(encoder, Student)
                                 else ForeignRows(encoder))
        self._ensemble: Ensemble | None = None
        self._matching = MatchingConfig()
        self.distillation, self.neighbours = distillation, neighbours
        if distillation is not None:
            pad_to = encoder.max_length if compat == "upstream" else None
            self.pooling = Pooling(distillation.pooling, encoder.hidden_dim, pad_to)
            if neighbours is None:
                self.head = ProfileHead(
                    distillation, profile_dim, num_angles, encoder.hidden_dim, derive_seed(seed, _TEACHER_STREAM)
                )
        self._teacher = list(self.teacher_parameters())

    def forward(
        self,
        batch: Batch,
        alpha: float,
        beta: bool = False,
        beta_cap: float | None = None,
        mask_seed: int = 0,
        with_stats: bool = False,
        draw_seed: int = 0,
        matching: bool = False,
    ) -> LossTerms:
        """Losses of one rank's part of a global batch; every rank must call it with the same settings.

        Args:
            batch: rows of this rank; none of them, or none with a profile, is fine.
            alpha: α of this step; 0 trains on next items alone.
            beta: dynamic scaling; off: β = 1.
            beta_cap: upper bound of β; None: unbounded.
            mask_seed: of the encoder's masks.
            with_stats: also compute the variances and the retrieval share.
            draw_seed: of the step's negatives.
            matching: the step learns from the ensemble, see :meth:`learn_from`.

        Raises:
            DataError: α > 0, and the batch carries no profile columns or the encoder gives no states of the layer.
        """
        active = self.distillation if alpha > 0 else None
        inputs = [self.encoder.training_inputs(*piece, mask_seed) for piece in self._pieces(batch, mask_seed, matching)]
        inputs_BL = [piece.inputs_BL for piece in inputs]
        targets_X = torch.cat([piece.targets_BL.flatten() for piece in inputs])
        places_N = targets_X.nonzero().squeeze(1)
        targets_N = targets_X.index_select(0, places_N)
        negatives = None if self.sampler is None else self.sampler(targets_N, draw_seed)
        added_BD = None if self.profile_reader is None else self.profile_reader(batch.users_B, mask_seed)
        found = self._items.look_up(inputs_BL, targets_N, negatives, added_BD)
        states = encode(found.encode, found.inputs_BL, active.layer if active else None, self._packs)
        with torch.autocast(batch.items_BL.device.type, enabled=False):
            hidden_ND = states.final_ND(places_N)
            if matching and len(places_N):
                sums = self._match(hidden_ND, found, inputs_BL, places_N, batch.users_B)
            else:
                ranking = self.ranking_loss(hidden_ND, found.weights_XD, found.rows_N, found.negatives)
                sums = MatchingSums(ranking, ranking, torch.zeros_like(ranking))
            sides_UC = self._sides(states, inputs_BL, batch) if active else hidden_ND.new_zeros(0, 2)
            overall = _over_ranks(sums, len(places_N), len(sides_UC))
            terms = no_distillation(overall.ranking)
            if active and overall.num_profiled:
                sides_GC = gather_rows(sides_UC, overall.profiled_W)
                terms = distill(active, sides_GC, self._main(overall, matching), beta, beta_cap, with_stats)
            # Per-rank sums over global counts, times W: DDP averages gradients over the W ranks.
            local = sums.objective / max(overall.num_positions, 1) * (1 - alpha if active else 1)
            local = local + alpha * terms.objective
            # DDP waits for every parameter, also in steps that do not teach.
            idle = sum((0 * p.sum() for p in self._teacher), torch.zeros_like(local))
            return LossTerms(
                total=world_size() * local + idle, ranking=overall.ranking, matching=overall.matching,
                distillation=terms.distillation, variance_floor=terms.floor, beta=terms.beta,
                num_positions=overall.num_positions, num_profiled=overall.num_profiled, **terms.stats,
            )

    def teacher_parameters(self) -> Iterator[nn.Parameter]:
        """Parameters that exist only during training: T, attention vectors."""
        return (p for name, p in self.named_parameters() if not name.startswith("encoder."))

    def learn_from(self, ensemble: Ensemble, config: MatchingConfig) -> None:
        """From now on steps may match these recommenders."""
        self._ensemble, self._matching = ensemble, config

    def train_rows_of(self, table: RowwiseTable) -> None:
        """From now on a step reads the item table's rows from there, and their gradient stays there.

        Raises:
            ConfigError: the loss scores the whole catalogue.
        """
        if self.sampler is None:
            raise ConfigError("train.optimizer.table: rowwise needs a loss with sampled negatives, but softmax touches "
                              "every item in every step; choose sampled_softmax, bce or gbce, or dense")
        self._items = RowwiseRows(self.encoder, table)

    def _pieces(self, batch: Batch, mask_seed: int, matching: bool) -> Iterator[tuple[Tensor, Tensor]]:
        """Items and users, perturbed where the step matches."""
        change = self._matching.perturb if matching else None
        if change is None:
            return batch.split()
        seed = derive_seed(mask_seed, _PERTURBATION_STREAM)
        return ((perturb(items_BL, users_B, change, seed), users_B) for items_BL, users_B in batch.split())

    def _match(self, hidden_ND: Tensor, found: LookUp, inputs_BL: list[Tensor], places_N: Tensor, users_B: Tensor
               ) -> MatchingSums:
        """The sums of a step that matches the ensemble; such a step scores the whole catalogue."""
        assert self._ensemble is not None, "learn_from comes first"
        return match(hidden_ND.float(), found.weights_XD.float(), found.rows_N,
                     self._ensemble(inputs_BL, places_N, users_B), self._matching.weight,
                     self._matching.temperature, self._precision)

    def _main(self, overall: _Overall, matching: bool) -> Tensor:
        """What stands beside distillation in this step: L_model, or (1 - w)·L_model + w·L_match."""
        weight = self._matching.weight if matching else 0.0
        return torch.lerp(overall.ranking, overall.matching, weight)

    def _sides(self, states: States, inputs_BL: list[Tensor], batch: Batch) -> Tensor:
        """[U, 2D]: H_k beside its target for this rank's users with a profile and a real position."""
        if self.neighbours is not None:
            return self._sides_of_neighbours(self.neighbours, states, inputs_BL, batch)
        if batch.profiles_BAP is None or batch.profiled_BA is None:
            raise DataError("a step with alpha above 0 needs Batch.profiles_BAP and profiled_BA: zeros and False for "
                            "users without a profile")
        pooled_BD = states.pooled_BD(self.pooling)
        chosen_U = (batch.profiled_BA.any(1) & _any_real(inputs_BL)).nonzero().squeeze(1)
        teacher_UD = self.head(batch.profiles_BAP[chosen_U].float(), batch.profiled_BA[chosen_U])
        return torch.cat([pooled_BD.index_select(0, chosen_U), teacher_UD], 1)

    def _sides_of_neighbours(self, neighbours: NeighbourStates, states: States, inputs_BL: list[Tensor], batch: Batch
                             ) -> Tensor:
        """The same with the neighbours' mean states, of users some of whose neighbours have been read; then this step's
        states are kept."""
        pooled_BD = states.pooled_BD(self.pooling)
        places_B = neighbours.places(batch.users_B)
        chosen_U = ((places_B >= 0) & _any_real(inputs_BL)).nonzero().squeeze(1)
        own_UD, places_U = pooled_BD.index_select(0, chosen_U), places_B[chosen_U]
        mean_UD, able_U = neighbours.mean_states(places_U)
        neighbours.keep(places_U, own_UD)
        return torch.cat([own_UD, mean_UD], 1)[able_U]


def _any_real(inputs_BL: list[Tensor]) -> Tensor:
    """bool [B], whether a row has an item."""
    return torch.cat([(piece_BL != 0).any(1) for piece_BL in inputs_BL])


class _Overall(NamedTuple):
    """Means and counts over all ranks, without gradients."""

    ranking: Tensor
    """Mean over positions, as the next."""
    matching: Tensor
    num_positions: int
    profiled_W: list[int]
    """Profiled users of each rank."""

    @property
    def num_profiled(self) -> int:
        return sum(self.profiled_W)


def _over_ranks(sums: MatchingSums, num_positions: int, num_profiled: int) -> _Overall:
    """What the ranks' sums over positions come to; every rank must call it."""
    counts_2 = sums.ranking.new_tensor([num_positions, num_profiled])
    local_4 = torch.stack([sums.ranking.detach(), sums.matching.detach(), *counts_2])
    ranks_W4 = gather_values(local_4.double())
    positions, profiled_W = int(ranks_W4[:, 2].sum()), [int(n) for n in ranks_W4[:, 3].tolist()]
    ranking, matching = (ranks_W4[:, :2].sum(0) / max(positions, 1)).float().unbind()
    return _Overall(ranking, matching, positions, profiled_W)
