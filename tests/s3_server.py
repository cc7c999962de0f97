"""An S3 server of this machine (moto), with one bucket."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tests.tools import free_port

CREDENTIALS = {"AWS_ACCESS_KEY_ID": "test-key", "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI-of-a-test"}
"""Any will do for the server."""
BUCKET = "bucket"
BUSY, DENIED = "503 SlowDown", "403 AccessDenied"
"""The first is worth asking again."""


def installed() -> bool:
    """Whether there is a server to start."""
    return importlib.util.find_spec("moto") is not None


@contextmanager
def s3_server() -> Iterator[str]:
    """The endpoint of a server that ends with the block.

    Raises:
        TimeoutError: it did not answer within two minutes.
    """
    port = free_port()
    endpoint = f"http://127.0.0.1:{port}"
    server = subprocess.Popen([sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
                              env={**os.environ, **CREDENTIALS}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _make_bucket(endpoint)
        yield endpoint
    finally:
        server.terminate()
        server.wait(timeout=20)


@contextmanager
def refusing_server(refuses: Callable[[str, str], bool], answer_with: str = BUSY) -> Iterator[str]:
    """The endpoint of a server in this process that refuses the requests of which ``refuses`` (method, path) is true.
    """
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    app = DomainDispatcherApplication(create_backend_app)

    def answer(environ: dict[str, Any], start_response: Any) -> Any:
        if refuses(environ["REQUEST_METHOD"], environ["PATH_INFO"]):
            environ["wsgi.input"].read(-1 if environ.get("wsgi.input_terminated")  # else it waits until the client
                                       else int(environ.get("CONTENT_LENGTH") or 0))  # gives up
            start_response(answer_with, [("Content-Type", "application/xml")])
            return [_refusal(answer_with.partition(" ")[2])]
        return app(environ, start_response)

    server = make_server("127.0.0.1", 0, answer, threaded=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        endpoint = f"http://127.0.0.1:{server.server_port}"
        _make_bucket(endpoint)
        yield endpoint
    finally:
        server.shutdown()
        thread.join()


def _refusal(code: str) -> bytes:
    """As long as those of S3: longer than a small file."""
    return (f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code><Message>Please reduce your request '
            f"rate.</Message><RequestId>{'7' * 16}</RequestId><HostId>{'h' * 76}</HostId></Error>").encode()


def _make_bucket(endpoint: str) -> None:
    request = urllib.request.Request(f"{endpoint}/{BUCKET}", method="PUT")
    for _ in range(600):
        try:
            urllib.request.urlopen(request, timeout=5).close()
            return
        except OSError:  # not there yet, or slow to begin
            time.sleep(0.2)
    raise TimeoutError("the S3 server did not answer within two minutes")
