"""Builds profiles with an engine that asks, in a process of its own. Arguments: storage root, profile config as JSON,
users."""

from __future__ import annotations

import os
import sys

from cluster.config import StorageConfig
from cluster.storage import Storage
from pipeline.profile import keys
from pipeline.profile.config import ProfileConfig
from pipeline.profile.stage import profile
from pipeline.store import artifacts
from tests.texts import make_text_prepared


def main(root: str, config_json: str, users: str) -> None:
    import ray

    config = ProfileConfig.model_validate_json(config_json)
    storage = Storage.from_config(StorageConfig(uri=root))
    prepared = make_text_prepared(storage, users=int(users), textless=0)
    os.environ.setdefault("RAY_worker_niceness", "0")
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    profile(config, prepared, artifacts.begin(storage, keys.key(config, prepared.fingerprint), resume=True))
    ray.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])
