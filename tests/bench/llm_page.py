"""What the benches of LLM engines share: variables of vLLM on a CPU, and the files of results with their origin."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.profile.llm import cpu
from pipeline.work.provenance import provenance


def vllm_variables(threads: int | None = None) -> dict[str, str]:
    """The environment that the stage gives an engine on this machine; ``threads``: None for as many as cores."""
    return {**cpu.variables(threads or os.cpu_count() or 1), "VLLM_LOGGING_LEVEL": "ERROR", "VLLM_NO_USAGE_STATS": "1"}


def write_results(folder: Path, name: str, figures: Mapping[str, Any], text: str) -> None:
    """``<name>.json`` and ``<name>.md``, each with what they come from; the page is printed too."""
    source = provenance()
    machine = source["machine"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps({"provenance": source, **figures}, indent=1) + "\n",
                                         encoding="utf-8")
    page = f"""{text.strip()}

| | |
|---|---|
| date | {source["date"]} |
| commit | {source["commit"]} |
| machine | {machine["cpu"]}, {machine["cores"]} cores, {machine["memory_gib"]} GiB |
| versions | Python {source["python"]}, {", ".join(f"{k} {v}" for k, v in source["versions"].items())} |
"""
    (folder / f"{name}.md").write_text(page, encoding="utf-8")
    print(page)
