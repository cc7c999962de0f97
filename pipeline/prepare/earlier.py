"""The ids of an earlier prepared data set: a later one keeps every user's and item's index and numbers new ones after.

So vectors, reducers and models of the earlier data still fit, and what did not change keeps its place.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq

from cluster.storage import Storage
from configs.errors import ArtifactError, DataError
from pipeline.store.artifacts import is_fingerprint, open_artifact
from pipeline.store.columns import ITEM_ID, ITEM_IDX, USER_ID, USER_IDX

_SHOWN = 3


@dataclass(frozen=True)
class EarlierIds:
    """Raw ids in index order."""

    users: pl.Series
    items: pl.Series

    @classmethod
    def read(cls, storage: Storage, extends: str) -> EarlierIds:
        """Of a `prepare` artifact, by fingerprint or by its folder's path.

        Raises:
            ArtifactError: there is no such artifact.
        """
        if not is_fingerprint(extends):
            return cls(*(pl.Series(pq.read_table(Path(extends) / f"{file}.parquet").sort_by(index)[raw].to_pylist(),
                                   dtype=pl.String) for file, index, raw in _MAPS))
        artifact = open_artifact(storage, "prepare", extends)
        if artifact is None:
            known = ", ".join(storage.names("artifacts/prepare")) or "none yet"
            raise ArtifactError(f"prepare.extends: no finished `prepare` artifact {extends!r} in this storage; legal: "
                                f"one of {known}, or the path of the folder that holds its items.parquet")
        return cls(*(pl.Series(artifact.read_table(f"{file}.parquet", [index, raw]).sort_by(index)[raw].to_pylist(),
                               dtype=pl.String) for file, index, raw in _MAPS))

    def check(self, user_ids: pl.Series, item_ids: pl.Series) -> dict[str, int]:
        """That the new ids begin with the earlier ones; returns how many came after them.

        Raises:
            DataError: an earlier user or item has gone.
        """
        counts = {}
        for what, earlier, now in (("users", self.users, user_ids), ("items", self.items, item_ids)):
            gone = earlier.filter(~earlier.is_in(now.implode()))
            if len(gone):
                shown = ", ".join(map(repr, gone.head(_SHOWN).to_list())) + (" …" if len(gone) > _SHOWN else "")
                raise DataError(f"prepare.extends: {len(gone):,} of {len(earlier):,} earlier {what} have no "
                                f"interaction left ({shown}); an extension holds the earlier interactions and the "
                                "new ones: give both in prepare.source, see that prepare.filter drops none of them, "
                                "and leave prepare.catalogue as it was")
            counts[f"new_{what}"] = len(now) - len(earlier)
        return counts


_MAPS = (("users", USER_IDX, USER_ID), ("items", ITEM_IDX, ITEM_ID))
