"""The run order: every step is found or built, then the report is written. Steps import what is heavy when built."""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from cluster.connect import connect
from cluster.faults import storage_errors
from cluster.nodes import OneView
from cluster.storage import Storage
from configs.errors import ArtifactError
from pipeline.config import RunConfig
from pipeline.describe import local_folders, shortage
from pipeline.plan import REPORTED, STEPS, PlannedStep, built_audit, plan, run_folder
from pipeline.prove.fixed import require_as_fixed
from pipeline.report import keys as report_keys
from pipeline.stages import STAGES
from pipeline.store import artifacts, leases
from pipeline.store.artifacts import Artifact, ArtifactDir
from pipeline.store.leases import Lease
from pipeline.work.building import find_or_build, take_folder
from pipeline.work.metrics import published
from pipeline.work.nodes import checked_nodes
from pipeline.work.progress import duration, say


@dataclass
class RunResult:
    """What a run built, reused and found."""

    folder: str
    built: list[str] = field(default_factory=list)
    reused: list[str] = field(default_factory=list)
    artifacts: dict[str, Artifact] = field(default_factory=dict)
    metrics: dict[str, Any] | None = None
    """None when the run stopped before its report."""


def run(config: RunConfig, until: str | None = None, confirmed: bool = False,
        on_plan: Callable[[list[PlannedStep]], None] = lambda planned: None) -> RunResult:
    """Find or build every artifact up to stage ``until`` (None: all, then the report).

    Ray is started only when a stage that needs it must be built. Calling it again goes on where it stopped.

    Args:
        confirmed: a planned price above ``profile.max_cost_without_confirm`` was agreed to.
        on_plan: is given the planned steps before anything is built or written.

    Raises:
        ConfigError: the folder is that of a proof with other settings.
        MentorecError: of the stage that cannot go on; finished artifacts stay.
        ArtifactError: another process is at work on the same run.
    """
    storage = Storage.from_config(config.storage)
    folder = run_folder(config)
    result = RunResult(folder)
    with_report = until in (None, "report")
    with storage_errors(storage.base), _run_lock(storage, folder) as lease:
        require_as_fixed(config, storage)
        planned = plan(config, storage, until)
        on_plan(planned)
        _write_steps(storage, folder, planned, lease.token, with_report)
        storage.write_json(f"{folder}/config.json", config.model_dump(mode="json"))
        find_or_build_all(config, storage, planned, confirmed, result, _referring(storage, folder))
        if with_report:
            result.metrics = _report(config, storage, result)
    return result


def find_or_build_all(config: RunConfig, storage: Storage, planned: list[PlannedStep], confirmed: bool,
                      result: RunResult, refer: Callable[[PlannedStep], None] = lambda item: None) -> None:
    """The planned artifacts, in order, into the result; ``refer`` is called for each as soon as it is there."""
    with contextlib.ExitStack() as ray_session:
        ray_started, view = False, OneView(storage, _local_folders(config, planned))
        for item in planned:
            artifact = item.artifact or artifacts.find(storage, item.key)
            if artifact is not None:
                result.reused.append(item.label)
            else:
                _announce(item)
                inputs = {label: result.artifacts[label] for label in item.step.inputs}
                if item.step.needs_ray(inputs):
                    short = shortage(config, item.stage)
                    if short is not None:
                        say(short)
                    if not ray_started:
                        ray_session.enter_context(connect(config.cluster))
                        ray_session.enter_context(published())
                        ray_session.enter_context(checked_nodes(view.require))
                        ray_started = True
                    view.require()
                artifact = _build(item, inputs, storage, confirmed)
                result.built.append(item.label)
            result.artifacts[item.label] = artifact
            refer(item)


def _referring(storage: Storage, folder: str) -> Callable[[PlannedStep], None]:
    """Makes the run's folder refer to an artifact."""
    path = f"{folder}/references.json"
    references = storage.read_json(path) if storage.exists(path) else {}

    def refer(item: PlannedStep) -> None:
        if references.get(item.label) != item.key.fingerprint:
            references[item.label] = item.key.fingerprint
            storage.write_json(path, references)

    return refer


