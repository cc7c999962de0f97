"""Settings of `reduce`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from cluster.config import ActorExecution
from configs.base import Config


class UMAPReducer(Config):
    """UMAP; cuML on a GPU, else umap-learn."""

    kind: Literal["umap"] = "umap"
    components: int = Field(default=64, ge=1)
    """At most the encoder's width, and two below the fitted rows."""
    neighbors: int = Field(default=15, ge=2)
    """Below the fitted rows."""
    min_dist: float = Field(default=0.1, ge=0, le=1)
    """Least distance of embedded points, in units of the embedding's spread."""
    metric: Literal["cosine", "euclidean"] = "cosine"
    """Distance between the encoder's vectors."""
    epochs: int | None = Field(default=None, ge=3)
    """Optimisation epochs; None: 500 up to 10,000 fitted rows, 200 above (the library's own rule)."""
    init: Literal["pca", "spectral", "random"] = "pca"
    """Start of the optimisation. On 20,000 users and 64 dimensions `pca` kept as many neighbours as `spectral` in a
    third of its time."""
    backend: Literal["auto", "cuml", "umap-learn"] = "auto"
    """`auto`: cuML where a GPU and cuML are, else umap-learn. The backend used is recorded."""

    def most_components(self, rows: int, width: int) -> int:
        """Of so many fitted rows of the encoder's width."""
        return min(width, rows - 2)


class PCAReducer(Config):
    """Principal components."""

    kind: Literal["pca"] = "pca"
    components: int = Field(default=64, ge=1)
    """At most the encoder's width, and one below the fitted rows."""

    def most_components(self, rows: int, width: int) -> int:
        """Of so many fitted rows of the encoder's width."""
        return min(width, rows - 1)


class NoReducer(Config):
    """The encoder's vectors as they are."""

    kind: Literal["none"] = "none"


ReducerConfig = Annotated[UMAPReducer | PCAReducer | NoReducer, Field(discriminator="kind")]


class ReduceConfig(Config):
    """Vectors → teacher targets, fitted on training users."""

    method: ReducerConfig = UMAPReducer()
    whiten: bool = False
    """Decorrelate the reduced vectors and scale them to unit variance (ZCA; flat directions are not blown up)."""
    fit_rows: int = Field(default=200_000, ge=10)
    """Above so many rows: fit on a seeded sample, transform the rest in parallel."""
    transform_rows: int = Field(default=4096, ge=1)
    """Fixed size of the sorted batches that new users are transformed in."""
    quality_rows: int = Field(default=2000, ge=20)
    """Sample on which trustworthiness and neighbour overlap are measured."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    """Of the fit, its sample and the quality sample."""
    fitted_by: str | None = Field(default=None, pattern=r"^[0-9a-f]{16}$")
    """Fingerprint of an earlier `reduce` artifact whose fitted reducer is used in place of a new fit. Users whose
    vectors are as they were keep their targets, the others are transformed; all other settings must be its own."""
    execution: ActorExecution = ActorExecution(actors=1, num_cpus=1.0)
    """Of the parallel transform; with `num_gpus` the fit, too, runs where that GPU is."""
