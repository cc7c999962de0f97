"""An item as a text to be encoded: its title, then its other fields by name."""

from __future__ import annotations

from collections.abc import Iterable

import pyarrow as pa

from pipeline.store import rows
from pipeline.store.artifacts import Artifact, ArtifactDir
from pipeline.store.columns import FIELDS, ITEM_IDX, ROW_ID, TEXT, TITLE

FOLDER = f"{rows.WORK}/texts"
_BATCH_ITEMS = 20_000


def item_text(title: str | None, fields: Iterable[tuple[str, str | None]]) -> str | None:
    """``title. field: value. …``; a value that only repeats the title is left out. None where nothing is told."""
    told = [title] if title else []
    told += [f"{name}: {value}" for name, value in fields if value and value != title]
    return ". ".join(told).strip() or None


def write_texts(prepared: Artifact, out: ArtifactDir) -> tuple[int, list[int]]:
    """Write the texts of a catalogue to ``FOLDER`` of the attempt: ROW_ID, ITEM_IDX, TEXT.

    Returns:
        The number of texts, and the items without one.
    """
    batches = prepared.storage.read_batches(prepared.relative("items.parquet"), [ITEM_IDX, TITLE, FIELDS], _BATCH_ITEMS)
    written = 0
    textless: list[int] = []
    for number, batch in enumerate(batches):
        texts = [item_text(title, fields or ()) for title, fields in zip(
            batch[TITLE].to_pylist(), batch[FIELDS].to_pylist(), strict=True)]
        items = batch[ITEM_IDX].to_pylist()
        textless += [item for item, text in zip(items, texts, strict=True) if text is None]
        told = [(item, text) for item, text in zip(items, texts, strict=True) if text is not None]
        rows.write_part(out, FOLDER, number, pa.table({
            ROW_ID: pa.array(range(written, written + len(told)), pa.int64()),
            ITEM_IDX: pa.array([item for item, _ in told], pa.int32()),
            TEXT: pa.array([text for _, text in told], pa.string())}))
        written += len(told)
    return written, textless
