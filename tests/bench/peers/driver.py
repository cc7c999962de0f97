"""The parent's end of a driver: a process in a peer's environment that answers JSON lines."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.tools import ROOT

HERE = Path(__file__).parent
_ECHO_LINES = 30


class Driver:
    """A running driver; leaving the block ends it."""

    def __init__(self, name: str, python: Path, settings: dict[str, Any]) -> None:
        threads = str(settings["threads"])
        counts = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS",
                                "POLARS_MAX_THREADS"), threads)
        path = str(ROOT) if name.startswith("mentorec") else ""
        script = HERE / f"drive_{name.partition('-')[0]}.py"
        self.name = name
        self._said: list[str] = []
        self._process = subprocess.Popen(
            [str(python), str(script), json.dumps(settings)], cwd=settings["scratch"], text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env={**os.environ, **counts, "PYTHONPATH": path, "PYTHONWARNINGS": "ignore"})
        threading.Thread(target=self._listen, daemon=True).start()
        self.facts = self._hear()

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """One request, one answer.

        Raises:
            RuntimeError: the driver ended; the message holds the end of what it said.
        """
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            print(json.dumps(request), file=self._process.stdin, flush=True)
        return self._hear()

    def __enter__(self) -> Driver:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
                 ) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _hear(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            raise RuntimeError(f"the driver of {self.name} ended with {self._process.returncode}: "
                               + "".join(self._said[-_ECHO_LINES:]))
        return dict(json.loads(line))

    def _listen(self) -> None:
        """Libraries talk a lot: keep the end of it for errors."""
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self._said.append(line)
            del self._said[:-_ECHO_LINES]


def own_python() -> Path:
    return Path(sys.executable)