def _write_steps(storage: Storage, folder: str, planned: list[PlannedStep], token: str, with_report: bool) -> None:
    """What this command will use and make, for `status` and `clean`; what earlier ones planned is needed still."""
    path = f"{folder}/{STEPS}"
    before = storage.read_json(path)["needed"] if storage.exists(path) else {}
    needed = {item.label: [item.key.fingerprint, *item.key.inputs.values()] for item in planned}
    storage.write_json(path, {"token": token, "report": with_report, "needed": {**before, **needed},
                              "steps": {item.label: item.key.fingerprint for item in planned}})


def _local_folders(config: RunConfig, planned: list[PlannedStep]) -> list[str]:
    """Folders of this machine that the workers of the steps to build read."""
    on_ray = {item.stage for item in planned if item.artifact is None and STAGES[item.stage].resources(config).replicas}
    return local_folders(config, on_ray)


def _announce(item: PlannedStep) -> None:
    shown = "; ".join(item.changed[:3]) + (f" (and {len(item.changed) - 3} more)" if len(item.changed) > 3 else "")
    why = f" — changed: {shown}" if item.changed else ""
    say(f"{item.label}: building {item.key.fingerprint}{why}")


def _build(item: PlannedStep, inputs: dict[str, Artifact], storage: Storage, confirmed: bool) -> Artifact:
    def build(out: ArtifactDir) -> Artifact:
        started = time.perf_counter()
        artifact = item.step.build(inputs, out, confirmed)
        say(f"{item.label}: done in {duration(time.perf_counter() - started)}")
        return artifact

    return find_or_build(storage, item.key, item.label, build, resumable=STAGES[item.stage].resumable,
                         found="built by another process meanwhile")


def _report(config: RunConfig, storage: Storage, result: RunResult) -> dict[str, Any]:
    """Write the report unless the one that is there was made from the same artifacts and settings."""
    audited = built_audit(config, storage)
    basis = {"artifacts": {k: a.fingerprint for k, a in result.artifacts.items()},
             "audit": audited.fingerprint if audited else None, "report": config.report.key(),
             "version": report_keys.VERSION, "arms": {arm: config.control_for(arm) for arm in config.arms},
             "seeds": config.seeds}
    digest = hashlib.blake2b(json.dumps(basis, sort_keys=True).encode(), digest_size=8).hexdigest()
    stamp = f"{result.folder}/{REPORTED}"
    if storage.exists(stamp) and storage.read_json(stamp)["basis"] == digest:
        result.reused.append("report")
        return dict(storage.read_json(f"{result.folder}/metrics.json"))
    from pipeline.report.inputs import ReportInputs
    from pipeline.report.stage import write_report

    say("report: writing")
    storage.delete(stamp)  # of files that are about to be replaced
    found = result.artifacts
    metrics = write_report(config, storage, ReportInputs(
        prepared=found["prepare"], profiles=found.get("profile"), encoded=found.get("encode"),
        targets=found.get("reduce"), audit=audited,
        trained={(arm, seed): found[f"train/{arm}/seed-{seed}"] for arm in config.arms for seed in config.seeds},
        evaluated={(arm, seed): found[f"evaluate/{arm}/seed-{seed}"] for arm in config.arms for seed in config.seeds},
        baselines={name: found[f"evaluate/baseline/{name}"] for name in config.evaluate.baselines},
    ))
    storage.write_json(stamp, {"basis": digest})
    result.built.append("report")
    return metrics


@contextlib.contextmanager
def _run_lock(storage: Storage, folder: str) -> Iterator[Lease]:
    """Refuse a second process at work on the same run; a dead owner's lock is taken over."""
    try:
        lease = take_folder(storage, folder)
    except leases.LeaseTaken as exc:
        raise ArtifactError(f"{exc}; or give this run another name (name=…)") from exc
    try:
        yield lease
    finally:
        lease.release()
