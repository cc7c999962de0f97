"""The fingerprint of `prepare`: its settings and every byte of its raw files. Polars-free."""

from __future__ import annotations

from pathlib import Path

from pipeline.prepare.config import PrepareConfig
from pipeline.prepare.files import source_files
from pipeline.store.artifacts import StageKey, is_fingerprint
from pipeline.store.digests import DigestCache

STAGE = "prepare"
VERSION = 3


def key(config: PrepareConfig, digests: DigestCache | None = None) -> StageKey:
    """Settings and content digests of the raw files; generated data have none.

    Raises:
        DataError: a raw file is missing or cannot be read.
    """
    cache = digests or DigestCache()
    found = {f"{role}/{number:05d}/{path.name}": path
             for role, paths in source_files(config.source).items() for number, path in enumerate(paths)}
    values = config.key()
    if values["cold_start"] is None:
        del values["cold_start"]
    if values["catalogue"] == "interactions":
        del values["catalogue"]
    extends = values.pop("extends")
    inputs: dict[str, str] = {}
    if extends is not None and is_fingerprint(extends):
        inputs["extends"] = extends
    elif extends is not None:
        found |= {f"extends/{name}": Path(extends) / name for name in ("users.parquet", "items.parquet")}
    raw = dict(zip(found, cache.files(found.values()), strict=True))
    return StageKey(STAGE, VERSION, values, inputs, raw)
