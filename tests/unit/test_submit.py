"""How `submit` ends, whatever becomes of the job, its log, its watcher and the terminal."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest

from cluster import submit as submitting
from cluster.submit import submit
from configs.errors import ResourceError, StorageError
from pipeline.commands import cli, jobs
from pipeline.commands.ending import Terminated

JOB = "raysubmit_1"
RUNS_ON = f"{JOB} runs on: `ray job logs --follow {JOB}`, `ray job stop {JOB}`"


class Server:
    """A job server with one job: what it streams, then how the job ended."""

    def __init__(self, *log: str | BaseException, status: str = "SUCCEEDED", code: int | None = 0,
                 message: str | None = None, asked: Exception | None = None) -> None:
        self.log, self.asked = log, asked
        self.job = SimpleNamespace(status=SimpleNamespace(value=status, is_terminal=lambda: True),
                                   driver_exit_code=code, message=message)

    def submit_job(self, **_: Any) -> str:
        return JOB

    async def tail_job_logs(self, job: str) -> AsyncIterator[str]:
        for lines in self.log:
            if isinstance(lines, BaseException):
                raise lines
            yield lines

    def get_job_info(self, job: str) -> Any:
        if self.asked is not None:
            raise self.asked
        return self.job


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Submits to such a server."""
    def to(server: Server) -> int:
        monkeypatch.setattr(submitting, "_client", lambda address: server)
        return submit(["true"], Path.cwd())
    return to


def _refusal() -> Exception:
    from ray.exceptions import AuthenticationError

    return AuthenticationError("a token is missing")


def test_why_a_job_never_started_is_told(sent: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert sent(Server(status="FAILED", code=None, message="runtime_env\nsetup failed: no such package")) == 1
    assert capsys.readouterr().err.splitlines()[-1] == f"{JOB}: failed: runtime_env setup failed: no such package"


def test_a_commands_own_failure_stands_in_its_log(sent: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert sent(Server("error: x\n", status="FAILED", code=2, message="the last 20,000 characters: error: x")) == 2
    told = capsys.readouterr()
    assert (told.out, told.err) == ("error: x\n", f"submitted {JOB}\n{JOB}: failed\n")


@pytest.mark.parametrize("broken", [
    aiohttp.ServerDisconnectedError(), RuntimeError("WebSocket closed"), ConnectionError("reset"), _refusal()])
def test_a_log_that_breaks_off_is_told_and_the_jobs_end_awaited(sent: Any, capsys: pytest.CaptureFixture[str],
                                                                broken: Exception) -> None:
    assert sent(Server("1\n", broken, status="FAILED", code=3)) == 3
    told = capsys.readouterr()
    assert told.out == "1\n" and f"the log of {JOB} breaks off: " in told.err and told.err.endswith(f"{JOB}: failed\n")


@pytest.mark.parametrize("gone", [ConnectionError("refused"), _refusal()])
def test_a_job_server_that_is_gone_is_one_line(sent: Any, gone: Exception) -> None:
    with pytest.raises(ResourceError, match=f"lost the job server while {JOB} was running: .*`ray job status {JOB}`"):
        sent(Server(RuntimeError("closed"), asked=gone))


@pytest.mark.parametrize(("stop", "code"), [(KeyboardInterrupt(), 130), (Terminated(), 143)])
def test_who_stops_watching_is_told_that_the_job_runs_on_and_nothing_else(
        monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], stop: BaseException, code: int) -> None:
    monkeypatch.setattr(submitting, "_client", lambda address: Server(stop))
    monkeypatch.setattr(jobs, "job_command", lambda *_: ["true"])
    with pytest.raises(SystemExit) as ended:
        cli.main(["submit", "--config", "demo"])
    assert ended.value.code == code
    assert capsys.readouterr().err == f"submitted {JOB}\nstopped watching; {RUNS_ON}\n"


class Broken(io.StringIO):
    """A stdout that takes nothing."""

    def __init__(self, error: OSError) -> None:
        super().__init__()
        self.error = error

    def write(self, text: str) -> int:
        raise self.error


def test_a_stdout_that_takes_no_more_is_no_lost_server(sent: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "dup2", lambda *_: None)  # the test's own stdout stays
    monkeypatch.setattr(sys, "stdout", Broken(OSError(28, "No space left on device")))
    with pytest.raises(StorageError, match=f"stdout: No space left on device; {JOB} runs on: "):
        sent(Server("1\n"))
    monkeypatch.setattr(sys, "stdout", Broken(BrokenPipeError(32, "Broken pipe")))
    with pytest.raises(BrokenPipeError):
        sent(Server("1\n"))
