"""What an exported folder says of itself: ``model.json`` for programs, ``README.md`` for people."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Mapping
from typing import Any

from configs import yaml12
from pipeline.store.artifacts import Artifact

NOT_STATED = "not stated"


def card_entries(trained: Artifact, prepared: Artifact, evaluated: Artifact | None, licence: str | None
                 ) -> dict[str, Any]:
    """Entries beside those that describe the weights: data, protocol, metrics, licence, versions.

    Args:
        evaluated: of the test users; None: the model was not evaluated.
        licence: as the caller names it, such as an SPDX identifier.
    """
    stats, key = prepared.manifest.info, prepared.manifest.key
    figures = evaluated.manifest.info if evaluated is not None else {}
    return {
        "licence": licence,
        "data": {"fingerprint": prepared.fingerprint, "files": key["digests"],
                 "source": key["config"].get("source", {}).get("kind"), "filter": key["config"].get("filter"),
                 **({"cold_start": cold} if (cold := key["config"].get("cold_start")) else {}),
                 **{name: stats[name] for name in ("users", "items", "interactions", "first_time", "last_time")
                    if stats.get(name) is not None}},
        "protocol": figures.get("protocol"),
        "metrics": figures["metrics"][figures["protocol"]["main"]] if figures else None,
        "versions": {name: importlib.metadata.version(name) for name in ("mentorec", "torch")},
        "train_fingerprint": trained.fingerprint,
    }


def readme(name: str, card: Mapping[str, Any], files: Mapping[str, str]) -> str:
    """The folder's page: Markdown behind the head that model hubs read.

    Args:
        name: of the run.
        card: ``model.json``.
        files: file name → what it is.
    """
    head: dict[str, Any] = {"library_name": "mentorec", "tags": ["recommendation", card["model"]["kind"]]}
    if card["licence"]:
        head["license"] = card["licence"]
    data, protocol = card["data"], card["protocol"]
    lines = [
        "---", yaml12.write(head).rstrip(), "---", "", f"# {name}: {card['arm']}, seed {card['seed']}", "",
        f"A {card['model']['kind']} of {card['num_items']:,} items, written by mentorec. Licence: "
        f"{card['licence'] or NOT_STATED}. The data have a licence of their own.", "",
        *table(("file", "what"), files.items()), "", "## Use", "", "```python", "from pipeline.api import load", "",
        'load("<this folder>").recommend([["<item id>", "<item id>"]], k=10).to_polars()', "```", "", "## Data", "",
        f"Fingerprint `{data['fingerprint']}`, source `{data['source']}`"
        + "".join(f", {data[key]:,} {key}" for key in ("users", "items", "interactions") if key in data) + "."
        + (" **Test targets were made cold: the model lacks interactions that there are.**" if "cold_start" in data
           else ""), "",
        "## Metrics", ""]
    if protocol is None:
        lines += [f"Not evaluated on test users. On validation: {_figures(card.get('validation') or {})}."]
    else:
        lines += [*table(("metric", "value"), ((key, f"{value:.4f}") for key, value in card["metrics"].items())), "",
                  *table(("protocol", ""), ((key, _plain(value)) for key, value in protocol.items()))]
    return "\n".join([*lines, "", "## Model", "", "```json", json.dumps(card["model"], indent=2), "```", ""])


def table(header: tuple[str, str], rows: Any) -> list[str]:
    """Two columns of Markdown."""
    return [f"| {header[0]} | {header[1]} |", "|---|---|", *(f"| {left} | {right} |" for left, right in rows)]


def _figures(values: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.4f}" for name, value in values.items()) or "no figures"


def _plain(value: object) -> object:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, (dict, list)) else value
