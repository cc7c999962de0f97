"""`recommend` and `export` as a person calls them: whose lists, which filter, which file; bad input is one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.api import load
from pipeline.commands import cli
from pipeline.recommend import stage
from pipeline.store.artifacts import Artifact, open_artifact
from tests.tools import TINY

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a plain arm that is evaluated, and an export of it beside."""
    folder = tmp_path_factory.mktemp("recommend")
    path = folder / "tiny.yaml"
    path.write_text(TINY + f"storage: {{uri: {folder / 'storage'}}}\n")
    for args in (["evaluate", "-c", str(path), "arms=[plain]", "-q"],
                 ["export", "tiny", str(folder / "model"), f"storage.uri={folder / 'storage'}", "-q"]):
        with pytest.raises(SystemExit) as ended:
            cli.main(args)
        assert ended.value.code in (0, None)
    return path


@pytest.fixture
def call(config: Path, capsys: pytest.CaptureFixture[str]) -> Call:
    """`recommend` with the run's configuration; exit code, stdout, stderr."""
    def run(*args: object, own_config: bool = True) -> tuple[int, str, str]:
        given = ["-c", str(config), "arms=[plain]"] if own_config else []
        with pytest.raises(SystemExit) as ended:
            cli.main(["recommend", *given, *map(str, args)])
        told = capsys.readouterr()
        return int(ended.value.code or 0), told.out, told.err
    return run


def rows_of(path: Path) -> list[dict[str, object]]:
    return list(pq.read_table(path).to_pylist())


def evaluated(config: Path) -> Artifact:
    from cluster.config import StorageConfig
    from cluster.storage import Storage

    storage = Storage.from_config(StorageConfig(uri=str(config.parent / "storage")))
    references = storage.read_json("runs/tiny/references.json")
    found = open_artifact(storage, "evaluate", references["evaluate/plain/seed-0"])
    assert found is not None
    return found


