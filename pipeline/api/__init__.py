"""What a notebook calls: a trained recommender as an object, without Ray.

    from pipeline.api import Filter, load

    recommender = load("results/runs/demo")
    recommender.recommend([["item-3", "item-8"]], k=5, filter=Filter(deny=["item-9"])).to_polars()
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.api.filters import Filter

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.api.recommender import Recommender
    from pipeline.store.artifacts import Artifact

__all__ = ["Filter", "load"]


def load(source: str | Path | Artifact, *, arm: str | None = None, seed: int | None = None, device: str = "cpu"
         ) -> Recommender:
    """A trained recommender.

    Args:
        source: a folder that ``mentorec export`` has written, a run's folder (``results/runs/demo``), a `train`
            artifact or its folder (``results/artifacts/train/<fingerprint>``); a path or a URI.
        arm: which of a run's recommenders; None: of those that are no control, the best on validation.
        seed: of the arm; None: the run's first.
        device: where histories are read, such as "cuda"; lists are made on the CPU.

    Raises:
        ArtifactError: nothing is trained there, or it is damaged.
        ConfigError: the run has no such arm or seed.
        ResourceError: a GPU is asked for and not there.
    """
    from pipeline.api.loading import load as open_source

    return open_source(source, arm, seed, device)
