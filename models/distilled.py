"""The student and its teacher's side in one module, so that DDP sees every parameter (ECIR'26, eqs. 5-6).

Legend: B batch, L positions, D hidden width, N positions with a target, G profiled users of the global batch.
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
from models.distillation import nothing_taught, teach
from models.ensemble import Ensemble
from models.hashing import derive_seed
from models.item_rows import ItemRows, Scored
from models.item_table import ItemTable
from models.losses import build_ranking_loss, build_sampler
from models.matching import Matched, match
from models.matmul import Precision
from models.packing import pack
from models.parallel import gather_rows, gather_values, world_size
from models.perturbation import perturb
from models.pooling import Pooling
from models.profile_head import ProfileHead
from models.protocols import SequenceEncoder
from models.rowwise import RowwiseTable
from models.sequences import Batch

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
            item_counts_V: occurrences of items 1…n in training, where the loss samples by them.
            item_table: computes the student's item table; a module whose parameters are trained in its place.

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
        self.item_table = item_table
        self._items = ItemRows(encoder, self.sampler, item_table)
        self._ensemble: Ensemble | None = None
        self._matching = MatchingConfig()
        self.distillation = distillation
        if distillation is not None:
            pad_to = encoder.max_length if compat == "upstream" else None
            self.pooling = Pooling(distillation.pooling, encoder.hidden_dim, pad_to)
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
            DataError: α > 0 and the batch carries no profile columns.
        """
        active = self.distillation if alpha > 0 else None
        inputs = [self.encoder.training_inputs(*piece, mask_seed) for piece in self._pieces(batch, mask_seed, matching)]
        scored = self._items.look_up(inputs, draw_seed)
        read = self._read(scored, active)
        with torch.autocast(batch.items_BL.device.type, enabled=False):
            hidden_ND, rows_N = read.hidden_ND, scored.rows_N
            if matching and len(rows_N):
                sums = self._matched(hidden_ND, scored, [piece.inputs_BL for piece in inputs])
            else:
                ranking_sum = self.ranking_loss(hidden_ND, scored.weights_XD, rows_N, scored.negatives)
                sums = Matched(ranking_sum, ranking_sum, torch.zeros_like(ranking_sum))
            rows_NC = self._sides(read, batch) if active else hidden_ND.new_zeros(0, 2)
            local_4 = torch.stack([sums.ranking.detach(), sums.matching.detach(),
                                   *sums.ranking.new_tensor([len(rows_N), len(rows_NC)])])
            ranks_W4 = gather_values(local_4.double())
            num_positions, counts = int(ranks_W4[:, 2].sum()), [int(n) for n in ranks_W4[:, 3].tolist()]
            ranking, matched = (ranks_W4[:, :2].sum(0) / max(num_positions, 1)).float().unbind()
            taught = nothing_taught(ranking)
            if active and sum(counts):
                taught = teach(active, gather_rows(rows_NC, counts), ranking, beta, beta_cap, with_stats)
            # Per-rank sums over global counts, times W: DDP averages gradients over the W ranks.
            local = sums.objective / max(num_positions, 1) * (1 - alpha if active else 1) + alpha * taught.objective
            # DDP waits for every parameter, also in steps that do not teach.
            idle = sum((0 * p.sum() for p in self._teacher), torch.zeros_like(ranking))
            return LossTerms(
                total=world_size() * local + idle, ranking=ranking, matching=matched,
                distillation=taught.distillation,
                variance_floor=taught.floor, beta=taught.beta, num_positions=num_positions,
                num_profiled=sum(counts), **taught.stats,
            )

    def teacher_parameters(self) -> Iterator[nn.Parameter]:
        """Parameters that exist only during training: T, attention vectors."""
        return (p for name, p in self.named_parameters() if not name.startswith("encoder."))

    def learn_from(self, ensemble: Ensemble, config: MatchingConfig) -> None:
        """From now on steps may match these recommenders."""
        self._ensemble, self._matching = ensemble, config

    def _pieces(self, batch: Batch, mask_seed: int, matching: bool) -> Iterator[tuple[Tensor, Tensor]]:
        """Items and users, perturbed where the step matches."""
        change = self._matching.perturb if matching else None
        if change is None:
            return batch.split()
        seed = derive_seed(mask_seed, _PERTURBATION_STREAM)
        return ((perturb(items_BL, users_B, change, seed), users_B) for items_BL, users_B in batch.split())

    def _matched(self, hidden_ND: Tensor, scored: Scored, inputs_BL: list[Tensor]) -> Matched:
        assert self._ensemble is not None
        return match(hidden_ND.float(), scored.weights_XD.float(), scored.rows_N,
                     self._ensemble(inputs_BL, scored.chosen_N), self._matching.weight, self._matching.temperature,
                     self._precision)

    def train_rows_of(self, table: RowwiseTable) -> None:
        """From now on a step reads the item table's rows from there, and their gradient stays there.

        Raises:
            ConfigError: the loss scores the whole catalogue.
        """
        self._items.train_rows_of(table)

    def _read(self, scored: Scored, active: DistillationConfig | None) -> _Read:
        """The states that have a target, and H_k of every row."""
        layer = active.layer if active else None
        packing, inputs_BL = None, scored.inputs_BL
        if isinstance(self.encoder, Student) and self.encoder.packs:
            packing = pack([(piece_BL != 0).sum(1).cpu().numpy() for piece_BL in inputs_BL],
                           [piece_BL.shape[1] for piece_BL in inputs_BL], inputs_BL[0].device)
            inputs_RW = packing.pack(torch.cat([piece_BL.flatten() for piece_BL in inputs_BL]))
            encoded = [self._items.encode(scored, inputs_RW, layer, packing)]
        else:
            encoded = [self._items.encode(scored, piece_BL, layer) for piece_BL in inputs_BL]
        hidden_XD = torch.cat([piece.hidden_BLD.flatten(0, 1) for piece in encoded])
        places_N = scored.chosen_N if packing is None else packing.places_X[scored.chosen_N]
        hidden_ND = hidden_XD.index_select(0, places_N)
        layers_BLD = [piece.layer_BLD for piece in encoded if piece.layer_BLD is not None]
        if active is None or len(layers_BLD) < len(encoded):
            return _Read(hidden_ND)
        real_BL = [piece_BL != 0 for piece_BL in inputs_BL]
        real_B = torch.cat([real.any(1) for real in real_BL])
        with torch.autocast(hidden_ND.device.type, enabled=False):
            states_XD = torch.cat([layer_BLD.float().flatten(0, 1) for layer_BLD in layers_BLD])
            if packing is not None and self.pooling.pad_to is None:
                return _Read(hidden_ND, self.pooling.packed(states_XD, packing, len(real_B)), real_B)
            if packing is not None:
                states_XD = states_XD.index_select(0, packing.places_X)
            # What an encoder gives for padding is unknown; the pooling wants finite numbers.
            states_XD = states_XD.masked_fill(~torch.cat([real.flatten() for real in real_BL]).unsqueeze(1), 0.0)
            pieces_XD = states_XD.split([real.numel() for real in real_BL])
            pooled = [self.pooling(piece_XD.view(*real.shape, self.encoder.hidden_dim), real)
                      for piece_XD, real in zip(pieces_XD, real_BL, strict=True)]
        return _Read(hidden_ND, torch.cat(pooled), real_B)

    def _sides(self, read: _Read, batch: Batch) -> Tensor:
        """[N, 2D]: H_k beside T(P(u)) for this rank's users with a profile and a real position."""
        if read.pooled_BD is None or read.real_B is None or batch.profiles_BAP is None or batch.profiled_BA is None:
            raise DataError("a step with alpha above 0 needs Batch.profiles_BAP and profiled_BA (zeros and False for "
                            "users without a profile), and an encoder that returns the states of the layer")
        chosen_N = (batch.profiled_BA.any(1) & read.real_B).nonzero().squeeze(1)
        teacher_ND = self.head(batch.profiles_BAP[chosen_N].float(), batch.profiled_BA[chosen_N])
        return torch.cat([read.pooled_BD.index_select(0, chosen_N), teacher_ND], 1)


class _Read(NamedTuple):
    """What the encoder gives for one rank's rows."""

    hidden_ND: Tensor
    pooled_BD: Tensor | None = None
    """H_k, fp32; None in a step that does not distil."""
    real_B: Tensor | None = None
    """Whether a row has a real position."""
