"""Configuration: YAML values, prompt templates, the loader and the error tree. Imports nothing of ours."""

from configs.base import Config
from configs.files import flatten
from configs.loader import dump, json_schema, load

__all__ = ["Config", "dump", "flatten", "json_schema", "load"]
