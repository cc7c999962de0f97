"""The how-to pages do what they say: every command and every line of Python of theirs is run."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.tools import ROOT, TINY, cli_here, command, free_port

_BLOCK = re.compile(r"```(bash|python)\n(.*?)```", re.DOTALL)
_RAN = {"mentorec", "curl", "printf"}


def blocks(page: str, language: str) -> list[str]:
    found = [text for kind, text in _BLOCK.findall((ROOT / "docs" / page).read_text(encoding="utf-8"))
             if kind == language]
    assert found, page
    return found


def commands(page: str) -> list[str]:
    """Each command of the page's shell blocks, continued lines joined."""
    lines = [line for block in blocks(page, "bash") for line in block.replace("\\\n", " ").splitlines() if line.strip()]
    assert {line.split()[0] for line in lines} <= _RAN
    return lines


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder whose `configs/demo.yaml` takes seconds."""
    (tmp_path / "configs").mkdir()
    small = TINY.replace("name: tiny", "name: demo").replace("arms: [plain, distilled]", "arms: [plain]")
    (tmp_path / "configs" / "demo.yaml").write_text(small)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(line: str) -> str:
    """One command; what it printed."""
    if line.startswith("mentorec "):
        done = cli_here(*shlex.split(line)[1:])
    else:
        done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{line}\n{done.stderr}"
    return done.stdout


def test_the_batch_page_and_the_notebook_page(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for line in commands("recommend.md"):
        run(line)
    rows = [json.loads(line) for line in (folder / "by-folder.jsonl").read_text().splitlines()]
    assert rows == [json.loads(line) for line in (folder / "new-lists.jsonl").read_text().splitlines()]
    assert [(row["user_id"], row["by"], row["unknown"]) for row in rows] == [
        ("ann", "model", 0), ("2", "model", 1), ("3", "popularity", 0)]
    assert len((folder / "some.jsonl").read_text().splitlines()) == 2
    names: dict[str, object] = {}
    for block in blocks("notebook.md", "python"):
        exec(compile(block, "notebook.md", "exec"), names)
    told = capsys.readouterr().out
    assert "popularity" in told and "1 of 2 sequences hold no item that the model knows" in told


def test_the_page_on_serving(folder: Path) -> None:
    pytest.importorskip("fastapi", reason="Ray Serve (extra `serve`) is not installed")
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    port = str(free_port())
    service: subprocess.Popen[str] | None = None
    try:
        for line in commands("serve.md"):
            if line == "mentorec serve recommender":
                service = _started(folder, port)
            elif line.startswith("curl"):
                answer = run(line.replace("curl -s", "curl -sf --max-time 120").replace(":8000", f":{port}"))
                if "/recommend" in line:
                    assert len(json.loads(answer)["items"]) == 5
                elif "/metrics" in line:
                    assert 'mentorec_answers_total{by="model"} 1.0' in answer
                else:
                    assert json.loads(answer)["status"] in ("ok", "ready")
            else:
                run(line)
        assert service is not None
        service.send_signal(signal.SIGINT)
        assert service.wait(120) == 0
    finally:
        if service is not None:
            service.kill()
            service.wait()


def _started(folder: Path, port: str) -> subprocess.Popen[str]:
    """The service, once it has told its address."""
    script = command("serve", "recommender", f"port={port}")
    with (folder / "out").open("w") as out, (folder / "err").open("w") as err:
        # -P: the working folder has a `configs` of its own, which is no package of ours.
        service = subprocess.Popen([sys.executable, "-P", *script[1:]], cwd=folder, stdout=out, stderr=err, text=True)
    deadline = time.monotonic() + 400
    while f"http://127.0.0.1:{port}" not in (folder / "out").read_text():
        if service.poll() is not None or time.monotonic() > deadline:
            service.kill()
            raise AssertionError((folder / "err").read_text())
        time.sleep(0.2)
    return service


def test_the_page_on_language_models(folder: Path) -> None:
    """What it downloads is not downloaded again: the names are on the list, the settings and the targets exist."""
    page = (ROOT / "docs" / "llm.md").read_text(encoding="utf-8")
    listed = ""
    for line in commands("llm.md"):
        if line == "mentorec fetch --list":
            listed = run(line)
        else:
            assert line.startswith("mentorec fetch package:") and line.split()[-1].removeprefix("package:") in listed
    schema = json.loads(run("mentorec schema"))
    settings = re.findall(r"`((?:profile|encode)\.[a-z_.]+)", page)
    assert len(settings) > 3 and not [each for each in settings if not _settable(schema, schema, each.split("."))]
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"`make ([a-z-]+)", page))
    assert targets and all(f"\n{target}:" in makefile for target in targets)
    for path in re.findall(r"`((?:configs|pipeline)/[\w/.-]+)`", page):
        assert (ROOT / path).exists(), path


def _settable(schema: Any, node: Any, path: list[str]) -> bool:
    """Whether a JSON schema knows a dotted setting, in one of the kinds that a group may have."""
    if "$ref" in node:
        return _settable(schema, schema["$defs"][node["$ref"].rpartition("/")[2]], path)
    if not path:
        return True
    inside = node.get("properties", {}).get(path[0])
    return (inside is not None and _settable(schema, inside, path[1:])) or any(
        _settable(schema, kind, path) for kind in (*node.get("anyOf", ()), *node.get("oneOf", ())))
