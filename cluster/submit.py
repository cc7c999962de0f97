"""Send a command to a running Ray cluster as a job, follow its log, and end as it ended."""

from __future__ import annotations

import asyncio
import logging
import os
import shlex
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.addresses import ADDRESS, API_ADDRESS, use_own_token
from configs.errors import ResourceError, StorageError

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient

_POLL_S = 0.5
_SIGNALLED = 128
"""Exit codes from here on, and negative ones, are of commands that a signal ended."""
_INTERRUPTED, _TERMINATED = _SIGNALLED + signal.SIGINT, _SIGNALLED + signal.SIGTERM
_SHOWN = 500
"""Characters of what Ray says."""


def job_address(address: str | None) -> str | None:
    """The job server: the given address, else the environment's; None lets Ray look on this machine."""
    return address or os.environ.get(API_ADDRESS) or os.environ.get(ADDRESS) or None


def submit(entrypoint: Sequence[str], working_dir: Path, *, address: str | None = None,
           env: Mapping[str, str] | None = None, wait: bool = True, cpus: float | None = None) -> int:
    """Upload ``working_dir`` (less what ``.gitignore`` and ``.rayignore`` name) and run ``entrypoint`` there.

    With ``wait`` the job's log goes to stdout; an interrupt stops the watching, not the job.

    Returns:
        The exit code of the job's command; 0 when it was only submitted, 1 when it was stopped or never ran; 130 or 143
        when the watching was interrupted or terminated.

    Raises:
        ResourceError: no job server answers, or it refuses the job.
        StorageError: stdout takes no more of the log.
    """
    client = _client(address)
    try:
        job = client.submit_job(entrypoint=shlex.join(entrypoint), entrypoint_num_cpus=cpus,
                                runtime_env={"working_dir": str(working_dir), "env_vars": dict(env or {})})
    except _server_errors() as exc:
        raise ResourceError(f"the job server refused the job: {_line(exc)}") from exc
    print(f"submitted {job}", file=sys.stderr, flush=True)
    if not wait:
        return 0
    try:
        asyncio.run(_follow(client, job))
        ended = _end(client, job)
    except BaseException as exc:
        if isinstance(exc, Exception):
            raise
        print(f"stopped watching; {_runs_on(job)}", file=sys.stderr)
        return _INTERRUPTED if isinstance(exc, KeyboardInterrupt) else _TERMINATED
    status, code = ended.status.value, ended.driver_exit_code
    reason = f": {_line(ended.message)}" if code is None and ended.message and status != "SUCCEEDED" else ""
    print(f"{job}: {status.lower()}{reason}", file=sys.stderr, flush=True)
    return 0 if status == "SUCCEEDED" else code if code is not None and 0 < code < _SIGNALLED else 1


def _client(address: str | None) -> JobSubmissionClient:
    use_own_token(job_address(address))
    try:
        from ray.job_submission import JobSubmissionClient
    except ModuleNotFoundError as exc:
        raise ResourceError("the package 'ray' is not installed; install mentorec with its dependencies") from exc
    for name in ("ray", "ray.dashboard.modules.job.sdk", "ray.dashboard.modules.dashboard_sdk"):
        logging.getLogger(name).setLevel(logging.ERROR)  # its notes on the upload are not for the person
    if address is not None:
        os.environ[API_ADDRESS] = address  # the client prefers its environment to its argument
    try:
        return JobSubmissionClient(address)
    except _server_errors() as exc:
        raise ResourceError(f"no Ray job server answers at {job_address(address) or 'this machine'}: {_line(exc)}; "
                            "start one with `ray start --head`, or give --address http://HOST:8265") from exc


def _server_errors() -> tuple[type[Exception], ...]:
    """How a job server that refuses, breaks off or is silent shows itself."""
    import aiohttp
    from ray.exceptions import RayError

    return RuntimeError, ValueError, OSError, RayError, aiohttp.ClientError


async def _follow(client: JobSubmissionClient, job: str) -> None:
    """The job's log, as far as the server streams it."""
    log = client.tail_job_logs(job)
    while True:
        try:
            lines = await anext(log, None)
        except _server_errors() as exc:
            print(f"the log of {job} breaks off: {_line(exc)}; waiting for its end, `ray job logs {job}` has all of it",
                  file=sys.stderr, flush=True)
            return
        if lines is None:
            return
        _show(lines, job)


def _show(lines: str, job: str) -> None:
    try:
        print(lines, end="", flush=True)
    except BrokenPipeError:
        raise
    except OSError as exc:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # Python flushes once more at its end
        raise StorageError(f"stdout: {exc.strerror}; {_runs_on(job)}") from exc


def _end(client: JobSubmissionClient, job: str) -> JobDetails:
    """What is known of the job once it has ended."""
    try:
        while not (found := client.get_job_info(job)).status.is_terminal():
            time.sleep(_POLL_S)
    except _server_errors() as exc:
        raise ResourceError(f"lost the job server while {job} was running: {_line(exc)}; see `ray job status {job}`"
                            ) from exc
    return found


def _runs_on(job: str) -> str:
    return f"{job} runs on: `ray job logs --follow {job}`, `ray job stop {job}`"


def _line(said: object) -> str:
    return " ".join(str(said).split())[:_SHOWN] or type(said).__name__
