"""Rows mapped in this process: every row once, whatever the blocks, after a failure, after a change to Ray and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster.config import ActorExecution
from cluster.storage import Storage
from pipeline.store import artifacts, rows
from pipeline.store.artifacts import ArtifactDir, StageKey
from pipeline.work.here import forget_blocks
from pipeline.work.mapping import map_rows

ROWS = 50


class Double:
    """Doubles a column; fails at the row ``broken`` once it has been told of it."""

    seen: list[int] = []

    def __init__(self, broken: int | None = None) -> None:
        self._broken = broken

    def __call__(self, batch: pa.Table) -> pa.Table:
        ids = batch["id"].to_pylist()
        if self._broken in ids:
            raise OSError("cut off")
        self.seen.extend(ids)
        return pa.table({"id": batch["id"], "twice": [2 * x for x in batch["x"].to_pylist()]})


@pytest.fixture
def out(storage: Storage) -> ArtifactDir:
    for part in range(3):
        ids = np.arange(ROWS)[part::3]
        storage.write_table(f"in/part-{part}.parquet", pa.table({"id": ids, "x": ids * 10, "unread": ids}))
    Double.seen = []
    return artifacts.begin(storage, StageKey("demo", 1, {}))


def run(out: ArtifactDir, only: np.ndarray | None = None, block_rows: int = 7, **arguments: Any) -> None:
    map_rows(out.storage, "in", out, actor=Double, arguments=arguments, id_column="id", columns=["id", "x"],
             num_rows=ROWS, execution=ActorExecution(actors=0, batch_rows=3, block_rows=block_rows), label="demo",
             only=only)


def found(out: ArtifactDir, ids: np.ndarray) -> pa.Table:
    return pa.concat_tables(rows.sorted_parts(out, "id", ids, 20))


@pytest.mark.parametrize("told", [True, False], ids=["", "blocks do not tell"])
def test_a_part_is_read_from_the_blocks_that_hold_it(out: ArtifactDir, monkeypatch: pytest.MonkeyPatch, told: bool
                                                     ) -> None:
    """Here a block holds ten ids in a row, but for one that both parts need, and one that is empty."""
    blocks = {"c": [*range(10)], "b": [*range(10, 19)], "a": [19, *range(25, 40)], "d": [*range(20, 25)], "e": []}
    folder = Path(out.path(rows.RAW))
    folder.mkdir(parents=True)
    for name, ids in blocks.items():
        pq.write_table(pa.table({"id": pa.array(ids, pa.int64())}), folder / f"{name}.parquet", write_statistics=told)
    read, dataset = [], rows.pads.FileSystemDataset

    def spy(blocks: list[Any], *rest: Any) -> Any:
        read.append("".join(sorted(Path(block.path).stem for block in blocks)))
        return dataset(blocks, *rest)

    monkeypatch.setattr(rows.pads, "FileSystemDataset", spy)
    assert found(out, np.arange(40))["id"].to_pylist() == list(range(40))
    assert read == (["abc", "ad"] if told else ["abcd", "abcd"])


@pytest.mark.parametrize("block_rows", [1, 7, 1000])
def test_every_row_is_mapped_once(out: ArtifactDir, block_rows: int) -> None:
    run(out, block_rows=block_rows)
    assert found(out, np.arange(ROWS))["twice"].to_pylist() == [20 * n for n in range(ROWS)]
    assert sorted(Double.seen) == list(range(ROWS))


def test_only_some_rows(out: ArtifactDir) -> None:
    wanted = np.array([3, 4, 31, 49])
    run(out, only=wanted)
    assert found(out, wanted)["id"].to_pylist() == wanted.tolist()


def test_a_call_that_was_cut_off_goes_on_with_the_blocks_that_are_missing(out: ArtifactDir) -> None:
    with pytest.raises(OSError, match="cut off"):
        run(out, broken=44)
    before, Double.seen = set(Double.seen), []
    run(out, block_rows=5)
    assert found(out, np.arange(ROWS)).num_rows == ROWS
    again = before & set(Double.seen)
    assert before and len(again) < 7, "at most the block that was under way is mapped again"


def test_blocks_of_ray_are_forgotten_here_and_the_other_way_round(out: ArtifactDir) -> None:
    theirs = out.relative(f"{rows.RAW}/0_000000.parquet")
    out.storage.write_table(theirs, pa.table({"id": [1], "twice": [-1]}))
    out.storage.write_json(out.relative(f"{rows.DONE}/0.json"), {})
    run(out)
    assert not out.storage.exists(theirs) and not out.storage.names(out.relative(rows.DONE))
    assert found(out, np.arange(ROWS))["twice"].to_pylist() == [20 * n for n in range(ROWS)]
    forget_blocks(out, rows.WORK, of_ray=False)
    assert not out.storage.names(out.relative(rows.RAW))
