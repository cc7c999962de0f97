"""The real command line in a subprocess, on a catalogue small enough for tests."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TINY = """
name: tiny
arms: [plain, distilled]
cluster: {num_cpus: 2}
prepare:
  source: {kind: synthetic, users: 120, items: 80, mean_length: 7}
  split: {kind: leave_one_out}
profile:
  form: short
  execution: {actors: 2, num_cpus: 0.5, block_rows: 40}
encode:
  execution: {actors: 1, num_cpus: 0.5}
reduce:
  method: {kind: pca, components: 8}
  quality_rows: 50
model: {kind: sasrec, hidden_dim: 16, num_blocks: 1, num_heads: 1, dropout: 0.1, max_length: 10}
train:
  epochs: 4
  distill_epochs: 2
  batch_size: 32
  execution: {num_workers: 0}
evaluate:
  baselines: [popularity, transitions]
  execution: {workers: 0}
report: {bootstrap_samples: 100, sample_users: 3}
"""

Cli = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def cli() -> Cli:
    """Run ``python -m pipeline ARGS`` and return the finished process."""

    def run(*args: str, timeout_s: float = 300, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-m", "pipeline", *args], cwd=ROOT, capture_output=True, text=True,
                              timeout=timeout_s, env={**os.environ, **(env or {})}, check=False)

    return run


@pytest.fixture
def tiny_config(tmp_path: Path) -> Path:
    """A configuration file of a complete run that takes seconds; its storage is the test's own folder."""
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY + f"storage: {{uri: {tmp_path / 'storage'}}}\n")
    return path
