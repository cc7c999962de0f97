"""The service without Ray: answers, limits, errors with field names, a token, a newer model; odd bodies are no 5xx."""

from __future__ import annotations

import json
import re
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("fastapi", reason="Ray Serve (extra `serve`) is not installed")

from fastapi.testclient import TestClient

from configs.errors import ArtifactError, ConfigError, DataError, MentorecError, ResourceError
from models.config import SASRecConfig
from pipeline.api import Filter, load
from pipeline.serve.answers import Answer, Answers, Question
from pipeline.serve.config import ServeConfig
from pipeline.serve.http import build_app
from tests.builders import export_untrained
from tests.tools import ROOT, free_port

MODEL = SASRecConfig(hidden_dim=8, max_length=6, num_blocks=1)
ITEMS = 40


def write_model(folder: Path, fingerprint: str, seed: int = 0, ann: bool = False) -> Path:
    """An exported folder of an untrained model, with an index of its items where asked for."""
    import pyarrow as pa

    ids = [f"item-{i}" for i in range(1, ITEMS + 1)]
    table = pa.table({"item_id": ids, "title": [f"Title {i}" for i in range(1, ITEMS)] + [None],
                      "category": [f"c{i % 3}" for i in range(ITEMS)], "train_count": list(range(ITEMS)),
                      "first_time": [86_400 * i for i in range(ITEMS)], "last_time": [86_400 * ITEMS] * ITEMS})
    return export_untrained(folder, MODEL, table, fingerprint, seed, ann)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("serve") / "model", "first")


def client_of(answers: Answers, token: str | None = None, **changed: Any) -> TestClient:
    async def ask(question: Question) -> Answer | MentorecError:
        return answers.answer([question])[0]

    config = ServeConfig(model="unused", **changed)
    return TestClient(build_app(config, answers, ask, token), raise_server_exceptions=False)


@pytest.fixture(scope="module")
def client(folder: Path) -> TestClient:
    return client_of(Answers(str(folder)), max_items=50)


def test_an_answer_is_that_of_the_notebook(client: TestClient, folder: Path) -> None:
    found = client.post("/recommend", json={"history": ["item-3", "item-5", "nothing", 7], "k": 4})
    assert found.status_code == 200
    expected = load(folder).recommend([["item-3", "item-5"]], k=4)
    answer = found.json()
    assert [item["item_id"] for item in answer["items"]] == expected.ids[0]
    assert [item["title"] for item in answer["items"]] == expected.titles[0]
    assert [item["score"] for item in answer["items"]] == pytest.approx(expected.scores[0])
    assert (answer["by"], answer["unknown"], answer["model"]) == ("model", 2, "first")


def test_only_items_that_are_new(client: TestClient) -> None:
    found = client.post("/recommend", json={"history": ["item-3"], "k": 10, "new_days": 3, "active_days": 0.5}).json()
    assert {item["item_id"] for item in found["items"]} == {f"item-{ITEMS - n}" for n in range(3)}
    for days in (0, "3", True):
        refused = client.post("/recommend", json={"history": [], "new_days": days})
        assert (refused.status_code, refused.json()["fields"][0]["field"].split(".")[0]) == (422, "new_days")


def test_filters_and_a_user_of_whom_nothing_is_known(client: TestClient) -> None:
    body = {"history": [], "k": 3, "deny": ["item-40"], "categories": ["c0"]}
    answer = client.post("/recommend", json=body).json()
    assert answer["by"] == "popularity"
    assert [item["item_id"] for item in answer["items"]] == ["item-37", "item-34", "item-31"]
    seen = client.post("/recommend", json={"history": ["item-2"], "allow": ["item-2"], "filter_seen": False}).json()
    assert [item["item_id"] for item in seen["items"]] == ["item-2"]


