"""Model, pooling, distillation and loss settings. Torch-free; notation of ECIR'26."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from configs.base import Config
from configs.files import flatten

_TRAINING_ONLY = ("dropout", "mask_probability")
Probability = Annotated[float, Field(ge=0, lt=1)]


class StudentConfig(Config):
    """What every student has."""

    hidden_dim: int = Field(default=64, ge=1, le=2**14)
    """Hidden width d, also that of the item vectors."""

    num_blocks: int = Field(default=2, ge=1, le=2**10)
    """Transformer blocks or GRU layers."""

    dropout: Probability = 0.2
    """Dropout on embeddings, attention weights, feed-forward and GRU outputs."""

    max_length: int = Field(default=50, ge=1, le=2**16)
    """Most recent items that the model sees, L."""

    def differences(self, other: StudentConfig) -> list[str]:
        """``field: own → other`` for every field that changes what a model's weights compute."""
        own, others = flatten(self.model_dump(mode="json")), flatten(other.model_dump(mode="json"))
        return [f"{name}: {own.get(name)!r} → {others.get(name)!r}" for name in sorted(own.keys() | others.keys())
                if name not in _TRAINING_ONLY and own.get(name) != others.get(name)]


class TransformerConfig(StudentConfig):
    """What the transformers share."""

    num_heads: int = Field(default=1, ge=1)
    """Attention heads; divides hidden_dim."""

    @model_validator(mode="after")
    def _heads_divide(self) -> TransformerConfig:
        if self.hidden_dim % self.num_heads:
            raise ValueError(f"num_heads={self.num_heads} must divide hidden_dim={self.hidden_dim}")
        return self


class SASRecConfig(TransformerConfig):
    """Causal transformer over item embeddings (Kang & McAuley, ICDM'18)."""

    kind: Literal["sasrec"] = "sasrec"

    padding_keys: bool = False
    """Attend also to the max_length - n empty steps before a sequence of n items, as code that pads on the left and
    does not mask does: each is a zero state, so short histories are mixed in more carefully. Off: real items alone."""


class BERT4RecConfig(TransformerConfig):
    """Bidirectional transformer trained on masked items (Sun et al., CIKM'19)."""

    kind: Literal["bert4rec"] = "bert4rec"

    mask_probability: float = Field(default=0.15, gt=0, lt=1)
    """Share of positions replaced by [MASK] in training; at least one per sequence."""


class ESASRecConfig(TransformerConfig):
    """SASRec's objective over LiGR layers (Tikhonovich et al., RecSys'25). The paper's loss is a sampled softmax:
    see `train.loss`."""

    kind: Literal["esasrec"] = "esasrec"

    feed_multiple: int = Field(default=4, ge=1)
    """Inner width of the feed-forward network, in multiples of hidden_dim."""


class GRU4RecConfig(StudentConfig):
    """Gated recurrent layers (Hidasi et al., ICLR'16)."""

    kind: Literal["gru4rec"] = "gru4rec"

    num_blocks: int = Field(default=1, ge=1, le=2**10)
    """GRU layers."""

    state_dim: int | None = Field(default=None, ge=1)
    """Width of the recurrent state; where it is not hidden_dim, a linear map follows each layer. None: hidden_dim."""


ModelConfig = Annotated[
    SASRecConfig | BERT4RecConfig | ESASRecConfig | GRU4RecConfig, Field(discriminator="kind")
]


class MeanPooling(Config):
    """ECIR'26, eq. 1."""

    kind: Literal["mean"] = "mean"


class ExponentialPooling(Config):
    """ECIR'26, eq. 2: weights softmax(γ·t)."""

    kind: Literal["exponential"] = "exponential"
    gamma: float = 0.1
    """γ; above 0 favours recent steps."""


class AttentionPooling(Config):
    """ECIR'26, eq. 3: weights softmax(w·h + b), learnt."""

    kind: Literal["attention"] = "attention"


PoolingConfig = Annotated[MeanPooling | ExponentialPooling | AttentionPooling, Field(discriminator="kind")]


class MSEDistillation(Config):
    """ECIR'26, eq. 4: mean squared error between H_k and T(profile), over users and dimensions."""

    kind: Literal["mse"] = "mse"


class RMSEDistillation(Config):
    """Square root of eq. 4, as in the published Kion and M2 runs."""

    kind: Literal["rmse"] = "rmse"


class CosineDistillation(Config):
    """1 - cos(H_k, T(profile)), mean over users."""

    kind: Literal["cosine"] = "cosine"


class InfoNCEDistillation(Config):
    """H_k must find its own user's T(profile) among the global batch's (softmax over cosine / temperature)."""

    kind: Literal["infonce"] = "infonce"
    temperature: float = Field(default=0.1, gt=0)


DistillationLossConfig = Annotated[
    MSEDistillation | RMSEDistillation | CosineDistillation | InfoNCEDistillation,
    Field(discriminator="kind"),
]


class ProfileTarget(Config):
    """T(P(u)), the user's own profile in the student's space: the paper."""

    kind: Literal["profile"] = "profile"


class NeighboursTarget(Config):
    """The mean state of the users whose profiles are nearest by cosine, as the student last had them; T is not used."""

    kind: Literal["neighbours"] = "neighbours"
    neighbours: int = Field(default=10, ge=1)
    """Users per mean, at most."""


