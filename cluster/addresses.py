"""Which Ray an address is of: one of this machine, or one elsewhere, also at the far end of a tunnel."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import urlsplit

import psutil

from configs.errors import ConfigError, illegal

ADDRESS = "RAY_ADDRESS"
API_ADDRESS = "RAY_API_SERVER_ADDRESS"
"""Where Ray's clients of jobs and of the state API ask first: a URL of a dashboard, or `host:port` of a head."""
AUTH_MODE = "RAY_AUTH_MODE"
_LOCAL_NAMES = ("", "localhost", "auto", "local")
_HEAD, _NODE = "gcs_server", "raylet"
"""Processes of a head, and of every node."""
_SERVERS = (_HEAD, "dashboard/dashboard.py", "ray.util.client.server")
"""In the command lines of what listens for a head: its own port, the job server's, that of ``ray://``."""


def is_here(address: str | None) -> bool:
    """Whether an address (``host:port`` or a URL; None: Ray's own search) is of a Ray on this machine.

    Where another program listens at a port of this machine, that is a tunnel (``kubectl port-forward``, ``ray attach
    --port-forward``). Where nobody does, whoever asks there is told so by Ray.

    Raises:
        ConfigError: it is no address.
    """
    host, port = host_port(address) if address else ("", None)
    if host not in _LOCAL_NAMES and not any(
            host == own.address for addresses in psutil.net_if_addrs().values() for own in addresses):
        return False
    if port is not None:
        return _ray_listens(port)
    running = _running()
    return _HEAD in running or _NODE not in running  # a node without a head finds the one that it belongs to


def use_own_token(address: str | None) -> None:
    """Answer a cluster of this machine that asks for a token, before Ray is imported.

    Once a local Ray has run, ``~/.ray/auth_token`` is there and ``ray start`` asks for it. Ray uses the file by
    itself only for a cluster that it finds without an address. A cluster elsewhere never gets it unasked.

    Raises:
        ConfigError: it is no address.
    """
    token = "RAY_AUTH_TOKEN" in os.environ or Path(
        os.environ.get("RAY_AUTH_TOKEN_PATH", "~/.ray/auth_token")).expanduser().is_file()
    if token and is_here(address):
        os.environ.setdefault(AUTH_MODE, "token")


def host_port(address: str) -> tuple[str, int | None]:
    """Both parts of ``host:port`` or a URL; either may lack.

    Raises:
        ConfigError: it is no address.
    """
    try:
        parts = urlsplit(address if "://" in address else f"//{address}")
        return parts.hostname or "", parts.port
    except ValueError as exc:
        raise ConfigError(illegal("Ray's address", address, "HOST:PORT, or a URL such as http://HOST:8265",
                                  "correct --address or RAY_ADDRESS")) from exc


def _ray_listens(port: int) -> bool:
    """Whether whatever listens at a port of this machine is Ray's."""
    try:
        listening = {found.pid for found in psutil.net_connections("tcp")
                     if found.status == psutil.CONN_LISTEN and found.laddr.port == port}
    except psutil.AccessDenied:  # macOS tells root alone
        listening = {None}
    return all(_HEAD in _running() if process is None else _is_server(process) for process in listening)


def _is_server(process: int) -> bool:
    try:
        command = " ".join(psutil.Process(process).cmdline())
    except psutil.Error:  # it has ended
        return False
    return any(name in command for name in _SERVERS)


def _running() -> set[str | None]:
    return {process.info["name"] for process in psutil.process_iter(["name"])}
