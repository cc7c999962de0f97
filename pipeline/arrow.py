"""Arrow IPC files that readers memory-map. Imports no torch."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.ipc


def open_arrow(path: Path) -> pa.Table:
    """An Arrow IPC file, memory-mapped."""
    return pa.ipc.open_file(pa.memory_map(str(path))).read_all()


def write_arrow(path: str | Path, table: pa.Table) -> None:
    """One record batch, uncompressed, so that readers map it without a copy."""
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table.combine_chunks())
