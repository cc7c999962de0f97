"""A recommender that reads profiles: what is added where, in training, in validation and as a member of an ensemble."""

from __future__ import annotations

import pytest
import torch

from configs.errors import ConfigError
from models.base import Student
from models.config import BERT4RecConfig, MatchingConfig, ModelConfig, SoftmaxLoss
from models.distilled import DistilledRecommender
from models.ensemble import Ensemble
from models.history_scores import Links, LinkScores, TextScores
from models.profile_reader import ProfileReader, ReadingScorer, ReadingStudent, with_users
from models.sequences import Batch, Sequences, pieces
from models.students import build_encoder
from tests.students import CAUSAL, NUM_ITEMS, SASREC, rows

USERS = torch.tensor([2, 5, 9])
VECTORS = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))


def reader(dropout: float = 0.0, zero: bool = False) -> ProfileReader:
    found = ProfileReader(USERS, VECTORS, 8, dropout)
    if not zero:
        torch.nn.init.normal_(found.map_DP, generator=torch.Generator().manual_seed(1))
    return found


def naive(student: Student, items: list[int], added_D: torch.Tensor) -> torch.Tensor:
    """States of one history whose items are replaced, one by one, by new items with the vector added."""
    table = student.item_embedding.weight
    wider = torch.cat([table[:1], table[items] + added_D])
    inputs = torch.arange(1, len(items) + 1).unsqueeze(0)
    found: torch.Tensor = torch.func.functional_call(student, {"item_embedding.weight": wider}, (inputs,)).hidden_BLD[0]
    return found


@pytest.mark.parametrize("config", CAUSAL.values(), ids=CAUSAL)
def test_every_item_of_a_user_is_read_with_the_map_of_the_profile(config: ModelConfig) -> None:
    student, read = build_encoder(config, NUM_ITEMS, 0).eval(), reader()
    with torch.no_grad():
        histories, users = [[3, 1, 3], [7], [2, 4, 4, 9, 1]], torch.tensor([5, 1, 9])
        reading = ReadingStudent(student, read)
        states = reading.user_states_BD(rows(*histories), users)
        for state, history, added in zip(states, histories, (VECTORS[1], VECTORS[1] * 0, VECTORS[2]), strict=True):
            torch.testing.assert_close(state, naive(student, history, read.map_DP @ added)[-1], rtol=1e-4, atol=1e-5)
    plain = student.user_states_BD(rows(*histories))
    torch.testing.assert_close(states[1], plain[1], rtol=1e-4, atol=1e-5)  # user 1 has no profile


def test_pieces_keep_padding_and_the_order_of_rows() -> None:
    table = torch.arange(10.0).unsqueeze(1)
    given, places = with_users(table, [rows([4], [6]), rows([1, 2, 3])], torch.tensor([[100.0], [200.0], [300.0]]))
    read = [given[piece].squeeze(2).tolist() for piece in places]
    assert read == [[[104.0], [206.0]], [[301.0, 302.0, 303.0]]]
    given, (place,) = with_users(table, [rows([4, 0, 0], [1, 2, 0])], torch.tensor([[10.0], [20.0]]))
    assert given[place].squeeze(2).tolist() == [[14.0, 0.0, 0.0], [21.0, 22.0, 0.0]]


def recommender(read: ProfileReader | None) -> DistilledRecommender:
    return DistilledRecommender(build_encoder(SASREC, NUM_ITEMS, 0), SoftmaxLoss(), None, 0, 0, 0, profile_reader=read)


def batch() -> Batch:
    items = rows([3, 1, 3], [2, 4], [2, 4, 4, 9, 1])
    order = torch.tensor([1, 0, 2])
    lengths = (items[order] != 0).sum(1).numpy()
    return Batch(torch.tensor([5, 1, 9])[order], items[order], pieces=pieces(lengths))


def test_a_map_of_zeros_is_the_plain_recommender_and_learns() -> None:
    plain, reading = recommender(None), recommender(reader(zero=True))
    terms = reading(batch(), 0.0)
    assert float(terms.ranking) == pytest.approx(float(plain(batch(), 0.0).ranking), rel=1e-5)
    terms.total.backward()
    assert reading.profile_reader is not None and reading.profile_reader.map_DP.grad is not None
    assert float(reading.profile_reader.map_DP.grad.abs().max()) > 0
    assert list(plain.encoder.state_dict()) == list(reading.encoder.state_dict())


