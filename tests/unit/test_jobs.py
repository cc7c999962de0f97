"""A run as a job: its command, its environment, and where its job server is."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import psutil
import pytest
from typer.main import get_command

from cluster import addresses
from cluster.addresses import is_here, use_own_token
from cluster.config import ClusterConfig
from cluster.connect import connect, in_job, joins_cluster, local_cpus
from cluster.submit import job_address
from configs.errors import ConfigError
from configs.loader import load
from pipeline.commands import jobs
from pipeline.commands.cli import app
from pipeline.commands.jobs import COMMANDS, job_environment, read_run
from pipeline.config import RunConfig
from tuning.search import read_search


@pytest.fixture(autouse=True)
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "RAY_JOB_CONFIG_JSON_ENV_VAR", "RAY_AUTH_TOKEN",
                 "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def listener() -> Iterator[str]:
    """An address of this machine where this process, which is no Ray, listens: the near end of a tunnel."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"127.0.0.1:{listening.getsockname()[1]}"


def job_command(name: str, config: str, overrides: list[str], working_dir: Path, **more: bool) -> list[str]:
    """As `submit` calls it."""
    read = partial(read_search, config, overrides) if name == "tune" else partial(read_run, name, config, overrides)
    return jobs.job_command(name, read, overrides, working_dir, **more)


def test_a_relative_storage_root_is_made_absolute_on_this_machine(tmp_path: Path) -> None:
    assert job_command("run", "demo", ["train.alpha=0.5"], tmp_path, here=True) == [
        "python", "-m", "pipeline", "run", "--config", "configs/demo.yaml", "train.alpha=0.5",
        f"storage.uri={tmp_path}/results"]


def test_a_storage_root_with_a_variable_is_filled_in_before_the_job_starts(tmp_path: Path,
                                                                           monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCRATCH", "/scratch")
    command = job_command("run", "demo", ["storage.uri=$SCRATCH/results"], tmp_path, here=False)
    assert command[-1] == "storage.uri=/scratch/results"


@pytest.mark.parametrize("uri", ["/abs/results", "s3://bucket/x"])
def test_other_storage_roots_stay(tmp_path: Path, uri: str) -> None:
    command = job_command("run", "demo", [f"storage.uri={uri}"], tmp_path, here=False, quiet=True)
    assert command[-2:] == [f"storage.uri={uri}", "--quiet"]


def test_a_relative_storage_root_on_another_machine_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"storage\.uri: got 'results'; a job on another machine needs a URI"):
        job_command("run", "demo", [], tmp_path, here=False)


@pytest.mark.parametrize("folder", ["run #3", "a: b", "[x", "ünï 😀"])
def test_a_storage_root_of_any_name_is_read_by_the_job_as_it_is(tmp_path: Path, folder: str) -> None:
    command = job_command("run", "demo", [], tmp_path / folder, here=True)
    assert load(RunConfig, None, ["name=x", command[-1]]).storage.uri == f"{tmp_path}/{folder}/results"


@pytest.mark.parametrize("extends", [False, True])
def test_a_file_outside_the_upload_is_refused_and_one_that_is_only_extended_too(tmp_path: Path, extends: bool) -> None:
    inside, outside, file = tmp_path / "inside", tmp_path / "mine.yaml", tmp_path / "mine.yaml"
    inside.mkdir()
    outside.write_text("name: x\n")
    if extends:
        file = inside / "child.yaml"
        file.write_text("extends: ../mine.yaml\n")
    with pytest.raises(ConfigError, match=r"--config: .*mine\.yaml: a job gets only the files below"):
        job_command("run", str(file), [], inside, here=True)
    assert job_command("run", str(file), [], tmp_path, here=True)[5] == str(file.relative_to(tmp_path))


