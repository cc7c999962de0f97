"""The version of the report's figures. Imports no torch, Ray or matplotlib."""

from __future__ import annotations

VERSION = 8
"""Raised when metrics.json or a rendered report changes for the same artifacts."""
