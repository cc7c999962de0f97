"""Send a command to a running Ray cluster as a job, follow its log, and end as it ended."""

from __future__ import annotations

import asyncio
import logging
import os
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.connect import use_own_token
from configs.errors import ResourceError

if TYPE_CHECKING:
    from ray.job_submission import JobStatus, JobSubmissionClient

_API_ADDRESS = "RAY_API_SERVER_ADDRESS"
_POLL_S = 0.5
_SIGNALLED = 128
"""Exit codes from here on, and negative ones, are of commands that a signal ended."""


def job_address(address: str | None) -> str | None:
    """The job server: the given address, else the environment's; None lets Ray look on this machine."""
    return address or os.environ.get(_API_ADDRESS) or os.environ.get("RAY_ADDRESS") or None


def submit(entrypoint: Sequence[str], working_dir: Path, *, address: str | None = None,
           env: Mapping[str, str] | None = None, wait: bool = True, cpus: float | None = None) -> int:
    """Upload ``working_dir`` (less what ``.gitignore`` and ``.rayignore`` name) and run ``entrypoint`` there.

    With ``wait`` the job's log goes to stdout; an interrupt stops the watching, not the job.

    Returns:
        The exit code of the job's command; 0 when it was only submitted, 1 when it was stopped or never ran.

    Raises:
        ResourceError: no job server answers, or it refuses the job.
    """
    client = _client(address)
    try:
        job = client.submit_job(entrypoint=shlex.join(entrypoint), entrypoint_num_cpus=cpus,
                                runtime_env={"working_dir": str(working_dir), "env_vars": dict(env or {})})
    except (RuntimeError, ValueError, OSError) as exc:
        raise ResourceError(f"the job server refused the job: {_line(exc)}") from exc
    print(f"submitted {job}", file=sys.stderr, flush=True)
    if not wait:
        return 0
    try:
        asyncio.run(_follow(client, job))
        status = _wait(client, job)
        code = client.get_job_info(job).driver_exit_code
    except KeyboardInterrupt:
        print(f"stopped watching; {job} runs on: `ray job logs --follow {job}`, `ray job stop {job}`", file=sys.stderr)
        return 130
    except (RuntimeError, OSError) as exc:
        raise ResourceError(f"lost the job server while {job} was running: {_line(exc)}; see `ray job status {job}`"
                            ) from exc
    print(f"{job}: {status.value.lower()}", file=sys.stderr, flush=True)
    return 0 if status.value == "SUCCEEDED" else code if code is not None and 0 < code < _SIGNALLED else 1


def _client(address: str | None) -> JobSubmissionClient:
    use_own_token(job_address(address))
    try:
        from ray.exceptions import RayError
        from ray.job_submission import JobSubmissionClient
    except ModuleNotFoundError as exc:
        raise ResourceError("the package 'ray' is not installed; install mentorec with its dependencies") from exc
    for name in ("ray", "ray.dashboard.modules.job.sdk", "ray.dashboard.modules.dashboard_sdk"):
        logging.getLogger(name).setLevel(logging.ERROR)  # its notes on the upload are not for the person
    if address is not None:
        os.environ[_API_ADDRESS] = address  # the client prefers its environment to its argument
    try:
        return JobSubmissionClient(address)
    except (RuntimeError, ValueError, OSError, RayError) as exc:
        raise ResourceError(f"no Ray job server answers at {job_address(address) or 'this machine'}: {_line(exc)}; "
                            "start one with `ray start --head`, or give --address http://HOST:8265") from exc


async def _follow(client: JobSubmissionClient, job: str) -> None:
    async for lines in client.tail_job_logs(job):
        print(lines, end="", flush=True)


def _wait(client: JobSubmissionClient, job: str) -> JobStatus:
    while not (status := client.get_job_status(job)).is_terminal():
        time.sleep(_POLL_S)
    return status


def _line(exc: Exception) -> str:
    return " ".join(str(exc).split())[:300]
