"""Every YAML file we ship loads with the schema it claims, and what is dumped loads to the same."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import BaseModel

from configs.files import SHIPPED
from configs.loader import dump, json_schema, load
from pipeline.config import RunConfig
from tuning.config import TuneConfig

FILES = sorted(str(path.relative_to(SHIPPED)) for path in SHIPPED.rglob("*.yaml"))


def _schema(file: str) -> type[BaseModel]:
    return TuneConfig if file.startswith("tune/") else RunConfig


@pytest.mark.parametrize("file", FILES)
def test_it_loads(file: str) -> None:
    assert load(_schema(file), SHIPPED / file).model_dump()["name"]


@pytest.mark.parametrize("file", FILES)
def test_what_is_dumped_loads_to_the_same(file: str, tmp_path: Path) -> None:
    config = load(_schema(file), SHIPPED / file)
    (tmp_path / "again.yaml").write_text(dump(config), encoding="utf-8")
    assert load(_schema(file), tmp_path / "again.yaml") == config


def test_run_names_are_distinct() -> None:
    """Two shipped files never share a folder of results."""
    names = [(_schema(file), load(_schema(file), SHIPPED / file).model_dump()["name"]) for file in FILES]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("data", ["beauty", "ml-latest-small"])
def test_every_student_is_shipped_for_a_data_set_and_differs_in_itself_alone(data: str) -> None:
    """So that all of them share the artifacts of every stage before training."""
    configs = [load(RunConfig, path) for path in sorted((SHIPPED / data).glob("*.yaml"))]
    assert sorted(config.model.kind for config in configs) == ["bert4rec", "esasrec", "gru4rec", "sasrec"]
    own = {"name", "model", "train"}
    assert len({json.dumps(config.model_dump(mode="json", exclude=own), sort_keys=True) for config in configs}) == 1
    assert {config.model.hidden_dim for config in configs} == {64}


@pytest.mark.parametrize("schema", [RunConfig, TuneConfig])
def test_the_json_schema_documents_every_setting(schema: type[BaseModel]) -> None:
    assert '"additionalProperties": false' in json_schema(schema)
    assert schema.model_json_schema()["description"]
