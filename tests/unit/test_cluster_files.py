"""The files for clusters: every field is one that its reader knows, and what a run asks for can be granted."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from configs.loader import load
from pipeline.config import RunConfig
from pipeline.serve.config import ServeConfig
from pipeline.stages import STAGES
from tests.kubernetes import RayCluster, RayJob, WorkerGroup, broken, cpus, gpus
from tests.tools import ROOT

CLUSTER = ROOT / "cluster"


def read(name: str) -> dict[str, Any]:
    return dict(yaml.safe_load((CLUSTER / name).read_text()))


@pytest.fixture
def cluster() -> RayCluster:
    return RayCluster.model_validate(read("kuberay/raycluster.yaml"))


@pytest.fixture
def job() -> RayJob:
    return RayJob.model_validate(read("kuberay/rayjob.yaml"))


def version() -> str:
    """Ray's, as the package asks for it."""
    found = re.search(r'"ray\[data[^"]*>=([0-9.]+)', (ROOT / "pyproject.toml").read_text())
    assert found is not None
    return found[1]


def test_the_clusters_ray_is_the_packages(cluster: RayCluster) -> None:
    assert cluster.spec.ray_version == f"{version()}.0"
    assert f"rayproject/ray:{version()}.0-py311" in (CLUSTER / "Dockerfile").read_text()


def test_the_job_brings_the_same_cluster() -> None:
    assert read("kuberay/rayjob.yaml")["spec"]["rayClusterSpec"] == read("kuberay/raycluster.yaml")["spec"]


def test_workers_come_from_nothing_with_a_token_and_the_head_does_no_work(cluster: RayCluster) -> None:
    assert cluster.spec.autoscaling and cluster.spec.auth.mode == "token"
    assert cluster.spec.head.start_params["num-cpus"] == "0"
    assert all(group.replicas == group.least == 0 < group.most for group in cluster.spec.workers)
    for group in cluster.spec.workers:
        for container in group.template.spec.containers:
            assert container.resources.requests == container.resources.limits  # Ray counts limits, Kubernetes requests
    for pod in (cluster.spec.head, *cluster.spec.workers):  # every node is asked for the storage
        assert [one.env_from[0].secret.name for one in pod.template.spec.containers] == ["mentorec-storage"]


def groups(cluster: RayCluster) -> dict[str, WorkerGroup]:
    return {group.name: group for group in cluster.spec.workers}


def test_gpus_are_where_the_group_says(cluster: RayCluster) -> None:
    assert {name: gpus(group.template) for name, group in groups(cluster).items()} == {"cpu": 0, "gpu": 1}
    assert [one.key for one in groups(cluster)["gpu"].template.spec.tolerations] == ["nvidia.com/gpu"]


@pytest.mark.parametrize("settings", [(), ("encode.execution.num_gpus=1", "evaluate.execution.use_gpu=true",
                                            "train.execution.use_gpu=true", "train.execution.num_workers=4")])
def test_a_pod_can_grant_what_a_replica_of_any_stage_asks(cluster: RayCluster, settings: tuple[str, ...]) -> None:
    config = load(RunConfig, "configs/llm/beauty-vllm.yaml", settings)
    for name, stage in STAGES.items():
        asked = stage.resources(config)
        if not asked.replicas:
            continue
        group = groups(cluster)["gpu" if asked.gpus else "cpu"]
        assert asked.gpus <= gpus(group.template) and asked.cpus <= cpus(group.template), name
        assert asked.replicas * asked.gpus <= group.most * gpus(group.template) or not asked.gpus, name


def test_the_job_runs_a_command_of_ours_on_a_cpu_worker_and_keeps_its_results(job: RayJob) -> None:
    program, command, *arguments = shlex.split(job.spec.entrypoint)
    assert (program, command, arguments[0]) == ("mentorec", "run", "--config")
    config = load(RunConfig, arguments[1], arguments[2:])
    assert not config.storage.is_relative()
    assert job.spec.entrypoint_cpus <= max(cpus(group.template) for group in job.spec.cluster.workers)
    assert job.spec.tries > 0 and job.spec.shutdown


@pytest.mark.parametrize(("path", "value"), [
    ("spec.enableInTreeAutoscalling", True), ("spec.authOptions.mode", "on"), ("metadata.name", "Mentorec"),
    ("spec.workerGroupSpecs.0.minReplicas", -1), ("spec.workerGroupSpecs.0.replicas", "0"),
    ("spec.headGroupSpec.template.spec.containers.0.resources.limits.cpu", 4),
    ("spec.headGroupSpec.rayStartParams.num-cpus", 0)])
def test_the_check_can_fail(path: str, value: Any) -> None:
    with pytest.raises(ValidationError):
        RayCluster.model_validate(broken(read("kuberay/raycluster.yaml"), path, value))


def test_the_launcher_takes_the_file_for_aws() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = read("autoscaler/aws.yaml")
    validate_config(prepare_config(dict(config)))
    types = config["available_node_types"]
    assert types[config["head_node_type"]]["resources"] == {"CPU": 0}
    assert all(types[name]["min_workers"] == 0 for name in ("cpu", "gpu"))
    assert config["max_workers"] >= sum(types[name]["max_workers"] for name in ("cpu", "gpu"))
    assert "--env RAY_AUTH_MODE=token" in config["docker"]["run_options"]
    assert set(config["file_mounts"].values()) == {"~/.ray/auth_token"}
    assert "--dashboard-host=127.0.0.1" in config["head_start_ray_commands"][-1]


def test_the_services_settings_are_settings() -> None:
    (application,) = read("serve.yaml")["applications"]
    assert ServeConfig.model_validate(application["args"]).replicas == 2


def test_the_images_file_is_clean_and_copies_what_there_is() -> None:
    linter = Path(sys.executable).parent / "hadolint"
    if not linter.exists():
        pytest.skip("hadolint is not installed; the extra dev has it")
    done = subprocess.run([str(linter), str(CLUSTER / "Dockerfile")], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")
    copied = re.findall(r"^COPY --chown=ray:users (.+) \S+$", (CLUSTER / "Dockerfile").read_text(), re.MULTILINE)
    sources = [source for line in copied for source in line.split()]
    assert {"configs", "models", "cluster", "pipeline", "tuning", "pyproject.toml"} <= set(sources)
    assert all((ROOT / source).exists() for source in sources)


def test_the_linter_can_fail(tmp_path: Path) -> None:
    linter = shutil.which("hadolint", path=str(Path(sys.executable).parent))
    if linter is None:
        pytest.skip("hadolint is not installed; the extra dev has it")
    (tmp_path / "Dockerfile").write_text("FROM python:latest\nRUN cd /tmp && pip install numpy\n")
    assert subprocess.run([linter, str(tmp_path / "Dockerfile")], capture_output=True, check=False).returncode != 0
