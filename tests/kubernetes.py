"""The part of Kubernetes' and KubeRay's objects that our files use, field by field (KubeRay's CRD reference, v1.6).

A field that is not here is refused, so a misspelt one cannot pass: Kubernetes drops those in silence.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

_QUANTITY = re.compile(r"[1-9][0-9]*(m|[kMGT]i?)?")
_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")


class Strict(BaseModel):
    """No unknown field, no conversion: YAML's types are Kubernetes'."""

    model_config = ConfigDict(extra="forbid", strict=True, populate_by_name=True)


def _quantity(text: str) -> str:
    assert _QUANTITY.fullmatch(text), f"no quantity: {text}"
    return text


def _name(text: str) -> str:
    assert _NAME.fullmatch(text), f"no DNS label: {text}"
    return text


Quantity = Annotated[str, AfterValidator(_quantity)]
Name = Annotated[str, AfterValidator(_name)]


class Metadata(Strict):
    name: Name


class SecretRef(Strict):
    name: Name
    optional: bool = False


class EnvFrom(Strict):
    secret: SecretRef = Field(alias="secretRef")


class Port(Strict):
    name: Annotated[Name, Field(max_length=15)]
    container_port: Annotated[int, Field(alias="containerPort", ge=1, le=65535)]


class Resources(Strict):
    requests: dict[Literal["cpu", "memory", "nvidia.com/gpu"], Quantity]
    limits: dict[Literal["cpu", "memory", "nvidia.com/gpu"], Quantity]


class Container(Strict):
    name: Name
    image: str
    ports: list[Port] = []
    env_from: list[EnvFrom] = Field([], alias="envFrom")
    resources: Resources


class Toleration(Strict):
    key: str
    operator: Literal["Exists", "Equal"]
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"]


class PodSpec(Strict):
    containers: Annotated[list[Container], Field(min_length=1)]
    tolerations: list[Toleration] = []


class PodTemplate(Strict):
    spec: PodSpec


class HeadGroup(Strict):
    start_params: dict[str, str] = Field(alias="rayStartParams")
    template: PodTemplate


class WorkerGroup(Strict):
    name: Name = Field(alias="groupName")
    replicas: Annotated[int, Field(ge=0)]
    least: Annotated[int, Field(alias="minReplicas", ge=0)]
    most: Annotated[int, Field(alias="maxReplicas", ge=1)]
    start_params: dict[str, str] = Field(alias="rayStartParams")
    template: PodTemplate


class AutoscalerOptions(Strict):
    mode: Literal["Conservative", "Default", "Aggressive"] = Field(alias="upscalingMode")
    idle_s: Annotated[int, Field(alias="idleTimeoutSeconds", ge=1)]


class AuthOptions(Strict):
    mode: Literal["disabled", "token"]


class RayClusterSpec(Strict):
    ray_version: str = Field(alias="rayVersion")
    autoscaling: bool = Field(alias="enableInTreeAutoscaling")
    autoscaler: AutoscalerOptions = Field(alias="autoscalerOptions")
    auth: AuthOptions = Field(alias="authOptions")
    head: HeadGroup = Field(alias="headGroupSpec")
    workers: list[WorkerGroup] = Field(alias="workerGroupSpecs")


class RayCluster(Strict):
    api: Literal["ray.io/v1"] = Field(alias="apiVersion")
    kind: Literal["RayCluster"]
    metadata: Metadata
    spec: RayClusterSpec


class RayJobSpec(Strict):
    entrypoint: str
    entrypoint_cpus: int | float = Field(alias="entrypointNumCpus")
    mode: Literal["K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"] = Field(alias="submissionMode")
    tries: Annotated[int, Field(alias="backoffLimit", ge=0)]
    shutdown: bool = Field(alias="shutdownAfterJobFinishes")
    ttl_s: Annotated[int, Field(alias="ttlSecondsAfterFinished", ge=0)]
    cluster: RayClusterSpec = Field(alias="rayClusterSpec")


class RayJob(Strict):
    api: Literal["ray.io/v1"] = Field(alias="apiVersion")
    kind: Literal["RayJob"]
    metadata: Metadata
    spec: RayJobSpec


def gpus(pod: PodTemplate) -> int:
    """GPUs of all containers."""
    return sum(int(container.resources.limits.get("nvidia.com/gpu", 0)) for container in pod.spec.containers)


def cpus(pod: PodTemplate) -> float:
    """Whole CPUs of all containers."""
    return sum(float(container.resources.limits["cpu"]) for container in pod.spec.containers)


def broken(values: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """The values with another one at a dotted path; list places are numbers."""
    first, _, rest = path.partition(".")
    changed: Any = dict(values) if isinstance(values, dict) else list(values)
    place: Any = int(first) if first.isdecimal() else first
    changed[place] = broken(changed[place], rest, value) if rest else value
    return changed  # type: ignore[no-any-return]
