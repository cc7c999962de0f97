"""Builds profiles in a process of its own, with an engine that can be slow, die, and notes whom it wrote about.

Arguments: storage root, log file, seconds per batch, file whose absence ends the first actor that meets user 7.
"""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from cluster.config import ActorExecution, StorageConfig
from cluster.storage import Storage
from pipeline.profile import keys, stage
from pipeline.profile.config import Angle, ProfileConfig
from pipeline.profile.engines import KeywordsSpec
from pipeline.profile.histories import Histories
from pipeline.profile.writing import Draft, Writer
from pipeline.store import artifacts
from pipeline.store.artifacts import ArtifactDir
from tests.texts import make_text_prepared

CONFIG = ProfileConfig(execution=ActorExecution(actors=2, num_cpus=0.5, batch_rows=10, block_rows=10))
USERS = 200


@dataclass(frozen=True)
class WatchedWriter:
    """The keywords writer, watched."""

    inner: Writer
    log: Path
    seconds: float
    died: Path | None

    def write(self, histories: Histories, angle: Angle) -> list[Draft]:
        if self.died is not None and 7 in histories.users_N and not self.died.exists():
            self.died.touch()
            os._exit(1)
        time.sleep(self.seconds)
        with self.log.open("a") as file:
            file.write("".join(f"{user}\n" for user in histories.users_N))
        return self.inner.write(histories, angle)


@dataclass(frozen=True)
class WatchedEngine(KeywordsSpec):
    """The keywords engine with a watched writer."""

    log: Path = Path()
    seconds: float = 0.0
    died: Path | None = None

    def writer(self, out: ArtifactDir) -> Writer:
        return WatchedWriter(super().writer(out), self.log, self.seconds, self.died)


def main(root: str, log: str, seconds: str, died: str = "") -> None:
    import ray

    storage = Storage.from_config(StorageConfig(uri=root))
    prepared = make_text_prepared(storage, users=USERS, textless=0)
    engine = WatchedEngine(CONFIG, log=Path(log), seconds=float(seconds), died=Path(died) if died else None)
    stage.engine_of = lambda config: engine
    os.environ.setdefault("RAY_worker_niceness", "0")
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    out = artifacts.begin(storage, keys.key(CONFIG, prepared.fingerprint), resume=True)
    stage.profile(CONFIG, prepared, out)
    ray.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])