DistillationTargetConfig = Annotated[ProfileTarget | NeighboursTarget, Field(discriminator="kind")]


class ProjectionConfig(Config):
    """T, the linear map from the profile space to R^d. It exists only during training."""

    kind: Literal["trained", "orthogonal", "identity"] = "trained"
    """`trained`: linear layer with bias. `orthogonal`: fixed, seeded orthonormal map. `identity`: no map."""

    variance_floor: float = Field(default=0.0, ge=0)
    """Weight of a hinge that keeps the per-dimension standard deviation of T(profile) at 1 or above; 0 = off."""


class DistillationConfig(Config):
    """The auxiliary loss of the first phase. Only an arm that distils has it in its fingerprint."""

    loss: DistillationLossConfig = InfoNCEDistillation()
    """Form of L_distil."""

    target: DistillationTargetConfig = ProfileTarget()
    """What H_k is drawn to."""

    layer: int = Field(default=0, ge=0)
    """k, 0-based: H_k is pooled after this transformer block or GRU layer."""

    pooling: PoolingConfig = MeanPooling()
    """How H_k is pooled over real positions (eqs. 1-3)."""

    projection: ProjectionConfig = ProjectionConfig()
    """The map T."""

    standardize_targets: bool = True
    """Centre the profile vectors and scale them to unit variance (statistics of the profiled training users)."""

    profile_aggregation: Literal["mean", "attention"] = "mean"
    """How several profiles of one user become one target."""

    @property
    def trains_map(self) -> bool:
        """Whether anything of T is trained."""
        return self.target.kind == "profile" and (
            self.projection.kind == "trained" or self.profile_aggregation == "attention")


class SoftmaxLoss(Config):
    """Full cross-entropy over the catalogue, computed in tiles: positions × items logits never exist."""

    kind: Literal["softmax"] = "softmax"
    chunk_rows: int | None = Field(default=None, ge=1)
    """Positions per chunk; None: chosen so that a chunk stays in cache. Memory and speed only."""


NegativeSource = Literal["uniform", "popularity", "in_batch"]


class SampledSoftmaxLoss(Config):
    """Cross-entropy of the target against negatives that all positions of a global batch share."""

    kind: Literal["sampled_softmax"] = "sampled_softmax"
    negatives: int = Field(default=512, ge=1)
    """Draws per global batch, with replacement; `in_batch`: at most so many of its targets."""
    source: NegativeSource = "uniform"
    """`popularity`: by the items' counts in training; `in_batch`: the other positions' targets."""
    log_q: bool = True
    """Divide each negative's weight by its expected number of draws, so that the sum estimates the full
    normaliser without bias (Bengio & Senécal, AISTATS'03; Yi et al., RecSys'19)."""


class BCELoss(Config):
    """Binary cross-entropy of target and shared negatives, mean over the terms of a position: 1 + what was drawn."""

    kind: Literal["bce"] = "bce"
    negatives: int = Field(default=256, ge=1)
    """Draws per global batch, with replacement."""
    source: NegativeSource = "uniform"
    """As in `sampled_softmax`."""


class GBCELoss(Config):
    """BCE whose positive probability is raised to a power that undoes the overconfidence of negative sampling
    (Petrov & Macdonald, RecSys'23). Its negatives are uniform."""

    kind: Literal["gbce"] = "gbce"
    negatives: int = Field(default=256, ge=1)
    """Draws per global batch, with replacement."""
    calibration: float = Field(default=0.75, ge=0, le=1)
    """t; 0 is plain BCE, 1 is fully calibrated probabilities."""


SampledLossConfig = SampledSoftmaxLoss | BCELoss | GBCELoss

RankingLossConfig = Annotated[SoftmaxLoss | SampledSoftmaxLoss | BCELoss | GBCELoss, Field(discriminator="kind")]
"""The loss on next (or masked) items, L_model."""


def counted_source(config: RankingLossConfig) -> Literal["popularity", "in_batch"] | None:
    """Where negatives come from that follow the items' counts: of all interactions, or of the positions' targets."""
    if isinstance(config, (SampledSoftmaxLoss, BCELoss)) and config.source != "uniform":
        return config.source
    return None


class PerturbationConfig(Config):
    """How a history is changed before the student and its teachers read it: a seeded function of epoch and user."""

    drop: float = Field(default=0.3, ge=0, lt=1)
    """Chance of each item to be left out. A history of which fewer than two items would stay is read whole: above about
    .5 more and more of the short ones are."""
    swap: float = Field(default=0.2, ge=0, le=1)
    """Share of the rows in which two neighbours change places."""
    crop: float = Field(default=0.0, ge=0, le=1)
    """Share of the rows of which only a random stretch is read."""


class MatchingConfig(Config):
    """Response-based distillation: the student's softmax over the whole catalogue is drawn to the teachers'."""

    weight: float = Field(default=1.0, ge=0, le=1)
    """Of KL(teachers ‖ student) against the loss on next items."""
    temperature: float = Field(default=1.0, gt=0)
    """τ of both softmaxes (Hinton et al., 2015)."""
    perturb: PerturbationConfig | None = PerturbationConfig()
    """Histories on which they are compared; None: the training histories as they are, whose targets the teachers have
    memorised."""
