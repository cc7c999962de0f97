"""Configuration: YAML values, prompt templates, the loader and the error tree. Imports nothing of ours."""

from configs.base import Config
from configs.loader import dump, flatten, json_schema, load

__all__ = ["Config", "dump", "flatten", "json_schema", "load"]