@pytest.mark.parametrize("names", [".gitignore", ".rayignore"])
def test_a_file_that_ray_leaves_out_is_refused(tmp_path: Path, names: str) -> None:
    """Such as a proof's `config.json` below `results`, where the checkout ignores that; no repository is needed."""
    (tmp_path / names).write_text("/results/\n!/results/kept.yaml\n")
    for file in ("mine.yaml", "results/mine.yaml", "results/kept.yaml", "sub/results/mine.yaml", "sub/venv/mine.yaml"):
        (tmp_path / file).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / file).write_text("name: x\n")
    for file in ("mine.yaml", "results/kept.yaml", "sub/results/mine.yaml"):
        assert job_command("run", str(tmp_path / file), [], tmp_path, here=True)[5] == file
    for file in ("results/mine.yaml", "sub/venv/mine.yaml"):
        with pytest.raises(ConfigError, match=r"a job does not get what \.gitignore or \.rayignore name, nor .* venv"):
            job_command("run", str(tmp_path / file), [], tmp_path, here=True)


def test_ignore_files_count_from_the_uploaded_folder_on(tmp_path: Path) -> None:
    above, inside = tmp_path, tmp_path / "uploaded" / "inside"
    inside.mkdir(parents=True)
    (inside / "mine.yaml").write_text("name: x\n")
    (above / ".gitignore").write_text("mine.yaml\n")
    assert job_command("run", str(inside / "mine.yaml"), [], inside.parent, here=True)[5] == "inside/mine.yaml"
    (inside / ".gitignore").write_text("mine.yaml\n")
    with pytest.raises(ConfigError, match="a job does not get"):
        job_command("run", str(inside / "mine.yaml"), [], inside.parent, here=True)


_SEARCH = """name: s
run: {}
overrides: ['arms=[distilled]']
space: {{train.alpha: {{kind: choice, values: [0.2, 0.5]}}}}
"""


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_that_is_sent_is_one_of_the_command_line(name: str, tmp_path: Path) -> None:
    """With the options that it takes; an agreement to a price is refused where there is none."""
    (tmp_path / "search.yaml").write_text(_SEARCH.format("demo"))
    config = str(tmp_path / "search.yaml") if name == "tune" else "demo"
    takes = {option for each in get_command(app).commands[name].params for option in each.opts}  # type: ignore[attr-defined]
    assert {"--config", "--quiet"} <= takes
    assert job_command(name, config, [], tmp_path, here=True, quiet=True)[3] == name
    if "--yes" in takes:
        assert job_command(name, config, [], tmp_path, here=True, confirmed=True)[-1] == "--yes"
    else:
        with pytest.raises(ConfigError, match=f"--yes: {name} has no price"):
            job_command(name, config, [], tmp_path, here=True, confirmed=True)


