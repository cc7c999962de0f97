"""Which of a run's recommenders answers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from configs.loader import load
from pipeline.config import RunConfig
from pipeline.trained import choose


def chosen(arms: str, arm: str | None = None, **figures: float) -> str:
    recipes = "recipes={reads: {train: {profile_input: {}}}, warm: {train: {item_init: {kind: text}}}}"
    config = load(RunConfig, None, ["name=x", f"arms={arms}", recipes])
    trained: dict[str, Any] = {f"train/{name}/seed-0": SimpleNamespace(manifest=SimpleNamespace(
        key={"config": {"train": {"validation_users": None, "filter_seen": True}}},
        info={"validation": {"ndcg@10": value}})) for name, value in figures.items()}
    return choose(config, trained, arm, None).label.split("/")[1]


def test_the_best_on_validation_answers() -> None:
    assert chosen("[plain, warm]", plain=0.1, warm=0.2) == "warm"
    assert chosen("[plain, distilled, shuffled]", plain=0.1, distilled=0.2, shuffled=0.3) == "distilled"


def test_what_was_validated_with_profiles_and_answers_without_is_chosen_by_name_alone() -> None:
    assert chosen("[plain, reads]", plain=0.1, reads=0.5) == "plain"
    assert chosen("[plain, reads]", arm="reads", plain=0.1, reads=0.5) == "reads"
    assert chosen("[reads]", reads=0.5) == "reads"
