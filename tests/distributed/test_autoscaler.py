"""A cluster that grows: what its nodes lack is asked for, waited for and used."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.job_server import ray_head
from tests.tools import TINY, cli

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("version", [1, 2])
def test_what_only_further_nodes_have_is_asked_for_and_used(version: int, tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(TINY)
    with ray_head("--num-cpus", "0", autoscaler=version) as (address, _, environment):
        done = cli("profile", "-c", str(tmp_path / "tiny.yaml"), f"storage.uri={tmp_path / 'storage'}",
                   "profile.execution={actors: 2, num_cpus: 0.5, block_rows: 40, resources: {large: 1}}",
                   env=environment | {"RAY_ADDRESS": address})
    assert done.returncode == 0, done.stderr
    assert "profile: asking the autoscaler for nodes with 2 CPU (there are 0), 2 large (there are 0)" in done.stderr
    assert list((tmp_path / "storage").glob("artifacts/profile/*/manifest.json"))


def test_a_cluster_that_does_not_grow_refuses_at_once(tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(TINY)
    with ray_head("--num-cpus", "2") as (address, _, environment):
        done = cli("profile", "-c", str(tmp_path / "tiny.yaml"), f"storage.uri={tmp_path / 'storage'}",
                   "profile.execution={actors: 1, num_cpus: 0.5, resources: {large: 1}}",
                   env=environment | {"RAY_ADDRESS": address})
    assert done.returncode == 2
    assert "asking the autoscaler" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: profile: 1 large are asked for, the cluster has 0; ")
