"""Keep a run's figures: ``<folder>/<run>.json`` and ``.md``, with the configuration and where they come from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from configs.loader import dump
from pipeline.config import RunConfig
from pipeline.work.provenance import provenance

_ROWS = ("samples", "profile_samples", "map")


def record(config: RunConfig, metrics: dict[str, Any], folder: Path, table: str, suffix: str = "") -> Path:
    """Write the run's metrics as JSON and its table as Markdown; returns the Markdown file.

    ``suffix`` is added to the run's name, which names the files.

    Storage is left out of the recorded configuration: it names a place on one machine. Sample users, sample
    profiles and the profile map are left out of the metrics: they hold rows of the data set.
    """
    folder.mkdir(parents=True, exist_ok=True)
    source = provenance()
    shown = config.model_dump(mode="json", exclude={"storage"})
    figures = {name: value for name, value in metrics.items() if name not in _ROWS}
    name = f"{config.name}{suffix}"
    (folder / f"{name}.json").write_text(
        json.dumps({"provenance": source, "config": shown, "metrics": figures}, indent=1, ensure_ascii=False) + "\n",
        encoding="utf-8")
    machine = source["machine"]
    text = f"""# {name}

{table}

| | |
|---|---|
| command | `{source["command"]}` |
| date | {source["date"]} |
| commit | {source["commit"]} |
| machine | {machine["cpu"]}, {machine["cores"]} cores, {machine["memory_gib"]} GiB, {machine["system"]} |
| versions | Python {source["python"]}, {", ".join(f"{k} {v}" for k, v in source["versions"].items())} |

```yaml
{dump(config.model_copy(update={"storage": type(config.storage)()}))}```
"""
    target = folder / f"{name}.md"
    target.write_text(text, encoding="utf-8")
    return target
