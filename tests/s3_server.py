"""An S3 server of this machine (moto), with one bucket."""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

CREDENTIALS = {"AWS_ACCESS_KEY_ID": "test-key", "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI-of-a-test"}
"""Any will do for the server."""
BUCKET = "bucket"


def installed() -> bool:
    """Whether there is a server to start."""
    return importlib.util.find_spec("moto") is not None


@contextmanager
def s3_server() -> Iterator[str]:
    """The endpoint of a server that ends with the block.

    Raises:
        TimeoutError: it did not answer within two minutes.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    endpoint = f"http://127.0.0.1:{port}"
    server = subprocess.Popen([sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
                              env={**os.environ, **CREDENTIALS}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _make_bucket(endpoint)
        yield endpoint
    finally:
        server.terminate()
        server.wait(timeout=20)


def _make_bucket(endpoint: str) -> None:
    request = urllib.request.Request(f"{endpoint}/{BUCKET}", method="PUT")
    for _ in range(600):
        try:
            urllib.request.urlopen(request, timeout=5).close()
            return
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.2)
    raise TimeoutError("the S3 server did not answer within two minutes")
