"""Later vectors under a reducer that is fitted already: who has not changed keeps the target, the others are placed.

Legend: N rows of the earlier table, K kept rows, P reduced width.
"""

from __future__ import annotations

import numpy as np

from configs.errors import ArtifactError, ConfigError
from pipeline.reduce.config import ReduceConfig
from pipeline.reduce.keys import fit_values
from pipeline.reduce.reducer import Reducer, load_reducer
from pipeline.reduce.vectors import VectorTable
from pipeline.store.artifacts import Artifact, changed_keys, open_artifact
from pipeline.store.vectors import VectorRows

_SAME = 1e-4
"""Greatest change of a coordinate of a text's vector between two encodings: batches pad differently."""
_ROWS = 20_000
"""Rows compared at once."""


def fitted_before(config: ReduceConfig, table: VectorTable, vectors: Artifact, file: str
                  ) -> tuple[Reducer, np.ndarray, np.ndarray, np.ndarray]:
    """The earlier reducer, the rows whose vector is the same as then (int64 [K]), the targets of then (fp32 [N, P],
    memory-mapped), and which of them are theirs (int64 [K]).

    Args:
        table: the later vectors.
        vectors: the artifact they come from.
        file: of the earlier artifact, that holds the targets.

    Raises:
        ArtifactError: ``config.fitted_by`` is no finished artifact of this storage, or its own vectors are gone.
        ConfigError: it was fitted with other settings or on vectors of another encoder.
    """
    storage = vectors.storage
    assert config.fitted_by is not None
    earlier = open_artifact(storage, "reduce", config.fitted_by)
    if earlier is None:
        known = ", ".join(storage.names("artifacts/reduce")) or "none yet"
        raise ArtifactError(f"reduce.fitted_by: no finished `reduce` artifact {config.fitted_by!r} in this storage; "
                            f"legal: one of {known}")
    source = earlier.manifest.key["inputs"]["encode"]
    encoded = open_artifact(storage, "encode", source)
    if encoded is None:
        raise ArtifactError(f"reduce.fitted_by: the vectors that {config.fitted_by} was fitted on (encode/{source}) "
                            "are gone from this storage; fit anew without reduce.fitted_by")
    changed = changed_keys(earlier.manifest.key["config"], fit_values(config)) + changed_keys(
        _encoder(encoded), _encoder(vectors))
    if changed:
        raise ConfigError(f"reduce.fitted_by: {config.fitted_by} was fitted with other settings: {'; '.join(changed)}; "
                          "use the same, or fit anew without reduce.fitted_by")
    reducer = load_reducer(earlier)
    before = VectorTable.open(encoded, table.owner)
    rows, old = _same_owner(table, before)
    same = np.concatenate([np.zeros(0, bool), *(
        (np.abs(table.gather(rows[s]) - before.gather(old[s])) <= _SAME).all(axis=1)
        for s in (slice(start, start + _ROWS) for start in range(0, len(rows), _ROWS)))])
    targets_NP = VectorRows.open(earlier.local(file), table.owner).vectors_NP  # in the order of `before`
    return reducer, rows[same], targets_NP, old[same]


def _encoder(vectors: Artifact) -> dict[str, object]:
    """What the vectors of two artifacts must share, so that one reducer serves both."""
    return {"config": vectors.manifest.key["config"], "digests": vectors.manifest.key["digests"]}


def _same_owner(table: VectorTable, before: VectorTable) -> tuple[np.ndarray, np.ndarray]:
    """Rows of both tables with the same owner and angle."""
    names = sorted({*table.angles, *before.angles})
    now, then = (t.owners_N * len(names) + np.array([names.index(a) for a in t.angles])[t.angle_N]
                 for t in (table, before))
    place = np.minimum(np.searchsorted(then, now), len(then) - 1)
    rows = np.flatnonzero(then[place] == now)
    return rows, place[rows]
