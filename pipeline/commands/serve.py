"""`serve`: the service in the foreground, until it is interrupted."""

from __future__ import annotations

import importlib.util
import ipaddress
import logging
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

from cluster.config import ClusterConfig
from cluster.connect import connect
from configs.errors import ConfigError, MissingExtraError, ResourceError, illegal
from pipeline.serve.answers import Answers
from pipeline.serve.config import ServeConfig
from pipeline.work.nodes import await_nodes, cpus_held, room_for
from pipeline.work.progress import say

NAME = "mentorec"


def serve(config: ServeConfig) -> Iterator[str]:
    """Start, tell the address, answer until SIGINT or SIGTERM, and stop.

    Raises:
        ConfigError: the address is taken or none of this machine, or the token's variable is empty.
        ArtifactError: the model cannot be loaded.
        MissingExtraError: Ray Serve is not installed.
        ResourceError: the service does not come up.
    """
    _check_address(config.host, config.port)
    if importlib.util.find_spec("fastapi") is None or importlib.util.find_spec("ray.serve") is None:
        raise MissingExtraError("ray[serve]", "serve")
    from ray import serve as ray_serve

    from pipeline.serve.deployment import application, token

    token(config)
    if "://" not in config.model:  # a replica has another working folder
        config = config.model_copy(update={"model": str(Path(config.model).expanduser().absolute())})
    # So that a bad folder is one line, before anything starts.
    told = _what(Answers(config.model, approximate=config.approximate))
    if config.token_variable is None and not _is_loopback(config.host):
        say(f"serve: {config.host} may be reached from other machines and nobody is asked for a token; "
            "set token_variable")
    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    with connect(ClusterConfig()):
        _require_room(config)
        try:
            ray_serve.start(http_options={"host": config.host, "port": config.port})
            ray_serve.run(application(config), name=NAME, route_prefix="/")
        except (RuntimeError, TimeoutError) as exc:
            raise ResourceError(f"the service did not come up: {' '.join(str(exc).split())[:300]}") from exc
        try:
            yield f"serving {told} at http://{config.host}:{config.port}; its page: /docs; Ctrl-C ends it"
            _wait_for_the_end()
        finally:
            ray_serve.shutdown()


def _require_room(config: ServeConfig) -> None:
    """Ray Serve waits for ever, and in silence, for what the cluster does not have."""
    asked = {"CPU": config.num_cpus, **({"GPU": config.num_gpus} if config.num_gpus else {})}
    await_nodes([asked] * config.replicas, "serve")
    if (there := room_for(asked)) < config.replicas:
        raise ResourceError(f"serve: {config.replicas} replicas of {config.num_cpus:g} CPUs and {config.num_gpus:g} "
                            f"GPUs are asked for, the cluster has room for {there}; lower num_cpus, num_gpus or "
                            "replicas, or add nodes")
    if (line := cpus_held()) is not None:
        say(f"serve: {line}")


def _what(answers: Answers) -> str:
    return f"{answers.fingerprint} ({len(answers.recommender.items):,} items)"


def _wait_for_the_end() -> None:
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    stop.wait()


def _check_address(host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as exc:
            raise ConfigError(illegal("host and port", f"{host}:{port}", "a free port of an address of this machine",
                                      f"{exc.strerror}; choose another with port=…")) from exc


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
