"""Finished recommenders as one teacher: the mean of their logits, read without dropout on the student's own inputs;
baselines may add to it.

The mean of inner products is one inner product of the members' states side by side, so the whole catalogue is scored
by one product and nothing as large as positions × items is kept.

Legend: B batch, L positions, N positions with a target, V items 1…n, E width of all members together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import cast

import torch
from torch import Tensor

from configs.errors import ConfigError, illegal
from models.base import NextItem, Student
from models.history_scores import LinkScores, TextScores
from models.matching import TeacherScores
from models.profile_reader import ProfileReader, ReadingStudent
from models.protocols import Encoded
from models.states import encode


class Ensemble:
    """Frozen members. It is no ``nn.Module``: neither DDP nor a checkpoint sees it."""

    def __init__(self, student: Student, members: Sequence[Student], weights: Sequence[float],
                 readers: Sequence[ProfileReader | None] | None = None,
                 baselines: Sequence[TextScores | LinkScores] = ()) -> None:
        """
        Args:
            student: who reads the same inputs.
            members: trained on the same catalogue; put into evaluation mode.
            weights: of each member's logits; their sum is brought to 1.
            readers: what each member reads of the users' profiles; None: nobody reads them.
            baselines: whose scores are added to the members' mean.

        Raises:
            ConfigError: a member of another catalogue, of another objective, or with a shorter memory; baselines for a
                student that does not predict the next item.
        """
        if baselines and not isinstance(student, NextItem):
            raise ConfigError(illegal("an ensemble's baselines with the student", type(student).__name__,
                                      "a student that predicts the next item, as they do"))
        for member in members:
            if member.num_items != student.num_items:
                raise ConfigError(illegal("items of an ensemble's member", member.num_items,
                                          f"{student.num_items}, as the student has", "train it on the same data"))
            if isinstance(member, NextItem) != isinstance(student, NextItem):
                raise ConfigError(illegal("an ensemble's member", type(member).__name__,
                                          f"a recommender with the objective of the student, {type(student).__name__}"))
            if member.max_length < student.max_length:
                raise ConfigError(illegal("model.max_length of an ensemble's member", member.max_length,
                                          f"{student.max_length} or more, what the student reads"))
            member.eval().requires_grad_(False)
        total = sum(weights)
        self._members = [(member, weight / total) for member, weight in zip(members, weights, strict=True)]
        self._reading = [None if reader is None else ReadingStudent(member, reader.requires_grad_(False))
                         for member, reader in zip(members, readers or [None] * len(members), strict=True)]
        self._texts = [each for each in baselines if isinstance(each, TextScores)]
        self._links = [each for each in baselines if isinstance(each, LinkScores)]
        self._table_VE = torch.cat([*(member.item_weights_VD().float() for member in members),
                                    *(texts.table_VE for texts in self._texts)], 1)

    def to(self, device: torch.device) -> Ensemble:
        """The same on a device."""
        for member, _ in self._members:
            member.to(device)
        for reading in filter(None, self._reading):
            reading.reader.to(device)
        for texts in self._texts:
            texts.to(device)
        for links in self._links:
            links.to(device)
        self._table_VE = self._table_VE.to(device)
        return self

    @torch.no_grad()
    def __call__(self, inputs_BL: Sequence[Tensor], chosen_N: Tensor, users_B: Tensor) -> TeacherScores:
        """What the members say at the chosen positions.

        Args:
            inputs_BL: item ids of a batch, piece by piece.
            chosen_N: places in the flattened pieces, end to end.
            users_B: whose rows they are, end to end.
        """
        states = []
        for (member, share), reading in zip(self._members, self._reading, strict=True):
            read, encoder = inputs_BL, cast(Callable[..., Encoded], member)
            if reading is not None:
                table_TD, read = reading.read(inputs_BL, users_B)
                encoder = partial(reading.encode, table_TD)
            states.append(share * encode(encoder, read, None, member.packs).final_ND(chosen_N).float())
        states += [texts.states_NE(inputs_BL, chosen_N) for texts in self._texts]
        return TeacherScores(torch.cat(states, 1), self._table_VE,
                             [links.votes(inputs_BL, chosen_N) for links in self._links])
