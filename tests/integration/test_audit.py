"""The teacher audit against naive rankings, on vectors made by hand; and through the real command line."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from cluster.storage import Storage
from configs.errors import DataError
from models.ordering import tie_order
from models.sequences import Cases, Sequences
from pipeline.audit import keys, stage
from pipeline.audit.config import AuditConfig, AuditExecution
from pipeline.audit.figures import by_chance, candidates, of_ranks
from pipeline.audit.stage import audit
from pipeline.audit.subjects import AuditInputs, ItemTexts
from pipeline.audit.tables import plain_text, tables
from pipeline.reduce.vectors import VectorTable
from pipeline.store import arrays, artifacts
from pipeline.store.artifacts import Artifact, StageKey
from pipeline.store.columns import ANGLE, COUNT, ITEM_IDX, RANK, RANK_UNFILTERED, USER_IDX, VECTOR
from tests.builders import make_prepared, make_sequences
from tests.tools import TINY, cli_here

pytestmark = pytest.mark.timeout(900)
ITEMS, WIDTH = 40, 6
TEXTLESS = (3, 17)
CONFIG = AuditConfig(bootstrap_samples=200, execution=AuditExecution(batch_users=7, item_chunk=11))


def vectors(rows: np.ndarray) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(rows.astype(np.float32).reshape(-1)), rows.shape[1])


def encoded(storage: Storage, name: str, columns: dict[str, Any]) -> Artifact:
    out = artifacts.begin(storage, StageKey("encode", 1, {"made": name}))
    out.write_table("vectors/part-00000.parquet", pa.table(columns))
    return out.commit({})


class Made:
    """Users 0…59; user 5 has no profile; users' vectors lean to their validation item's text."""

    def __init__(self, storage: Storage, angles: tuple[str, ...] = ("overall",), lean: float = 0.5) -> None:
        rng = np.random.default_rng(0)
        self.prepared = make_prepared(storage, make_sequences(items=ITEMS), ITEMS)
        self.validation = arrays.cases(self.prepared.local("validation.arrow"))
        self.told = np.setdiff1d(np.arange(1, ITEMS + 1), TEXTLESS)
        self.items_VE = np.zeros((ITEMS, WIDTH))
        self.items_VE[self.told - 1] = rng.normal(size=(len(self.told), WIDTH))
        users = np.setdiff1d(np.arange(60), [5])
        target_of = dict(zip(self.validation.users.tolist(), self.validation.targets.tolist(), strict=True))
        self.profiles = {user: rng.normal(size=(len(angles), WIDTH)) for user in users.tolist()}
        for user, rows in self.profiles.items():
            rows += lean * self.items_VE[target_of.get(user, 1) - 1]
        owners = np.repeat(users, len(angles))[::-1]
        self.encoded = encoded(storage, f"profiles {angles} {lean}", {
            USER_IDX: owners, ANGLE: (list(angles) * len(users))[::-1],
            VECTOR: vectors(np.concatenate([self.profiles[u] for u in users.tolist()])[::-1])})
        self.items = encoded(storage, "items", {ITEM_IDX: self.told.astype(np.int32),
                                                VECTOR: vectors(self.items_VE[self.told - 1])})

    def run(self, storage: Storage, config: AuditConfig = CONFIG) -> Artifact:
        key = keys.key(config, self.prepared.fingerprint, self.encoded.fingerprint, self.items.fingerprint)
        return audit(config, self.prepared, self.encoded, self.items, artifacts.begin(storage, key))


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def naive_rank(scores_V: np.ndarray, target: int, removed: set[int]) -> int:
    """1-based: higher scores first, equal ones in the seeded order."""
    place = tie_order(ITEMS, 0)
    kept = [i for i in range(1, ITEMS + 1) if i == target or i not in removed]
    return 1 + sorted(kept, key=lambda i: (-scores_V[i - 1], place[i - 1])).index(target)


def ranks_of(artifact: Artifact, subject: str, column: str = RANK) -> dict[int, int]:
    rows = artifact.read_table("ranks.parquet").to_pylist()
    return {row[USER_IDX]: row[column] for row in rows if row["subject"] == subject}


@pytest.fixture
def made(storage: Storage) -> Made:
    return Made(storage)


def test_ranks_are_those_of_a_naive_ranking(storage: Storage, made: Made) -> None:
    artifact = made.run(storage)
    counts = made.prepared.read_table("items.parquet")[COUNT].to_numpy()
    text = made.items_VE.astype(np.float32)
    checked = 0
    for user, history, target in zip(made.validation.users.tolist(), made.validation.histories,
                                     made.validation.targets.tolist(), strict=True):
        told = sorted({i for i in history.tolist() if i not in TEXTLESS})
        if user == 5 or not told:
            continue
        own = {"profile": made.profiles[user][0], "history": unit(text[np.array(told) - 1]).mean(axis=0)}
        scores = {name: np.array([unit(text[i - 1]) @ unit(v.astype(np.float32)) if i not in TEXTLESS else -2
                                  for i in range(1, ITEMS + 1)]) for name, v in own.items()}
        scores["popularity"] = counts.astype(float)
        for name, scores_V in scores.items():
            removed = set(history.tolist())
            assert ranks_of(artifact, name)[user] == naive_rank(scores_V, target, removed), (name, user)
            assert ranks_of(artifact, name, RANK_UNFILTERED)[user] == naive_rank(scores_V, target, set())
            checked += 1
    assert checked > 90


def test_figures_are_means_over_users_and_the_left_out_are_counted(storage: Storage, made: Made) -> None:
    figures = made.run(storage).read_json("audit.json")
    assert figures["left_out"]["no profile"] == int(5 in made.validation.users)
    assert figures["users"] + sum(figures["left_out"].values()) == figures["validation_users"] == len(made.validation)
    assert figures["items_without_text"] == 2
    rank = np.array(list(ranks_of(made.run(storage), "profile", RANK_UNFILTERED).values()))
    found = figures["all_items"]["subjects"]["profile"]
    assert found["ndcg@10"]["mean"] == pytest.approx(np.where(rank <= 10, 1 / np.log2(1 + rank), 0).mean(), rel=1e-6)
    assert found["recall@10"]["mean"] == pytest.approx((rank <= 10).mean(), rel=1e-6)
    assert found["mrr"]["mean"] == pytest.approx((1 / rank).mean(), rel=1e-6)
    assert found["percentile"]["mean"] == pytest.approx(((ITEMS - rank) / (ITEMS - 1)).mean(), rel=1e-6)
    assert found["mrr"]["low"] < found["mrr"]["mean"] < found["mrr"]["high"]


def test_a_profile_that_knows_beats_shuffled_ones_and_one_that_does_not_is_shown_to(storage: Storage) -> None:
    knows, blank = (Made(storage, lean=lean).run(storage).read_json("audit.json")["seen_removed"]
                    for lean in (2.0, 0.0))

    def verdict(figures: dict[str, Any]) -> str:
        return next(d["verdict"] for d in figures["differences"]
                    if d["second"] == "shuffled" and d["metric"] == "percentile")

    assert verdict(knows) == "above 0" and verdict(blank) == "includes 0"
    assert knows["subjects"]["profile"]["percentile"]["mean"] > 0.8
    assert blank["subjects"]["profile"]["percentile"]["mean"] == pytest.approx(0.5, abs=0.12)


def test_blocks_change_no_rank(storage: Storage, made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    """But those of shuffled profiles where the blocks differ among whose users they are shuffled."""
    whole = made.run(storage)
    larger = AuditExecution(batch_users=50, item_chunk=ITEMS)
    ranked_otherwise = made.run(storage, CONFIG.model_copy(update={"bootstrap_samples": 201, "execution": larger}))
    monkeypatch.setattr(stage, "_BLOCK_USERS", 9)
    parts = made.run(storage, CONFIG.model_copy(update={"bootstrap_samples": 202}))
    for subject in ("profile", "history", "popularity", "shuffled"):
        assert ranks_of(whole, subject) == ranks_of(ranked_otherwise, subject)
        assert subject == "shuffled" or ranks_of(whole, subject) == ranks_of(parts, subject)
    assert ranks_of(whole, "shuffled").keys() == ranks_of(parts, "shuffled").keys()


@pytest.mark.parametrize("users", [2, 3, 9, None])
def test_shuffled_everyone_has_the_profile_of_one_other_user_of_the_block(storage: Storage, made: Made,
                                                                          users: int | None) -> None:
    texts = ItemTexts.read(VectorTable.open(made.items, ITEM_IDX), ITEMS)
    inputs = AuditInputs(VectorTable.open(made.encoded), texts, np.zeros(ITEMS))
    block = made.validation.take(np.flatnonzero(inputs.profiled(made.validation.users))[:users])
    for seed in range(20):
        scorers = dict(zip(inputs.names(), inputs.scorers(block, np.random.default_rng(seed)), strict=True))
        own, shuffled = (scorers[name].states(block.histories, np.arange(len(block))).numpy()
                         for name in ("profile", "shuffled"))
        given = (own[:, None] == shuffled).all(axis=2)  # [i, j]: j has the profile of i
        assert not given.diagonal().any(), "nobody keeps the own"
        assert (given.sum(axis=0) == 1).all() and (given.sum(axis=1) == 1).all()


def test_several_angles_stand_alone_and_as_their_mean(storage: Storage) -> None:
    several = Made(storage, ("overall", "recent"))
    figures = several.run(storage).read_json("audit.json")
    assert list(figures["seen_removed"]["subjects"]) == [
        "profile", "profile/overall", "profile/recent", "shuffled", "history", "popularity", "chance"]
    assert "mean of their vectors" in plain_text(figures, "x")


def test_the_test_split_is_never_opened(storage: Storage, made: Made) -> None:
    Path(made.prepared.path("test.arrow")).write_bytes(b"")
    Path(made.prepared.path("interactions.parquet")).write_bytes(b"")
    assert made.run(storage).manifest.counts["num_out"] > 30


def test_a_split_whose_validation_users_have_no_profile_is_refused(storage: Storage, made: Made) -> None:
    strangers = encoded(storage, "strangers", {USER_IDX: [900, 901], ANGLE: ["overall"] * 2,
                                               VECTOR: vectors(np.ones((2, WIDTH)))})
    out = artifacts.begin(storage, keys.key(CONFIG, "p", "e", "i"))
    with pytest.raises(DataError, match=r"0 of \d+ validation users have a profile .*split.kind=leave_one_out"):
        audit(CONFIG, made.prepared, strangers, made.items, out)


def test_chance_is_the_mean_over_all_ranks() -> None:
    sizes = np.array([40, 12, 5, 1])
    expected = by_chance(sizes, 10)
    for user, size in enumerate(sizes.tolist()):
        every = of_ranks(np.arange(1, size + 1), np.full(size, size), 10)
        for name, values in every.items():
            assert expected[name][user] == pytest.approx(values.mean()), (name, size)


def test_candidates_are_the_catalogue_less_the_distinct_seen_items_but_never_the_target() -> None:
    cases = Cases(np.arange(3), Sequences.from_lists([[1, 1, 2], [3, 4], [5]]), np.array([9, 4, 6]))
    assert candidates(cases, 10).tolist() == [8, 9, 9]


def test_through_the_command_line_and_in_the_report(tmp_path: Path) -> None:
    config = tmp_path / "tiny.yaml"
    config.write_text(TINY + f"storage: {{uri: {tmp_path / 'storage'}}}\n")
    planned = cli_here("audit", "--config", str(config), "--dry-run")
    steps = [line.split()[0] for line in planned.stdout.partition("step ")[2].splitlines()[2:7]]
    assert steps == ["prepare", "profile", "encode", "encode/items", "audit"]
    process = cli_here("audit", "--config", str(config), "--record", str(tmp_path / "records"), "--quiet")
    assert process.returncode == 0, process.stderr
    assert "the user's own profile" in process.stdout and "chance" in process.stdout
    record = json.loads((tmp_path / "records" / "tiny-audit.json").read_text())
    assert record["metrics"]["users"] == 120 and record["metrics"]["left_out"]["no profile"] == 0
    assert "Teacher audit on validation" in (tmp_path / "records" / "tiny-audit.md").read_text()
    again = cli_here("audit", "--config", str(config))
    assert again.stdout.startswith("nothing to do")
    shown = cli_here("show", "profile", "7", "--index", "--config", str(config)).stdout
    assert re.search(r"profile \(overall, \d+ words, \d+ characters\):", shown)
    parts = {line.split()[0] for line in shown.partition("profile (")[0].splitlines()[1:]}
    assert parts == {"train"}, "a profile is written from the training part alone"
    report = cli_here("run", "--config", str(config), "--quiet")
    assert report.returncode == 0, report.stderr
    folder = tmp_path / "storage" / "runs" / "tiny"
    figures = json.loads((folder / "metrics.json").read_text())["audit"]
    assert figures == record["metrics"]
    for table in tables(figures):
        assert table.title in (folder / "report.html").read_text()
