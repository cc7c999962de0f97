"""The student with its teacher's side: where gradients go, what is served, what each setting does."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from configs.errors import ConfigError, DataError
from models.config import (
    AttentionPooling,
    BERT4RecConfig,
    DistillationConfig,
    InfoNCEDistillation,
    MatchingConfig,
    ModelConfig,
    MSEDistillation,
    ProjectionConfig,
    RMSEDistillation,
    SASRecConfig,
    SoftmaxLoss,
)
from models.distilled import DistilledRecommender, LossTerms
from models.ensemble import Ensemble
from models.sequences import Batch
from models.students import build_encoder

NUM_ITEMS, PROFILE_DIM = 30, 5
SASREC = SASRecConfig(hidden_dim=8, num_blocks=3, max_length=6, dropout=0.0)
BERT4REC = BERT4RecConfig(hidden_dim=8, num_blocks=3, max_length=6, dropout=0.0)
BOTH = pytest.mark.parametrize("config", [SASREC, BERT4REC], ids=lambda c: c.kind)
MSE = DistillationConfig(loss=MSEDistillation(), layer=1)


def model(config: ModelConfig = SASREC, distillation: DistillationConfig | None = MSE, seed: int = 0,
          num_angles: int = 1) -> DistilledRecommender:
    encoder = build_encoder(config, NUM_ITEMS, seed)
    return DistilledRecommender(encoder, SoftmaxLoss(chunk_rows=4), distillation, PROFILE_DIM, num_angles, seed)


def batch(profiled: list[bool] | None = None, num_angles: int = 1, lengths: tuple[int, ...] = (7, 4, 2, 5)) -> Batch:
    """Rows of the given lengths; everyone has all profiles unless said otherwise."""
    generator = torch.Generator().manual_seed(3)
    items_BL = torch.randint(1, NUM_ITEMS + 1, (len(lengths), max(lengths)), generator=generator)
    items_BL[torch.arange(max(lengths)) >= torch.tensor(lengths).unsqueeze(1)] = 0
    real_BA = torch.tensor([True] * len(lengths) if profiled is None else profiled).unsqueeze(1).repeat(1, num_angles)
    profiles_BAP = torch.randn(len(lengths), num_angles, PROFILE_DIM, generator=generator) * real_BA.unsqueeze(2)
    return Batch(torch.arange(len(lengths)) + 100, items_BL, profiles_BAP, real_BA)


def gradients(recommender: DistilledRecommender, terms: LossTerms) -> dict[str, Tensor]:
    recommender.zero_grad(set_to_none=True)
    terms.total.backward()
    missing = [name for name, p in recommender.named_parameters() if p.grad is None]
    assert not missing, "DDP would wait for these for ever"
    return {name: p.grad.clone() for name, p in recommender.named_parameters() if p.grad is not None}


@BOTH
def test_alpha_zero_gives_the_plain_gradient(config: ModelConfig) -> None:
    plain, distilled = model(config, None), model(config)
    expected = gradients(plain, plain(batch(), alpha=0.0, mask_seed=4))
    got = gradients(distilled, distilled(batch(), alpha=0.0, beta=True, mask_seed=4))
    assert all(torch.equal(got[name], expected[name]) for name in expected)
    assert all(not got[name].any() for name in got if name not in expected)


@BOTH
def test_served_parameters_start_equal_and_have_the_same_names_and_shapes(config: ModelConfig) -> None:
    plain, distilled = model(config, None).encoder.state_dict(), model(config).encoder.state_dict()
    assert list(plain) == list(distilled)
    assert all(torch.equal(plain[name], distilled[name]) for name in plain)
    assert list(model(config, None).teacher_parameters()) == []
    assert len(list(model(config).teacher_parameters())) == 2


@BOTH
def test_the_loss_of_a_batch_is_the_weighted_mean_of_its_users(config: ModelConfig) -> None:
    recommender, whole = model(config), batch()
    parts = [Batch(whole.users_B[i : i + 1], whole.items_BL[i : i + 1]) for i in range(4)]
    terms = [recommender(part, 0.0, mask_seed=2) for part in parts]
    together = recommender(whole, 0.0, mask_seed=2)
    assert together.num_positions == sum(t.num_positions for t in terms)
    mean = sum(float(t.ranking) * t.num_positions for t in terms) / together.num_positions
    assert float(together.ranking) == pytest.approx(mean, rel=1e-5)


def test_total_is_equation_5() -> None:
    terms = model()(batch(), alpha=0.3, beta=False)
    expected = 0.3 * float(terms.distillation) + 0.7 * float(terms.ranking)
    assert float(terms.total.detach()) == pytest.approx(expected, rel=1e-5)
    assert float(terms.beta) == 1.0


def test_dynamic_scale_is_the_ratio_and_carries_no_gradient() -> None:
    recommender = model()
    fixed, scaled = recommender(batch(), 0.3), recommender(batch(), 0.3, beta=True)
    ratio = float(fixed.ranking) / float(fixed.distillation)
    assert float(scaled.beta) == pytest.approx(ratio, rel=1e-5)
    assert float(scaled.total.detach()) == pytest.approx(float(scaled.ranking), rel=1e-5)
    ranking = gradients(recommender, recommender(batch(), 0.0))
    distillation = gradients(recommender, recommender(batch(), 1.0))
    both = gradients(recommender, scaled)
    for name in both:
        torch.testing.assert_close(both[name], 0.3 * ratio * distillation[name] + 0.7 * ranking[name])


def test_dynamic_scale_is_capped() -> None:
    uncapped = float(model()(batch(), 0.3, beta=True).beta)
    capped = model()(batch(), 0.3, beta=True, beta_cap=uncapped / 2)
    assert float(capped.beta) == pytest.approx(uncapped / 2)


@pytest.mark.parametrize("loss", [MSEDistillation(), RMSEDistillation(), InfoNCEDistillation()], ids=lambda c: c.kind)
def test_no_profiled_user_gives_beta_zero_and_no_nan(loss: MSEDistillation) -> None:
    recommender = model(distillation=MSE.model_copy(update={"loss": loss}))
    terms = recommender(batch([False] * 4), 0.4, beta=True, with_stats=True)
    grads = gradients(recommender, terms)
    assert (terms.num_profiled, float(terms.beta), float(terms.distillation)) == (0, 0.0, 0.0)
    assert float(terms.total.detach()) == pytest.approx(0.6 * float(terms.ranking), rel=1e-6)
    assert all(torch.isfinite(grad).all() for grad in grads.values())
    assert terms.retrieval is None and "retrieval" not in terms.values()


def test_users_without_a_profile_or_a_position_are_left_out() -> None:
    recommender = model()
    masked = batch([True, False, True, True], lengths=(7, 4, 1, 5))
    kept = torch.tensor([0, 3])
    few = Batch(*(t[kept] for t in (masked.users_B, masked.items_BL, masked.profiles_BAP, masked.profiled_BA)))
    terms = recommender(masked, 0.4)
    assert terms.num_profiled == 2
    torch.testing.assert_close(terms.distillation, recommender(few, 0.4).distillation)


def test_statistics_come_only_when_asked_for() -> None:
    recommender = model(distillation=MSE.model_copy(update={"projection": ProjectionConfig(kind="orthogonal")}))
    assert recommender(batch(), 0.4).student_variance is None
    values = recommender(batch(), 0.4, with_stats=True).values()
    assert values["num_profiled"] == 4 and 0 <= values["retrieval"] <= 1
    assert values["student_variance"] > 0 and values["teacher_variance"] > 0


def test_orthogonal_projection_is_fixed_seeded_and_orthonormal() -> None:
    config = MSE.model_copy(update={"projection": ProjectionConfig(kind="orthogonal")})
    recommender = model(distillation=config)
    weight_DP = recommender.head.projection.weight_DP
    torch.testing.assert_close(weight_DP.T @ weight_DP, torch.eye(PROFILE_DIM))
    assert list(recommender.teacher_parameters()) == []
    assert torch.equal(model(distillation=config).head.projection.weight_DP, weight_DP)
    assert not torch.equal(model(distillation=config, seed=1).head.projection.weight_DP, weight_DP)


def test_identity_projection_needs_equal_widths() -> None:
    config = MSE.model_copy(update={"projection": ProjectionConfig(kind="identity")})
    with pytest.raises(ConfigError, match="profiles have 5 and the model 8"):
        model(distillation=config)


def test_variance_floor_is_added_unscaled_by_beta() -> None:
    config = MSE.model_copy(update={"projection": ProjectionConfig(variance_floor=2.0)})
    terms = model(distillation=config)(batch(), 0.5, beta=True, beta_cap=0.5)
    assert float(terms.variance_floor) > 0
    expected = 0.5 * (0.5 * float(terms.distillation) + 2.0 * float(terms.variance_floor)) + 0.5 * float(terms.ranking)
    assert float(terms.total.detach()) == pytest.approx(expected, rel=1e-5)


def test_beta_scales_by_the_loss_that_stands_beside_distillation() -> None:
    """Where a step matches an ensemble, L_model is not it."""
    for weight in (0.0, 0.6, 1.0):
        recommender = model()
        other = build_encoder(SASREC, NUM_ITEMS, 7)
        recommender.learn_from(Ensemble(build_encoder(SASREC, NUM_ITEMS, 0), [other], [1.0]),
                               MatchingConfig(weight=weight, perturb=None))
        terms = recommender(batch(), 0.5, beta=True, beta_cap=None, matching=True)
        beside = (1 - weight) * float(terms.ranking) + weight * float(terms.matching)
        assert float(terms.beta * terms.distillation) == pytest.approx(beside, rel=1e-5)
        assert float(terms.total.detach()) == pytest.approx(beside, rel=1e-5)  # α·β·L_distil + (1 - α)·beside


def test_several_profiles_are_averaged_over_the_real_ones() -> None:
    recommender, two = model(num_angles=2), batch(num_angles=2)
    assert two.profiles_BAP is not None and two.profiled_BA is not None
    half = replace(two, profiled_BA=torch.tensor([[True, False]] * 4))
    one = Batch(two.users_B, two.items_BL, two.profiles_BAP[:, :1], two.profiled_BA[:, :1])
    torch.testing.assert_close(recommender(half, 1.0).distillation, recommender(one, 1.0).distillation)
    mean = Batch(two.users_B, two.items_BL, two.profiles_BAP.mean(1, keepdim=True), two.profiled_BA[:, :1])
    torch.testing.assert_close(recommender(two, 1.0).distillation, recommender(mean, 1.0).distillation)


def test_attention_over_profiles_starts_even_and_learns() -> None:
    even, learnt = model(num_angles=2), model(
        distillation=MSE.model_copy(update={"profile_aggregation": "attention"}), num_angles=2)
    torch.testing.assert_close(learnt(batch(num_angles=2), 1.0).distillation,
                               even(batch(num_angles=2), 1.0).distillation)
    grads = gradients(learnt, learnt(batch(num_angles=2), 1.0))
    assert grads["head.angle_weight"].any() and grads["head.angle_bias"].any()


def test_upstream_compatibility_pools_over_padding() -> None:
    encoder = build_encoder(SASREC, NUM_ITEMS, 0)
    upstream = DistilledRecommender(encoder, SoftmaxLoss(), MSE, PROFILE_DIM, 1, 0, compat="upstream")
    short = batch(lengths=(4, 4))
    assert float(upstream(short, 1.0).distillation) != pytest.approx(float(model()(short, 1.0).distillation), rel=1e-3)


def test_attention_pooling_belongs_to_the_teachers_side() -> None:
    recommender = model(distillation=MSE.model_copy(update={"pooling": AttentionPooling()}))
    assert gradients(recommender, recommender(batch(), 0.4))["pooling.attention.weight"].any()
    assert list(recommender.encoder.state_dict()) == list(model(distillation=None).encoder.state_dict())


def test_distilling_without_profile_columns_is_an_error() -> None:
    bare = Batch(batch().users_B, batch().items_BL)
    assert float(model()(bare, 0.0).ranking) > 0
    with pytest.raises(DataError, match="profiles_BAP"):
        model()(bare, 0.4)


def test_an_encoder_that_is_no_module_is_refused() -> None:
    with pytest.raises(ConfigError, match="torch.nn.Module"):
        DistilledRecommender(object(), SoftmaxLoss(), None, PROFILE_DIM, 1, 0)  # type: ignore[arg-type]