def test_training_reads_profiles_as_by_hand() -> None:
    read = reader()
    found = recommender(read).eval()
    student = found.encoder
    assert isinstance(student, Student)
    total, count = 0.0, 0
    for user, history in ((5, [3, 1, 3]), (1, [2, 4]), (9, [2, 4, 4, 9, 1])):
        states = naive(student, history[:-1], read(torch.tensor([user]))[0])
        scores = states @ student.item_weights_VD().T
        wanted = torch.tensor(history[1:]) - 1
        total += float(torch.nn.functional.cross_entropy(scores, wanted, reduction="sum").detach())
        count += len(history) - 1
    assert float(found(batch(), 0.0).ranking) == pytest.approx(total / count, rel=1e-5)


def test_a_seeded_share_is_read_without_profiles() -> None:
    users = torch.arange(4000)
    many = ProfileReader(users, torch.ones(4000, 1), 1, dropout=0.3)
    torch.nn.init.ones_(many.map_DP)
    told = [many(users, seed).squeeze(1) for seed in (1, 1, 2)]
    assert float(told[0].detach().mean()) == pytest.approx(0.7, abs=0.03)
    assert torch.equal(told[0], told[1]) and not torch.equal(told[0], told[2])
    assert bool((many(users) == 1).all())


def test_a_member_reads_the_profiles_of_the_students_users() -> None:
    student, member, read = (build_encoder(SASREC, NUM_ITEMS, seed) for seed in (0, 1)), build_encoder(
        SASREC, NUM_ITEMS, 2), reader()
    first, second = student
    ensemble = Ensemble(first, [second, member], [1.0, 3.0], [None, read])
    inputs, users = [rows([3, 1, 3]), rows([2, 4, 4, 9, 1], [6, 5, 4, 3, 2])], torch.tensor([5, 9, 2])
    chosen = torch.tensor([1, 2, 3 + 4, 3 + 5])
    found = ensemble(inputs, chosen, users)
    scores = found.states_NE @ found.table_VE.T
    read_states = [naive(member, history, read(user.unsqueeze(0))[0]) for history, user in zip(
        ([3, 1, 3], [2, 4, 4, 9, 1], [6, 5, 4, 3, 2]), users, strict=True)]
    expected = torch.cat([read_states[0][1:3], read_states[1][4:5], read_states[2][:1]]) @ member.item_weights_VD().T
    plain = [second(piece).hidden_BLD.flatten(0, 1) for piece in inputs]
    own = torch.cat(plain)[chosen] @ second.item_weights_VD().T
    torch.testing.assert_close(scores, 0.25 * own + 0.75 * expected, rtol=1e-4, atol=1e-4)
    vectors_VE = torch.nn.functional.normalize(torch.randn(NUM_ITEMS, 4), dim=1)
    texts = TextScores(vectors_VE, 0.5, scale=6.0)
    links = LinkScores(Links.of(torch.arange(NUM_ITEMS + 1), torch.arange(NUM_ITEMS).roll(1), torch.ones(NUM_ITEMS)),
                       0.0, last_alone=True, scale=5.0)
    more = Ensemble(first, [second, member], [1.0, 3.0], [None, read], [links, texts])(inputs, chosen, users)
    added = more.states_NE @ more.table_VE.T - scores  # beside the members' mean, each by its own scale
    torch.testing.assert_close(added, texts.states_NE(inputs, chosen) @ vectors_VE.T, rtol=1e-4, atol=1e-4)
    places_K, rows_K, scores_K = more.votes[0].cast(0, 4)
    assert (places_K.tolist(), scores_K.tolist()) == ([0, 1, 2, 3], [5.0] * 4)
    assert rows_K.tolist() == torch.arange(NUM_ITEMS).roll(1)[torch.tensor([1, 3, 1, 6]) - 1].tolist()
    with pytest.raises(ConfigError, match="baselines.*BERT4Rec.*predicts the next item"):
        Ensemble(build_encoder(BERT4RecConfig(hidden_dim=16, max_length=8), NUM_ITEMS, 0), [], [], [], [links])
    model = recommender(None)
    model.learn_from(ensemble, MatchingConfig())
    assert float(model(batch(), 0.0, matching=True).matching) > 0


def test_validation_ranks_with_the_profiles_of_its_users() -> None:
    student = build_encoder(SASREC, NUM_ITEMS, 0).eval()
    scorer = ReadingScorer(ReadingStudent(student, reader()), "cpu")
    histories = Sequences.from_lists([[3, 1, 3], [7], [2, 4, 4, 9, 1]])
    scorer.give(histories, torch.tensor([5, 1, 9]).numpy(), batch=2)
    states = scorer.states(histories, torch.tensor([2, 0]).numpy())
    wanted = ReadingStudent(student, reader()).user_states_BD(rows([2, 4, 4, 9, 1], [3, 1, 3]), torch.tensor([9, 5]))
    torch.testing.assert_close(states, wanted, rtol=1e-4, atol=1e-5)