def test_a_command_that_is_no_work_for_a_cluster_is_refused_with_those_that_are(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--command: got 'serve'; legal: run, tune, prove, prepare, profile"):
        job_command("serve", "demo", [], tmp_path, here=True)


@pytest.mark.parametrize(("name", "refusal"), [("prove", "a proof needs an arm"),
                                               ("profile", "is no part of this run")])
def test_what_the_command_would_refuse_is_refused_before_it_is_sent(tmp_path: Path, name: str, refusal: str) -> None:
    with pytest.raises(ConfigError, match=refusal):
        job_command(name, "demo", ["arms=[plain]"], tmp_path, here=True)


def test_a_search_is_sent_where_its_run_keeps_its_results(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("name: mine\nstorage: {uri: results/mine}\n")
    (tmp_path / "search.yaml").write_text(_SEARCH.format("mine.yaml"))
    assert job_command("tune", str(tmp_path / "search.yaml"), ["train.epochs=33"], tmp_path, here=True) == [
        "python", "-m", "pipeline", "tune", "--config", "search.yaml", "train.epochs=33",
        f"storage.uri={tmp_path}/results/mine"]


def test_a_search_whose_run_is_not_uploaded_is_refused(tmp_path: Path) -> None:
    (tmp_path / "outside.yaml").write_text("name: x\n")
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / "search.yaml").write_text(_SEARCH.format("../outside.yaml"))
    with pytest.raises(ConfigError, match=r"run of search\.yaml: .*outside\.yaml: a job gets only the files below"):
        job_command("tune", str(inside / "search.yaml"), [], inside, here=True)


def test_the_job_gets_the_data_folder_and_no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MENTOREC_DATA", "/data")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    assert job_environment() == {"MENTOREC_DATA": "/data"}
    monkeypatch.delenv("MENTOREC_DATA")
    assert job_environment() == {}


@pytest.mark.parametrize(("address", "here"), [(None, True), ("http://127.0.0.1:8265", True), ("localhost:8265", True),
                                               ("auto", True), ("http://head:8265", False), ("192.0.2.250:6379", False),
                                               ("ray://head:10001", False), ("ray://localhost:10001", True)])
def test_which_addresses_are_on_this_machine(address: str | None, here: bool) -> None:
    assert is_here(address) == here


def test_a_tunnel_of_this_machine_leads_elsewhere(listener: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not is_here(f"http://{listener}")
    monkeypatch.setattr(addresses, "_SERVERS", (psutil.Process().cmdline()[0],))  # Ray's own server
    assert is_here(f"http://{listener}")


@pytest.mark.parametrize(("running", "here"), [({"gcs_server", "raylet"}, True), ({"raylet"}, False), ({"bash"}, True)])
def test_without_an_address_a_node_finds_the_head_that_it_belongs_to(monkeypatch: pytest.MonkeyPatch, running: set[str],
                                                                     here: bool) -> None:
    monkeypatch.setattr(addresses, "_running", lambda: running)
    assert is_here(None) == here


@pytest.mark.parametrize("address", ["http://head:826x", "head:82655", "http://[::1"])
def test_what_is_no_address_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    for use in (lambda: is_here(address), lambda: connect(ClusterConfig()).__enter__()):
        with pytest.raises(ConfigError, match=r"Ray's address: got '.*'; legal: HOST:PORT, or a URL"):
            use()


def test_the_given_address_comes_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "http://a:1")
    assert job_address(None) == "http://a:1"
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://b:1")
    assert job_address(None) == "http://b:1"
    assert job_address("http://c:1") == "http://c:1"


def test_ray_address_says_whether_a_cluster_is_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not joins_cluster() and not in_job()
    monkeypatch.setenv("RAY_ADDRESS", "local")
    assert not joins_cluster()
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert joins_cluster()


def test_a_local_ray_gets_what_is_asked_or_at_least_two_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    assert local_cpus(ClusterConfig(num_cpus=7)) == 7
    monkeypatch.setattr("cluster.connect.cpu_count", lambda: 1)
    assert local_cpus(ClusterConfig()) == 2
    monkeypatch.setattr("cluster.connect.cpu_count", lambda: 16)
    assert local_cpus(ClusterConfig()) == 16


@pytest.mark.parametrize(("address", "token", "mode"), [("127.0.0.1:6379", True, "token"), ("head:6379", True, None),
                                                        ("127.0.0.1:6379", False, None)])
def test_a_token_of_this_machine_goes_to_this_machine_alone(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str, token: bool, mode: str | None) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("RAY_AUTH_MODE", "")  # so that it is restored afterwards
    monkeypatch.delenv("RAY_AUTH_MODE")
    if token:
        (tmp_path / ".ray").mkdir()
        (tmp_path / ".ray" / "auth_token").write_text("t")
    use_own_token(address)
    assert os.environ.get("RAY_AUTH_MODE") == mode


def test_a_token_of_this_machine_goes_through_no_tunnel(listener: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "t")
    monkeypatch.setenv("RAY_AUTH_MODE", "")  # so that it is restored afterwards
    monkeypatch.delenv("RAY_AUTH_MODE")
    use_own_token(listener)
    assert "RAY_AUTH_MODE" not in os.environ


def test_a_chosen_mode_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "t")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    use_own_token(None)
    assert os.environ["RAY_AUTH_MODE"] == "disabled"