def test_all_users_get_a_list_and_a_second_call_finds_them(call: Call, tmp_path: Path) -> None:
    output = tmp_path / "lists.parquet"
    code, out, err = call("--output", output, "recommend.titles=true")
    assert code == 0, err
    assert out == f"120 lists: {output}\n"
    assert "recommend: train/plain/seed-0 of run tiny" in err and "120 users in" in err and "users/s)" in err
    rows = rows_of(output)
    assert len({row["user_id"] for row in rows}) == 120
    assert set(rows[0]) == {"user_id", "items", "scores", "titles", "by", "unknown"}
    assert all(len(row["items"]) == len(row["titles"]) == 10 and row["by"] == "model" for row in rows)  # type: ignore[arg-type]
    (tmp_path / "again.jsonl").write_text("an older file\n")
    code, out, err = call("--output", tmp_path / "again.jsonl")
    assert code == 0 and "these lists are there already" in err
    again = [json.loads(line) for line in (tmp_path / "again.jsonl").read_text().splitlines()]
    assert [row["items"] for row in again] == [row["items"] for row in rows]
    assert "titles" not in again[0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again.jsonl", "lists.parquet"]


def test_lists_of_test_users_are_those_of_evaluate(call: Call, config: Path, tmp_path: Path) -> None:
    output = tmp_path / "lists.parquet"
    code, _, err = call("--output", output, "recommend.history=evaluated", "recommend.k=20",
                        "recommend.filter_seen=false")
    assert code == 0, err
    artifact = evaluated(config)
    top = artifact.read_table("top.parquet")["top_unfiltered"].to_pylist()
    ids = load(config.parent / "model").items.ids
    assert [row["items"] for row in rows_of(output)] == [[ids[item - 1] for item in row] for row in top]


def test_chosen_users_in_the_order_asked_for(call: Call, config: Path, tmp_path: Path) -> None:
    everyone = tmp_path / "all.parquet"
    call("--output", everyone)
    by_id = {row["user_id"]: row for row in rows_of(everyone)}
    names = list(by_id)
    (tmp_path / "users.txt").write_text(f"{names[7]}\n\n{names[3]}\n{names[7]}\n")
    code, _, err = call("--output", tmp_path / "some.parquet", "--users", tmp_path / "users.txt", "--user", names[50])
    assert code == 0, err
    rows = rows_of(tmp_path / "some.parquet")
    assert [row["user_id"] for row in rows] == [names[7], names[3], names[50]]
    assert [row["items"] for row in rows] == [by_id[name]["items"] for name in (names[7], names[3], names[50])]


def test_new_sequences_of_either_form_by_an_exported_model(call: Call, config: Path, tmp_path: Path) -> None:
    served = load(config.parent / "model")
    a, b, c, d, *_ = served.items.ids
    lines = [{"user_id": "x", "items": [a, b]}, {"items": [b, a], "timestamps": [9, 2], "note": "ignored"},
             {"user_id": 7, "items": ["no-such", c]}, {"items": ["no-such"]}, {"items": []}]
    (tmp_path / "new.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    pq.write_table(pa.table({"items": [[a, b], [c]], "timestamps": [[2, 1], [5]]}), tmp_path / "new.parquet")
    (tmp_path / "deny.txt").write_text(f"{d}\nno-such\n")
    storage = f"storage.uri={tmp_path / 'own'}"
    code, out, err = call("--model", config.parent / "model", "--sequences", tmp_path / "new.jsonl", "--output",
                          tmp_path / "a.jsonl", f"recommend.deny={tmp_path / 'deny.txt'}", storage, own_config=False)
    assert code == 0, err
    rows = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert [row["user_id"] for row in rows] == ["x", "2", "7", "4", "5"]
    assert [row["by"] for row in rows] == ["model", "model", "model", "popularity", "popularity"]
    assert [row["unknown"] for row in rows] == [0, 0, 1, 1, 0]
    assert rows[0]["items"] == rows[1]["items"]  # told in time order, and put in it
    assert all(d not in row["items"] for row in rows)
    assert "2 items of 2 sequences are unknown to the model and were left out" in err
    assert "2 of 5 sequences hold no item that the model knows; the most popular items answer them" in err
    assert "1 ids of the filter are unknown to the model" in err
    code, _, err = call("--model", config.parent / "model", "--sequences", tmp_path / "new.parquet", "--output",
                        tmp_path / "b.jsonl", storage, own_config=False)
    assert code == 0, err
    again = [json.loads(line) for line in (tmp_path / "b.jsonl").read_text().splitlines()]
    assert [row["items"] for row in again] == served.recommend([[b, a], [c]]).ids


def test_categories_and_allowed_items(call: Call, config: Path, tmp_path: Path) -> None:
    items = load(config.parent / "model").items
    category = next(name for name in items.categories if name)
    of_category = {raw for raw, name in zip(items.ids, items.categories, strict=True) if name == category}
    (tmp_path / "allow.txt").write_text("\n".join(sorted(of_category)[:5] + items.ids[-5:]))
    code, _, err = call("--output", tmp_path / "lists.parquet", f"recommend.categories=[{category}]",
                        f"recommend.allow={tmp_path / 'allow.txt'}", "recommend.filter_seen=false")
    assert code == 0, err
    wanted = of_category & {*sorted(of_category)[:5], *items.ids[-5:]}
    assert {frozenset(row["items"]) for row in rows_of(tmp_path / "lists.parquet")} == {frozenset(wanted)}  # type: ignore[arg-type]
    assert "120 lists hold fewer than 10 items: the filter leaves no more" in err


def test_a_killed_command_goes_on(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = stage.RecommendActor.__call__
    seen: list[int] = []

    def dies(self: stage.RecommendActor, batch: pa.Table) -> pa.Table:
        if len(seen) == 2:
            raise KeyboardInterrupt
        seen.append(batch.num_rows)
        return whole(self, batch)

    sizes, larger = (f"recommend.execution={{actors: 0, batch_rows: 50, block_rows: {rows}}}" for rows in (50, 100))
    args = ("--output", tmp_path / "lists.parquet", sizes, "recommend.k=3")
    monkeypatch.setattr(stage.RecommendActor, "__call__", dies)
    code, _, err = call(*args)
    assert code == 130 and not (tmp_path / "lists.parquet").exists()

    def counts(self: stage.RecommendActor, batch: pa.Table) -> pa.Table:
        seen.append(batch.num_rows)
        return whole(self, batch)

    monkeypatch.setattr(stage.RecommendActor, "__call__", counts)
    code, _, err = call(*args, larger)
    assert code == 0, err
    assert seen == [50, 50, 20] and "going on with the unfinished attempt" in err
    assert len(rows_of(tmp_path / "lists.parquet")) == 120


FILES = {
    "bad.jsonl": '{"items": ["a"]}\n{"items": "a"}\n', "cut.jsonl": '{"items": ["a"', "none.jsonl": "\n",
    "deep.jsonl": "[" * 100_000, "null.jsonl": '{"items": ["a", null]}', "times.jsonl":
    '{"items": ["a", "b"], "timestamps": [1]}', "mixed.jsonl": '{"items": ["a", "b"], "timestamps": [1, "x"]}',
    "bad.parquet": "PAR1 and no footer", "some.csv": "a,b\n", "empty.txt": "\n", "users.txt": "nobody\n",
    "ok.jsonl": '{"items": ["a"]}\n',
}
BAD = {
    "an unknown form": (["--output", "x.csv"], "--output: got 'x.csv'; legal: a path or URI that ends in .parquet"),
    "a folder as output": (["--output", "{tmp}/taken.jsonl"], "there is a folder of that name"),
    "both": (["--sequences", "{tmp}/ok.jsonl", "--user", "u"], "--sequences and --users or --user: got both"),
    "a list that is none": (["--sequences", "{tmp}/bad.jsonl"], "bad.jsonl, row 2: got '{\"items\": \"a\"}'; legal: "),
    "half a line": (["--sequences", "{tmp}/cut.jsonl"], "cut.jsonl, row 1: not JSON: "),
    "a tower of brackets": (["--sequences", "{tmp}/deep.jsonl"], "deep.jsonl, row 1: not JSON: "),
    "no rows": (["--sequences", "{tmp}/none.jsonl"], "none.jsonl: got 'no rows'; legal: one sequence per row"),
    "no id": (["--sequences", "{tmp}/null.jsonl"], "null.jsonl, row 1: item id: got None; legal: text"),
    "too few times": (["--sequences", "{tmp}/times.jsonl"], "timestamps: got '[1]'; legal: a list of 2, one per item"),
    "times of two kinds": (["--sequences", "{tmp}/mixed.jsonl"], "legal: all numbers, or all ISO texts"),
    "broken Parquet": (["--sequences", "{tmp}/bad.parquet"], "bad.parquet: cannot be read as Parquet"),
    "a file of another kind": (["--sequences", "{tmp}/some.csv"], "--sequences: got"),
    "no file": (["--sequences", "{tmp}/nowhere.jsonl"], "nowhere.jsonl: cannot be read: No such file"),
    "an unknown user": (["--user", "nobody"], "user (1 of 1 unknown): got 'nobody'; legal: one of the run's 120 users"),
    "no users": (["--users", "{tmp}/empty.txt"], "--users: got"),
    "an unknown category": (["recommend.categories=[nothing]"], "filter.categories: got 'nothing'"),
    "allowed items that are none": (["recommend.allow={tmp}/users.txt"], "filter.allow: got '1 ids'"),
    "a k of nothing": (["recommend.k=0"], "recommend.k"),
    "an unknown arm": (["recommend.arm=best"], "arm: got 'best'; legal: plain"),
    "an arm that is not trained": (["train.epochs=3"], "plain/seed-0 not trained under these settings"),
    "a model that is none": (["--model", "{tmp}", "--sequences", "{tmp}/ok.jsonl"], "is not an exported model"),
    "a model and no sequences": (["--model", "{tmp}"], "--model FOLDER knows no users"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line(call: Call, tmp_path: Path, case: str) -> None:
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "taken.jsonl").mkdir()
    (tmp_path / "taken.jsonl" / "x").touch()
    args, message = BAD[case]
    given = [arg.replace("{tmp}", str(tmp_path)) for arg in args]
    code, out, err = call(*given, *([] if "--output" in given else ["--output", tmp_path / "lists.jsonl"]))
    last = err.splitlines()[-1]
    assert (code, out) == (2, "")
    assert last.startswith("error: ") and message in last
    assert not (tmp_path / "lists.jsonl").exists()
