"""One way into Ray: join the cluster or job we run in, else start a local one, and end only what was started."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from cluster.addresses import ADDRESS, API_ADDRESS, AUTH_MODE, host_port, use_own_token
from cluster.config import ClusterConfig
from cluster.machine import cpu_count
from configs.errors import MentorecError, ResourceError

CODE = Path(__file__).resolve().parents[1]
"""The folder that holds our packages: a checkout, or where they are installed."""
_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"
_MIN_CPUS = 2
_KNOCK_S = 10.0
_STARTS, _SLOW = 3, "timed out during startup"
_LATE_S = 5.0
_HEAD = "node:__internal_head__"
"""A resource of the head alone."""
_CORE_LEVEL = "RAY_BACKEND_LOG_LEVEL"
_UNASKED = "RAY_IGNORE_UNHANDLED_ERRORS"
_SHORT_TEMP = "/tmp"
_SOCKET_LIMIT = 107
"""Bytes in the path of a Unix socket."""
_SOCKET_PART = len("/ray/session_2000-01-01_00-00-00_000000_0000000/sockets/plasma_store")
"""What Ray adds to its temporary folder for the longest of them."""


def in_job() -> bool:
    """Whether this process is the entry point of a Ray job; its working folder is then a temporary copy."""
    return _JOB in os.environ


def joins_cluster() -> bool:
    """Whether :func:`connect` joins a running cluster (``RAY_ADDRESS`` is set, as it is inside every job)."""
    return os.environ.get(ADDRESS, "local") not in ("", "local")


def local_cpus(config: ClusterConfig) -> int:
    """Logical CPUs of a locally started Ray: at least 2, because a Ray Data stage reads beside its actors."""
    return config.num_cpus or max(_MIN_CPUS, cpu_count())


@contextmanager
def connect(config: ClusterConfig, dashboard: bool = False) -> Iterator[None]:
    """Ray, for as long as the block lasts.

    An initialised Ray is used as it is and left running; ``RAY_ADDRESS`` is joined; else a local Ray starts
    and ends with the block.

    Args:
        dashboard: a local Ray is started with one, see :func:`require_dashboard`.

    Raises:
        ConfigError: ``RAY_ADDRESS`` is no address.
        ResourceError: the cluster cannot be reached, refuses our token, or a local Ray cannot start.
    """
    os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's default of 15 starves workers on a shared machine
    if joins_cluster():
        use_own_token(os.environ[ADDRESS])
    else:
        os.environ.pop(ADDRESS, None)  # "local": the nodes inherit it, and their state API takes it for a host
    try:
        import ray
    except ModuleNotFoundError as exc:
        raise ResourceError("the package 'ray' is not installed; install mentorec with its dependencies") from exc
    if ray.is_initialized():
        yield
        return
    try:
        _knock()
        arguments = _arguments(config, dashboard)
        with own_handler(), _inside(CODE), nullcontext() if config.worker_logs else _quiet_core():
            start(arguments)
    except MentorecError:
        raise
    except Exception as exc:  # a node that is slow to start is told by a bare Exception
        raise ResourceError(_explain(exc)) from exc
    try:
        yield
    finally:
        ray.shutdown()


def own_api() -> dict[str, str]:
    """Environment of a process whose state API asks the Ray that we are connected to.

    Without it a machine that runs several is asked at the one that was started last, or at none.
    """
    import ray

    return {API_ADDRESS: ray.get_runtime_context().gcs_address}


def require_dashboard(what: str) -> None:
    """Ray Train gives back the room of a training that is stopped from outside only where Ray's dashboard runs: its
    `PlacementGroupCleaner`, on the head, asks there whether the training lives. Ray must be running.

    Args:
        what: needs it.

    Raises:
        ResourceError: there is none.
    """
    import ray

    asked = ray.remote(num_cpus=0, resources={_HEAD: 0.001}, max_retries=0,
                       runtime_env={"env_vars": own_api()})(_ask_dashboard)
    try:
        ray.get(asked.remote())
    except Exception as exc:  # which ones is nowhere promised
        reason = " ".join(str(exc).split())[-200:]
        raise ResourceError(f"{what}: Ray's dashboard does not answer on the head ({reason}), and without it the "
                            "workers of a stopped trial are never given back; start the head with `ray start --head "
                            "--include-dashboard=true`") from exc


def _ask_dashboard() -> None:
    """More than once: one that has just been started on a busy machine may be late."""
    from ray.util.state import list_nodes

    for left in reversed(range(_STARTS)):
        try:
            list_nodes(limit=1, raise_on_missing_output=False)
            return
        except Exception:
            if not left:
                raise
            time.sleep(_LATE_S)


def start(arguments: dict[str, Any]) -> None:
    """``ray.init``. Ray gives a local node half a minute to come up, which a busy machine exceeds: it is tried again.

    Raises:
        Exception: what Ray raised at the last try.
    """
    import ray

    for left in reversed(range(_STARTS)):
        try:
            ray.init(**arguments)
            return
        except Exception as exc:
            ray.shutdown()
            if not left or _SLOW not in str(exc):
                raise


@contextmanager
def own_handler() -> Iterator[None]:
    """Whoever handles SIGTERM does so after the block too: each ``ray.init`` puts a handler of Ray's there, even where
    Ray runs already, which ends the process with its frames."""
    before = signal.getsignal(signal.SIGTERM)
    if not callable(before) or threading.current_thread() is not threading.main_thread():
        yield
        return
    try:
        yield
    except SystemExit:  # that handler, at work already
        before(signal.SIGTERM, None)
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _quiet_core() -> Iterator[None]:
    """Keep what Ray says of itself off the terminal: how it authenticates, its core's notices, and the tracebacks of
    tasks that failed beside the one whose error is raised.

    The core writes past Python: each actor of Ray Data gets a notice (ray-project/ray#53727), which only a level that
    stands in the environment keeps back; that there is one is written too, while Ray starts. Failures are exceptions.
    """
    logging.getLogger("ray._private.authentication.authentication_token_setup").setLevel(logging.ERROR)
    os.environ.setdefault(_UNASKED, "1")
    if _CORE_LEVEL in os.environ:  # somebody looks for something
        yield
        return
    os.environ[_CORE_LEVEL] = "fatal"
    stderr = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(nowhere)


def _knock() -> None:
    """Raise ConnectionError or OSError at once where Ray itself would try for minutes."""
    host, port = host_port(os.environ[ADDRESS]) if joins_cluster() else ("", None)
    if port:
        socket.create_connection((host, port), timeout=_KNOCK_S).close()


def _arguments(config: ClusterConfig, dashboard: bool) -> dict[str, Any]:
    quiet: dict[str, Any] = {"logging_level": logging.WARNING, "log_to_driver": config.worker_logs}
    if joins_cluster():
        # A job's upload already reaches every worker. From outside a job the code travels with us.
        outside = not in_job() and _is_checkout()
        return quiet | ({"runtime_env": {"working_dir": str(CODE)}} if outside else {})
    return quiet | {
        "address": "local", "_temp_dir": _ray_folder(), "num_cpus": local_cpus(config), "include_dashboard": dashboard,
        "object_store_memory": None if config.object_store_gb is None else int(config.object_store_gb * 2**30),
    }


@contextmanager
def _inside(folder: Path) -> Iterator[None]:
    """The working folder while Ray starts: workers look for modules there first of all.

    So a `models` of the user's own, in the folder that a command is called from, is not taken for ours.
    """
    before = os.open(".", os.O_RDONLY)
    os.chdir(folder)
    try:
        yield
    finally:
        os.fchdir(before)
        os.close(before)


def _ray_folder() -> str | None:
    """Where a local Ray keeps its files; None: where it does by itself, unless its sockets' paths would be too long.

    Raises:
        ResourceError: they would, and there is no shorter place.
    """
    name = "RAY_TMPDIR" if "RAY_TMPDIR" in os.environ else "TMPDIR"
    given = os.environ.get(name, _SHORT_TEMP)
    allowed = _SOCKET_LIMIT - _SOCKET_PART
    if len(os.fsencode(given)) <= allowed:
        return None
    if name == "TMPDIR" and os.access(_SHORT_TEMP, os.W_OK):
        return f"{_SHORT_TEMP}/ray"
    raise ResourceError(f"{name}: got {given!r}, {len(os.fsencode(given))} bytes; legal: at most {allowed}, for Ray "
                        f"puts sockets below it; set RAY_TMPDIR to a shorter folder that exists")


def _is_checkout() -> bool:
    return (CODE / "pyproject.toml").is_file()


def _explain(exc: Exception) -> str:
    reason = " ".join(str(exc).split())[:300]
    if not joins_cluster():
        return (f"a local Ray did not start: {reason}; run again when the machine is less busy; "
                "`mentorec doctor --ray` shows what is missing")
    token = "" if AUTH_MODE in os.environ else f"; if it asks for a token, set {AUTH_MODE}=token"
    return (f"no Ray cluster answers at {ADDRESS}={os.environ[ADDRESS]}: {reason}{token}; start one with "
            f"`ray start --head`, or unset {ADDRESS} to run on this machine")
