"""What a recommender may learn from beside its users' next items. Torch- and Ray-free."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from configs.base import Config
from models.config import MatchingConfig, Probability

TextControl = Literal["none", "shuffled", "random", "collaborative"]
"""none: the items' own texts. Controls: shuffled: each item gets another's; random: noise of the same covariance;
collaborative: the items in a truncated SVD of the training matrix."""


class TextItemInit(Config):
    """Item embeddings start from the items' texts: the run's encoder, reduced to the student's width, scaled to the
    standard deviation of the random start. Items without text start at random. Cold items then have a place."""

    kind: Literal["text"] = "text"
    method: Literal["pca", "umap"] = "pca"
    """How the texts' vectors are reduced to `model.hidden_dim`; all else is as `reduce` says."""
    whiten: bool = False
    """Equal variance in every dimension of the start; off: as the texts spread."""
    control: TextControl = "none"
    """Whose texts: see `TextControl`."""


class MappedTextTable(Config):
    """Text-only: every item's row is one trained linear map of its frozen text vector. Items that nobody has bought
    have a place; folded into the plain table at export."""

    kind: Literal["mapped_text"] = "mapped_text"
    control: TextControl = "none"
    """Whose texts: see `TextControl`."""


class BoundedChangeTable(Config):
    """Every item's row is its start plus a change of bounded length; for a start from text. Folded at export."""

    kind: Literal["bounded_change"] = "bounded_change"
    limit: float = Field(default=0.5, gt=0)
    """Largest length of the change, as a share of the start's."""


class ProfileInputConfig(Config):
    """The user's profile vector is an extra input in training: what the recommender ranks better for it reaches a
    student whose ensemble it is a member of. It is chosen on validation with the profiles of those validation users who
    are training users (none under a split that holds users out whole); exported, tested and served
    it reads none. For students that predict the next item; not beside a teacher of the same arm."""

    dropout: Probability = 0.2
    """Share of users of an epoch that are read without their profile."""
    control: TextControl = "none"
    """Whose profiles: see `TextControl`."""


ItemTableConfig = Annotated[MappedTextTable | BoundedChangeTable, Field(discriminator="kind")]


class Member(Config):
    """A finished recommender of the same run."""

    arm: str
    """Name of a built-in arm or of a recipe."""
    seed: int = Field(default=0, ge=0, lt=2**31)
    """Added to the student's seed: members of one arm with other seeds differ by chance alone."""
    weight: float = Field(default=1.0, gt=0)
    """Of its logits among the members'."""


class ContentScores(Config):
    """Cosine between an item's text and the mean of the history's texts; nothing is learnt."""

    kind: Literal["content"] = "content"
    scale: float = Field(default=4.0, gt=0)
    """What makes logits of cosines."""
    components: int | None = Field(default=128, ge=1)
    """Leading directions of the texts that cosines are taken in; None: all. A step costs less the fewer there are."""
    recency_decay: float = Field(default=0.5, ge=0)
    """A history item weighs exp(-decay · steps back); 0 = all alike."""
    control: TextControl = "none"
    """Whose texts: see `TextControl`."""


class TransitionScores(Config):
    """Which items follow the last one in training, as a share of all that do (sequential rules, Ludewig & Jannach,
    UMUAI'18)."""

    kind: Literal["transitions"] = "transitions"
    scale: float = Field(default=16.0, gt=0)
    """What makes logits of shares."""
    window: int = Field(default=3, ge=1)
    """Steps apart, at most; an item so many steps later counts 1 / steps."""
    shrinkage: float = Field(default=10.0, ge=0)
    """Added to the sum of which a share is taken. Without it the next item of a rare one is what a training history
    itself says of it: the student would be told its own targets."""


class ItemKNNScores(Config):
    """Cosine similarity of items by the users who had them; the neighbours of each history item vote."""

    kind: Literal["item_knn"] = "item_knn"
    scale: float = Field(default=5.0, gt=0)
    """What makes logits of sums of similarities."""
    neighbors: int = Field(default=100, ge=1)
    """Neighbours kept per item. A step looks up so many for every item of every history up to every position: with long
    histories it costs several times what the rest of a step does."""
    shrinkage: float = Field(default=50.0, ge=0)
    """Added to the denominator of the cosine: distrusts pairs of rare items."""
    recency_decay: float = Field(default=0.5, ge=0)
    """A history item's vote weighs exp(-decay · steps back); 0 = all alike."""


BaselineScores = Annotated[ContentScores | TransitionScores | ItemKNNScores, Field(discriminator="kind")]


class EnsembleConfig(MatchingConfig):
    """Finished recommenders whose mean logits over the whole catalogue the student matches (Beyer et al., CVPR'22)."""

    members: tuple[Member, ...] = Field(min_length=1)
    start: int | None = Field(default=None, ge=0)
    """Place, from 0, of the member whose weights the student starts from; None: a fresh start."""
    baselines: tuple[BaselineScores, ...] = ()
    """Whose scores, times `scale`, are added to the members' mean logits: fitted on the training part, never trained.
    For students that predict the next item."""
    epochs: int | None = Field(default=None, ge=1)
    """Match in so many first epochs, then train on next items alone; None: in all."""

    @model_validator(mode="after")
    def _start_is_a_member(self) -> EnsembleConfig:
        if self.start is not None and self.start >= len(self.members):
            raise ValueError(f"start={self.start}, but the members are 0…{len(self.members) - 1}")
        return self
