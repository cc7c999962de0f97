"""Commands on a real disk that is full, out of files or read-only: one line and exit code 2, then they go on.

`python -m tests.bench.acceptance disks` meets every stage so, each command in a process of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.scripted_llm import ScriptedServer, long_answer, scripted_server
from tests.small_disk import CAUSE, NO_FILES, PARTS, READ_ONLY, Obstacle, Outcome, Trial, asking, can_mount, meet
from tests.tiny_llm import make_tokenizer
from tests.tools import ON_RAY, TINY

pytestmark = [pytest.mark.slow, pytest.mark.skipif(
    not can_mount(), reason="this user may not mount a tmpfs in a namespace of its own")]
SMALL = TINY.replace("users: 120", "users: 40")
NO_ROOM, LITTLE, MORE = Obstacle("full", 0), Obstacle("full", 12), Obstacle("full", 24)
MET: dict[str, tuple[Obstacle, ...]] = {
    "prepare": (READ_ONLY, NO_ROOM, LITTLE, MORE, NO_FILES),
    "prepare in blocks": (NO_ROOM, LITTLE, MORE, NO_FILES),
    "profile": (READ_ONLY, NO_ROOM, LITTLE, NO_FILES),
    "encode": (MORE, NO_FILES),
    "reduce": (LITTLE, NO_FILES),
    "ledger": (Obstacle("full", 150), PARTS, READ_ONLY),
    "train": (READ_ONLY, NO_ROOM, LITTLE, MORE, Obstacle("read-only", folder="results/artifacts/train/*/attempts")),
    "evaluate": (LITTLE, NO_FILES, READ_ONLY),
    "report": (MORE, NO_FILES),
    "profile on Ray": (Obstacle("full", 24),),
}


@pytest.fixture(scope="module")
def server() -> Iterator[ScriptedServer]:
    with scripted_server(long_answer) as running:
        yield running


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("small")


@pytest.fixture(scope="module")
def outcomes(server: ScriptedServer, folder: Path) -> dict[str, Outcome]:
    """What became of every trial, all on one disk."""
    disk, config, asked = folder / "disk", folder / "tiny.yaml", folder / "asked.yaml"
    storage = f"storage: {{uri: {disk / 'results'}}}\n"
    config.write_text(SMALL + storage)
    asked.write_text(asking(SMALL, server.url, make_tokenizer(folder / "tokenizer"), batch=4) + storage)
    run = ("-c", str(config))
    commands = {
        "prepare": ("prepare", *run),
        "prepare in blocks": ("prepare", *run, "prepare.seed=1", "prepare.execution.rows_at_once=20"),
        "profile": ("profile", *run), "encode": ("encode", *run), "reduce": ("reduce", *run),
        "ledger": ("profile", "-c", str(asked)),
        "train": ("train", *run, "arms=[plain]"), "evaluate": ("evaluate", *run, "arms=[plain]"),
        "report": ("report", *run, "arms=[plain]"),
        "profile on Ray": ("profile", *run, "profile.form=long", *ON_RAY)}
    trials = [Trial(name, commands[name], met) for name, met in MET.items()]
    return {outcome.name: outcome for outcome in meet(trials, disk, here=True)}


@pytest.mark.parametrize(("name", "place"), [(name, place) for name in MET for place in range(len(MET[name]))],
                         ids=lambda value: str(value))
def test_one_line_tells_path_and_cause(name: str, place: int, outcomes: dict[str, Outcome], folder: Path) -> None:
    said, met = outcomes[name].refusals[place], MET[name][place]
    assert said.refused(f"{folder}/disk/results", "cannot ", CAUSE[met.kind]), f"{met}: {said.code}, {said.stderr}"
    assert met.kind != "read-only" or "room" not in said.errors[0]


@pytest.mark.parametrize("name", MET)
def test_the_same_command_goes_on(name: str, outcomes: dict[str, Outcome]) -> None:
    assert outcomes[name].again.code == 0, outcomes[name].again.stderr


def test_what_the_ledger_holds_is_asked_once(outcomes: dict[str, Outcome], server: ScriptedServer) -> None:
    """Both refusals came from it; each lost at most the batch that could not be saved."""
    assert all("/ledger/" in said.errors[0] for said in outcomes["ledger"].refusals[:2])
    assert 40 <= len(server.asked) <= 40 + 2 * 4
