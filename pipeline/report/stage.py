"""`report`: the artifacts of a run → metrics.json, and from it alone report.md and report.html."""

from __future__ import annotations

from typing import Any

import numpy as np

from cluster.storage import Storage
from configs.errors import ArtifactError
from pipeline.config import RunConfig
from pipeline.plan import run_folder
from pipeline.report.catalogue import Histories, Items
from pipeline.report.caveats import caveats
from pipeline.report.effects import groups
from pipeline.report.inputs import ReportInputs
from pipeline.report.keys import VERSION
from pipeline.report.profiles import lengths, profile_samples
from pipeline.report.protocol import cost, fingerprints, notice, protocol
from pipeline.report.ranks import Protocol, Ranked, read_cases, read_ranked
from pipeline.report.render import html, markdown
from pipeline.report.samples import samples
from pipeline.report.scores import Answers
from pipeline.report.teacher import profile_map, teacher
from pipeline.report.training import balance, curves
from pipeline.work.provenance import provenance


def write_report(config: RunConfig, storage: Storage, inputs: ReportInputs) -> dict[str, Any]:
    """Write ``metrics.json``, ``report.md`` and ``report.html`` into the run's folder; returns the metrics.

    Raises:
        ArtifactError: recommenders were ranked on different test cases, or nothing was ranked.
    """
    metrics = gather(config, inputs)
    folder = run_folder(config)
    storage.write_json(f"{folder}/metrics.json", metrics)
    storage.write_bytes(f"{folder}/report.md", markdown(metrics).encode())
    storage.write_bytes(f"{folder}/report.html", html(metrics).encode())
    return metrics


def gather(config: RunConfig, inputs: ReportInputs) -> dict[str, Any]:
    """Every figure of the report, JSON-ready."""
    items, histories = Items.read(inputs.prepared), Histories(inputs.prepared)
    answers = _answers(config, inputs, items.counts_V)
    parts = groups(inputs.prepared, answers.cases, items)
    main: Protocol = "seen_removed" if config.evaluate.filter_seen else "all_items"
    by_arm: dict[str, dict[str, Any]] = {}
    for (arm, seed), trained in inputs.trained.items():
        by_arm.setdefault(arm, {})[str(seed)] = curves(config.for_arm(arm).train, config.teacher(arm), trained)
    return {
        "format": VERSION, "name": config.name, "notice": notice(config),
        "main_protocol": main, "cutoffs": list(answers.cutoffs), "primary": f"ndcg@{answers.cutoff}",
        "seeds": list(config.seeds), "test_users": len(answers.cases.users_N),
        **answers.means(),
        "skipped_baselines": _skipped(inputs),
        "differences": answers.differences(config.report), "claims": answers.claims(main, config.report),
        "bootstrap": {"resamples": config.report.bootstrap_samples, "confidence": config.report.confidence,
                      "seed": config.report.seed, "seed_variance_included": len(config.seeds) > 1},
        "slices": answers.slices(main, parts), "effects": answers.effects(main, parts, config.report),
        "distill_epochs": config.train.distill_epochs,
        "training": by_arm,
        "balance": {arm: balance(seeds) for arm, seeds in by_arm.items() if arm != "plain"},
        "teacher": teacher(inputs.profiles, inputs.encoded, inputs.targets) if (
            inputs.profiles and inputs.encoded and inputs.targets) else None,
        "audit": inputs.audit.read_json("audit.json") if inputs.audit else None,
        "profiles": lengths(inputs.profiles) if inputs.profiles else None,
        "profile_samples": profile_samples(config.report.sample_profiles, config.report.seed, inputs.profiles,
                                           inputs.prepared, items, histories) if inputs.profiles else [],
        "map": profile_map(inputs.targets, items, histories, config.report.seed) if inputs.targets else None,
        "samples": samples(config.report.sample_users, config.report.seed, answers.cases, _shown(answers), main, items,
                           histories, inputs.profiles),
        "caveats": list(caveats(config)),
        "protocol": protocol(config, inputs.prepared.read_json("stats.json")),
        "artifacts": fingerprints(inputs), "cost": cost(inputs), "provenance": provenance(),
    }


def _answers(config: RunConfig, inputs: ReportInputs, counts_V: np.ndarray) -> Answers:
    skipped = _skipped(inputs)
    everything = [*inputs.evaluated.values(), *(a for name, a in inputs.baselines.items() if name not in skipped)]
    if not everything:
        raise ArtifactError("nothing was ranked: neither an arm nor a baseline has been evaluated")
    cases = read_cases(everything[0])
    arms: dict[str, dict[int, Ranked]] = {}
    for (arm, seed), artifact in inputs.evaluated.items():
        arms.setdefault(arm, {})[seed] = read_ranked(artifact, cases, counts_V)
    baselines = {name: read_ranked(artifact, cases, counts_V) for name, artifact in inputs.baselines.items()
                 if name not in skipped}
    return Answers(cases, arms, baselines, config.evaluate.cutoffs, {arm: config.control_for(arm) for arm in arms})


def _skipped(inputs: ReportInputs) -> dict[str, str]:
    """Baseline → why it was not computed."""
    return dict(inputs.skipped_baselines) | {name: a.manifest.info["skipped"] for name, a in inputs.baselines.items()
                                             if "skipped" in a.manifest.info}


def _shown(answers: Answers) -> dict[str, Ranked]:
    """The two recommenders of the sample users: the first that are no controls, or the first two there are."""
    arms = [arm for arm in answers.arms if answers.control_for[arm] is None][:2]
    arms = arms if len(arms) == 2 else list(answers.arms)[:2]
    shown = {arm: next(iter(answers.arms[arm].values())) for arm in arms}
    return shown or dict(list(answers.baselines.items())[:2])
