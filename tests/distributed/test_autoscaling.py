"""A cluster that has no worker yet: stages ask the autoscaler for theirs, and wait for them."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.job_server import autoscaling_cluster
from tests.tools import ON_RAY, ROOT, TINY, command, saved_blocks

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_profiles_are_written_by_nodes_that_the_autoscaler_brings(tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(TINY)
    with autoscaling_cluster({"CPU": 2, "large_memory": 1}, most=1) as environment:
        placed = "profile.execution={actors: 1, num_cpus: 0.5, block_rows: 40, resources: {large_memory: 1}}"
        done = subprocess.run(command("profile", "-c", str(tmp_path / "tiny.yaml"), *ON_RAY, placed,
                                      f"storage.uri={tmp_path / 'storage'}"), cwd=ROOT, env=environment, text=True,
                              capture_output=True, timeout=500, check=False)
        assert done.returncode == 0, done.stderr
        assert "profile: asking the autoscaler for nodes with 1.5 CPU (there are 0), 1 large_memory" in done.stderr
        assert saved_blocks(tmp_path) == 0 and list((tmp_path / "storage").glob("artifacts/profile/*/manifest.json"))

        more = placed.replace("large_memory: 1", "large_memory: 2")
        refused = subprocess.run(command("profile", "-c", str(tmp_path / "tiny.yaml"), *ON_RAY, more,
                                         "profile.form=long", f"storage.uri={tmp_path / 'storage'}"), cwd=ROOT,
                                 env=environment, text=True, capture_output=True, timeout=500, check=False)
        assert refused.returncode == 2
        assert "2 large_memory are asked for, the cluster has 1" in refused.stderr