def test_lists_by_an_index_are_served_where_there_is_one(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("faiss", reason="the extra `ann` is not installed")
    with pytest.raises(DataError, match="approximate: no index of the model's items was found"):
        Answers(str(folder), approximate=True)
    exact, near = Answers(str(folder)), Answers(str(write_model(tmp_path, "first", ann=True)), approximate=True)
    for question in (Question(("item-1",), 5, Filter()), Question(("item-1",), 2, Filter(categories=["c1"]))):
        one, other = near.answer([question])[0], exact.answer([question])[0]
        assert isinstance(one, Answer) and isinstance(other, Answer) and one.ids == other.ids


def test_questions_of_one_batch_get_their_own_answers(folder: Path) -> None:
    answers, other = Answers(str(folder)), Filter(categories=["c1"])
    questions = [Question(("item-1",), 5, Filter()), Question(("item-1",), 2, other),
                 Question(("item-2", "x"), 3, Filter()), Question((), 1, other),
                 Question(("item-1",), 1, Filter(categories=["none"]))]
    together = answers.answer(questions)
    for question, answer in zip(questions[:-1], together[:-1], strict=True):
        alone = answers.answer([question])[0]
        assert isinstance(answer, Answer) and isinstance(alone, Answer) and len(answer.ids) == question.k
        assert replace(answer, scores=[]) == replace(alone, scores=[])
        assert answer.scores == pytest.approx(alone.scores)  # states of other batches are rounded otherwise
    assert "filter.categories: got 'none'" in str(together[-1])


BAD: dict[str, tuple[Any, int, str]] = {
    "no history": ({}, 422, "history"),
    "a word": ({"history": "item-1"}, 422, "history"),
    "an id that is none": ({"history": [None]}, 422, "history.0"),
    "half an id": ({"history": [1.5]}, 422, "history.0"),
    "too long": ({"history": ["a"] * 51}, 422, "history"),
    "too many": ({"history": [], "k": 101}, 422, "k"),
    "too few": ({"history": [], "k": 0}, 422, "k"),
    "a number in words": ({"history": [], "k": "3"}, 422, "k"),
    "an unknown field": ({"history": [], "n": 3}, 422, "n"),
    "a list that is none": ({"history": [], "deny": None}, 422, "deny"),
    "an unknown category": ({"history": [], "categories": ["x"]}, 422, "filter.categories: got 'x'"),
    "unknown allowed items": ({"history": [], "allow": ["x"]}, 422, "filter.allow: got '1 ids'"),
    "no object": ([1], 422, "body"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_a_client_does_wrong_is_told_with_its_field(client: TestClient, case: str) -> None:
    body, code, word = BAD[case]
    found = client.post("/recommend", json=body)
    assert found.status_code == code
    told = found.json()
    assert word in [field["field"].removesuffix(".str").removesuffix(".int") for field in told.get("fields", ())] + [
        told["error"][: len(word)]]
    assert "Traceback" not in found.text


def test_bodies_that_are_too_large_are_refused(client: TestClient) -> None:
    told = client.post("/recommend", content=b"x" * (256 * 1024 + 1))
    untold = client.post("/recommend", content=iter([b"x" * 2**17] * 3))
    for found in (told, untold):
        assert (found.status_code, found.json()) == (413, {"error": "the body is larger than 262,144 bytes"})
    assert client.post("/recommend", content=b"x" * 100).status_code == 422
    assert client.get("/recommend").status_code == 405
    assert client.get("/nothing").json() == {"error": "Not Found"}


def test_a_token_is_asked_for(folder: Path) -> None:
    guarded = client_of(Answers(str(folder)), token="ünlikely")
    body = {"history": ["item-1"]}
    for headers in ({}, {"Authorization": "Bearer other"}, {"Authorization": "ünlikely".encode()[:3]}):
        found = guarded.post("/recommend", json=body, headers=headers)
        assert found.status_code == 401 and found.headers["www-authenticate"] == "Bearer"
    assert guarded.get("/metrics").status_code == 401
    assert guarded.get("/health").status_code == guarded.get("/ready").status_code == 200
    plain = client_of(Answers(str(folder)), token="secret")
    assert plain.post("/recommend", json=body, headers={"Authorization": "Bearer secret"}).status_code == 200


def test_pages_for_machines(client: TestClient) -> None:
    assert client.get("/health").json() == {"status": "ok"}
    assert client.get("/ready").json() == {"status": "ready", "model": "first", "items": ITEMS}
    before = client.get("/metrics").text
    client.post("/recommend", json={"history": ["item-1", "nothing"]})
    after = client.get("/metrics").text

    def value(text: str, name: str) -> float:
        return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith(name))

    for name in ('mentorec_answers_total{by="model"}', "mentorec_unknown_items_total", "mentorec_answer_seconds_count"):
        assert value(after, name) == value(before, name) + 1
    api = client.get("/openapi.json").json()
    assert api["components"]["schemas"]["RecommendRequest"]["properties"]["k"]["maximum"] == 100
    assert client.get("/docs").status_code == 200


def test_a_newer_model_takes_over_and_a_broken_one_does_not(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model", "old")
    answers = Answers(str(folder))
    client = client_of(answers)
    assert not answers.refresh()
    write_model(folder, "new", seed=1)
    assert client.post("/recommend", json={"history": ["item-1"]}).json()["model"] == "old"
    assert answers.refresh()
    assert client.post("/recommend", json={"history": ["item-1"]}).json()["model"] == "new"
    (folder / "model.safetensors").write_bytes(b"half")
    (folder / "model.json").write_text((folder / "model.json").read_text().replace('"new"', '"newest"'))
    with pytest.raises(ArtifactError, match="cannot be read"):
        answers.refresh()
    assert client.post("/recommend", json={"history": ["item-1"]}).json()["model"] == "new"


def test_a_watch_tells_of_a_newer_model_that_cannot_be_loaded_and_takes_over_a_later_good_one(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    from pipeline.serve import deployment

    class Over(Exception):
        pass

    folder = write_model(tmp_path / "model", "old")
    answers, seen = Answers(str(folder)), list[tuple[str, int]]()

    def sleep(seconds: float) -> None:
        """What happens to the folder between the looks at it."""
        assert seconds == 7.0
        seen.append((answers.fingerprint, len(caplog.records)))
        match len(seen):
            case 2:
                write_model(folder, "broken", seed=1)
                (folder / "model.safetensors").write_bytes(b"half")
            case 4:
                write_model(folder, "good", seed=2)
            case 6:
                raise Over

    monkeypatch.setattr(deployment, "time", SimpleNamespace(sleep=sleep))
    service = SimpleNamespace(_config=ServeConfig(model=str(folder), watch_s=7.0), _answers=answers)
    with caplog.at_level("INFO", logger="mentorec.serve"), pytest.raises(Over):
        deployment.Service._follow(service)  # type: ignore[arg-type]
    assert seen == [("old", 0), ("old", 0), ("old", 1), ("old", 2), ("good", 3), ("good", 3)]
    levels, words = zip(*((record.levelname, record.getMessage()) for record in caplog.records), strict=True)
    assert levels == ("WARNING", "WARNING", "INFO")
    assert words[0] == words[1]
    assert re.fullmatch("the newer model cannot be loaded, the old one goes on answering: .*cannot be read.*", words[0])
    assert words[2] == "serving the newer model good"


JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
                    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4))
ID = st.text(st.characters(exclude_categories=())) | st.integers() | JSON
BODY = st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode()) | st.fixed_dictionaries(
    {"history": st.lists(ID, max_size=5) | JSON}, optional={
        "k": st.integers(-2, 200) | JSON, "filter_seen": st.booleans() | JSON, "allow": st.lists(ID, max_size=3) | JSON,
        "deny": st.lists(ID, max_size=3) | JSON, "categories": st.lists(st.text(), max_size=3) | JSON}
).map(lambda value: json.dumps(value).encode())


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(BODY)
def test_no_body_ends_in_an_error_of_ours(client: TestClient, body: bytes) -> None:
    found = client.post("/recommend", content=body, headers={"Content-Type": "application/json"})
    assert found.status_code in (200, 400, 422), found.text
    assert found.json()


def test_a_tower_of_brackets_is_a_bad_request(client: TestClient) -> None:
    found = client.post("/recommend", content=b"[" * 200_000, headers={"Content-Type": "application/json"})
    assert found.status_code in (400, 422)


def test_a_defect_tells_nothing_of_itself(folder: Path) -> None:
    async def ask(_: Question) -> Answer | MentorecError:
        raise KeyError("secret")

    broken = TestClient(build_app(ServeConfig(model="x"), Answers(str(folder)), ask, None),
                        raise_server_exceptions=False)
    found = broken.post("/recommend", json={"history": []})
    assert (found.status_code, found.json()) == (500, {"error": "internal error"})


def test_settings_and_the_shipped_file_are_legal(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray.serve.schema import ServeDeploySchema

    from pipeline.serve.deployment import token

    shipped = yaml.safe_load((ROOT / "cluster" / "serve.yaml").read_text())
    application, = ServeDeploySchema.model_validate(shipped).applications
    assert application.import_path == "pipeline.serve.deployment:build"
    config = ServeConfig.model_validate(application.args)
    assert shipped["http_options"]["host"] == ServeConfig(model="x").host == "127.0.0.1"
    assert token(config) is None
    guarded = ServeConfig(model="x", token_variable="MENTOREC_TEST_TOKEN")
    with pytest.raises(ConfigError, match="the environment variable MENTOREC_TEST_TOKEN is empty or not set"):
        token(guarded)
    monkeypatch.setenv("MENTOREC_TEST_TOKEN", "x")
    assert token(guarded) == "x"


@pytest.mark.parametrize(("changed", "warned"), [
    ({"host": "0.0.0.0"}, True), ({"host": "0.0.0.0", "token_variable": "MENTOREC_TEST_TOKEN"}, False),
    ({"host": "127.0.0.1"}, False)])
def test_more_replicas_than_there_is_room_for_are_refused_and_an_open_door_is_told(
        folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], changed: dict[str, str],
        warned: bool) -> None:
    """Before anything is started."""
    from pipeline.commands import serve as command

    asked: list[list[dict[str, float]]] = []
    monkeypatch.setenv("MENTOREC_TEST_TOKEN", "x")
    monkeypatch.setattr(command, "connect", lambda _: nullcontext())
    monkeypatch.setattr(command, "await_nodes", lambda bundles, _: asked.append(bundles))
    monkeypatch.setattr(command, "room_for", lambda _: 2)
    port = free_port()
    config = ServeConfig.model_validate({"model": str(folder), "port": port, "replicas": 3, **changed})
    with pytest.raises(ResourceError, match="serve: 3 replicas of 1 CPUs and 0 GPUs are asked for, the cluster has "
                                            "room for 2; lower num_cpus, num_gpus or replicas, or add nodes"):
        next(command.serve(config))
    assert asked == [[{"CPU": 1.0}] * 3]
    assert capsys.readouterr().err == ("serve: 0.0.0.0 may be reached from other machines and nobody is asked for a "
                                       "token; set token_variable\n" if warned else "")


@pytest.mark.parametrize(("args", "message"), [
    (["{tmp}"], "holds no model.json; legal: a folder or URI that `mentorec export` has written"),
    (["{model}", "port=0"], "port: got 0"),
    (["{model}", "host=192.0.2.1"], "host and port: got '192.0.2.1:8000'; legal: a free port of an address of this"),
    (["{model}", "token_variable=MENTOREC_NO_TOKEN"], "MENTOREC_NO_TOKEN is empty or not set"),
    (["{model}", "approximate=true"], "mentorec export --ann"),
    (["{model}", "workers=2"], "workers")])
def test_a_service_that_cannot_start_says_why_in_one_line(folder: Path, tmp_path: Path, args: list[str], message: str,
                                                          capsys: pytest.CaptureFixture[str]) -> None:
    from pipeline.commands import cli

    with pytest.raises(SystemExit) as ended:
        cli.main(["serve", *(arg.replace("{tmp}", str(tmp_path)).replace("{model}", str(folder)) for arg in args)])
    told = capsys.readouterr()
    assert ended.value.code == 2 and told.out == ""
    assert told.err.startswith("error: ") and message in told.err and told.err.count("\n") == 1
