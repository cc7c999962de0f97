"""The tables of the report, as text: the one place where figures are rounded for reading.

Recall, NDCG, MRR and coverage are shown to 4 decimals, shares to 1 decimal of a per cent; metrics.json holds them full.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

PROTOCOL_TITLES: Final = {"seen_removed": "seen items removed", "all_items": "all items ranked"}
SLICE_TITLES: Final = {
    "history_length": "By history length", "item_frequency": "By training interactions of the target",
    "category": "By category of the target", "cold_start": "By what training kept of the target"}
NONE: Final = "–"
OTHER: Final = "other"
"""Category of the map's users whose own is not among the shown ones."""


@dataclass(frozen=True)
class Table:
    """A table of formatted cells."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""
    best: frozenset[tuple[int, int]] = frozenset()
    """(row, column) of the best cell of a column, to be marked."""
    words: bool = False
    """Settings rather than figures: cells may wrap."""


Metrics = Mapping[str, Any]


def headline(metrics: Metrics, protocol: str) -> Table:
    """Every arm and baseline under one protocol."""
    arms, baselines = metrics["arms"], metrics["baselines"]
    names = list(next(iter([*[a[protocol] for a in arms.values()], *[b[protocol] for b in baselines.values()]])))
    rows = [(arm, *(_with_deviation(name, figures[protocol][name]) for name in names)) for arm, figures in arms.items()]
    rows += [(name, *(_figure(n, figures[protocol][n]) for n in names)) for name, figures in baselines.items()]
    means = [[f[protocol][n]["mean"] for n in names] for f in arms.values()]
    means += [[f[protocol][n] for n in names] for f in baselines.values()]
    best = {(_largest([row[c] for row in means]), c + 1)
            for c, name in enumerate(names) if not name.startswith("popularity")}
    many = len(metrics["seeds"]) > 1
    note = f"Test users: {metrics['test_users']:,}. " + (
        f"Arms: mean ± standard deviation over {len(metrics['seeds'])} seeds. " if many else "Arms: one seed. ")
    note += "popularity@K: mean number of training interactions of the recommended items."
    note += "".join(f" Not computed: {name} ({why})." for name, why in metrics["skipped_baselines"].items())
    return Table(f"Test metrics, {PROTOCOL_TITLES[protocol]}", ("recommender", *names), tuple(rows), note,
                 frozenset(best))


def differences(metrics: Metrics, protocol: str) -> Table:
    """Paired differences between arms under one protocol."""
    percent = f"{100 * metrics['bootstrap']['confidence']:g} %"
    rows = [(f"{d['first']} − {d['second']}", d["metric"], signed(d["mean"]),
             f"[{signed(d['low'])}, {signed(d['high'])}]", d["verdict"], share(d["share_above_zero"]),
             NONE if d["relative"] is None else f"{100 * d['relative']:+.1f} %",
             share(d["better_users"]), share(d["worse_users"]))
            for d in metrics["differences"] if d["protocol"] == protocol]
    return Table(f"Paired differences, {PROTOCOL_TITLES[protocol]}",
                 ("pair", "metric", "difference", f"{percent} interval", "interval", "resamples above 0", "relative",
                  "users better", "users worse"), tuple(rows), bootstrap_note(metrics))


def bootstrap_note(metrics: Metrics) -> str:
    """What the intervals include."""
    bootstrap = metrics["bootstrap"]
    start = f"{bootstrap['resamples']:,} resamples; each user's metric is averaged over seeds. "
    if bootstrap["seed_variance_included"]:
        return start + ("Intervals are of other users and other seeds; few seeds "
                        f"({len(metrics['seeds'])} here) tell their spread but roughly, which widens them.")
    return start + "Users are resampled; one seed: seed variance not included."


def slices(metrics: Metrics, kind: str) -> Table:
    """One kind of slice: the primary metric of every recommender."""
    found, primary = metrics["slices"][kind], metrics["primary"]
    who = list(found[0][primary]) if found else []
    rows = tuple((s["label"], f"{s['users']:,}", *(f"{s[primary][w]:.4f}" for w in who)) for s in found)
    best = frozenset((r, 2 + _largest([s[primary][w] for w in who]))
                     for r, s in enumerate(found) if any(s[primary].values()))
    return Table(f"{SLICE_TITLES[kind]}: {primary}, {PROTOCOL_TITLES[metrics['main_protocol']]}",
                 ("slice", "users", *who), rows, best=best)


def validation_metrics(metrics: Metrics) -> list[str]:
    """By which the trainings chose their epochs; a recipe may have one of its own."""
    return list(dict.fromkeys(run["metric"] for seeds in metrics["training"].values() for run in seeds.values()))


def training(metrics: Metrics) -> Table:
    """Chosen epoch and validation metric of every training."""
    rows, chosen_by = [], validation_metrics(metrics)
    several = len(chosen_by) > 1
    for arm, seeds in metrics["training"].items():
        for seed, run in seeds.items():
            cost = metrics["cost"].get(f"{arm}/seed-{seed}", {})
            rows.append((arm, seed, str(run["best_epoch"]),
                         _number(run["best_validation"], ".4f") + (f" ({run['metric']})" if several else ""),
                         f"{run['epochs_run']}{' (stopped early)' if run['stopped_early'] else ''}",
                         _number(run["ranking"][-1], ".4f"), _number(cost.get("seconds"), ".1f")))
    name = "validation" if several else f"validation {', '.join(chosen_by)}"
    return Table("Training", ("arm", "seed", "chosen epoch", name, "epochs run", "last ranking loss", "seconds"),
                 tuple(rows))


def balance(metrics: Metrics) -> Table | None:
    """How the two losses stood to each other while distilling; means over seeds."""
    rows = []
    for arm, found in metrics["balance"].items():
        for row in found:
            rows.append((arm, row["label"], *(_number(row[n], ".4g") for n in (
                "ranking", "distillation", "alpha", "beta", "weighted_ranking", "weighted_distillation")),
                share(row["distillation_share"]), _number(row["student_variance"], ".4g"),
                _number(row["teacher_variance"], ".4g"), share(row["retrieval"]), share(row["retrieval_by_chance"])))
    if not rows:
        return None
    return Table("Loss balance", ("arm", "when", "L_model", "L_distil", "α", "β", "(1 − α)·L_model", "α·β·L_distil",
                                  "distillation's share", "variance of H_k", "variance of T(profile)",
                                  "own profile found", "by chance"), tuple(rows),
                 "Own profile found: users whose H_k lies nearest their own T(profile) in the batch. Shares and "
                 "losses: means over seeds.")


def teacher(metrics: Metrics) -> Table | None:
    """Profiles, encoder, reduction and its quality."""
    found = metrics["teacher"]
    if found is None:
        return None
    profiles, encoder, quality = found["profiles"], found["encoder"], found["quality"]
    reduction = {k: v for k, v in found["reduction"].items() if v is not None}
    reasons = ", ".join(f"{reason}: {count}" for reason, count in profiles["rejected_by_reason"].items())
    rows = [
        ("profile engine", f"{profiles['engine']}, form {profiles['form']}, angles {_list(profiles['angles'])}"),
        ("profiles written", f"{profiles['written']:,}"),
        ("profiles rejected", f"{profiles['rejected']:,}" + (f" ({reasons})" if reasons else "")),
        ("profile length, characters", _spread(profiles["characters"])),
        ("profile length, tokens", _spread(encoder["tokens"])),
        ("texts longer than the encoder takes", f"{encoder['over_length']:,}"),
        ("encoder", ", ".join([encoder["model"], *(f"{k} {encoder[k]!r}" for k in ("revision", "prefix")
                                                  if encoder[k])])),
        ("reduction", ", ".join(f"{k} {_list(v)}" for k, v in reduction.items())),
        ("trustworthiness", f"{_number(quality['trustworthiness'], '.4f')} ({quality['neighbors']} neighbours, "
                            f"{quality['rows']:,} users)"),
        ("neighbour overlap, encoder against target", _number(quality["neighbor_overlap"], ".4f")),
        ("mean variance per target dimension", _number(quality["mean_variance"], ".4g")),
        ("effective target dimensions", f"{quality['effective_dimensions']:.1f} of {len(quality['variance'])}"),
    ]
    return Table("Teacher", ("", ""), tuple(rows), words=True)


def profiles(metrics: Metrics) -> Iterator[Table]:
    """Lengths of the profiles by angle, and why some are missing."""
    found = metrics["profiles"]
    if found is None:
        return
    rows = tuple((angle, f"{a['written']:,}", f"{a['rejected']:,}", share(a["rejected"] / max(
        a["written"] + a["rejected"], 1)), *(_shortly(a[what]) for what in ("words", "characters")))
        for angle, a in found["angles"].items())
    yield Table("Profiles by angle", ("angle", "written", "rejected", "share rejected", "words", "characters"), rows,
                "Words and characters: median [5 %, 95 %], least to most.")
    yield Table("Rejected profiles", ("reason", "profiles", "share of all"), tuple(
        (reason, f"{r['count']:,}", share(r["share"])) for reason, r in found["rejected"].items()))


def protocol(metrics: Metrics) -> Table:
    """Data, split, rules of ranking and training."""
    settings = metrics["protocol"]["settings"].items()
    return Table("Protocol", ("", ""), tuple((str(k), str(v)) for k, v in settings), words=True)


def counts(metrics: Metrics) -> Table:
    """Counts and shares of `prepare`."""
    found = [(label, share(v) if label.startswith("share") else _count(v))
             for label, v in metrics["protocol"]["counts"].items()]
    found += [(f"dropped rows: {reason}", f"{count:,}") for reason, count in metrics["protocol"]["dropped"].items()]
    return Table("Counts", ("", ""), tuple(found))


def sources(metrics: Metrics) -> Table:
    """Where the figures come from."""
    source = metrics["provenance"]
    machine = source["machine"]
    rows = [("command", source["command"]), ("date", source["date"]), ("commit", source["commit"] or NONE),
            ("machine", ", ".join(f"{k} {v}" for k, v in machine.items())), ("Python", source["python"]),
            ("versions", ", ".join(f"{k} {v}" for k, v in source["versions"].items()))]
    rows += [(label, fingerprint) for label, fingerprint in metrics["artifacts"].items()]
    return Table("Provenance", ("", ""), tuple((str(a), str(b)) for a, b in rows), words=True)


def verdicts(metrics: Metrics) -> list[str]:
    """One sentence per pair on the primary metric of the main protocol."""
    percent = f"{100 * metrics['bootstrap']['confidence']:g} %"
    seeds = "" if metrics["bootstrap"]["seed_variance_included"] else "; seed variance not included"
    return [f"{d['first']} − {d['second']}, {d['metric']}: {signed(d['mean'])}, {percent} interval "
            f"[{signed(d['low'])}, {signed(d['high'])}] {d['verdict']}{seeds}"
            for d in metrics["differences"]
            if d["metric"] == metrics["primary"] and d["protocol"] == metrics["main_protocol"]]


def signed(value: float) -> str:
    """A difference of metrics."""
    return f"{value:+.4f}"


def share(value: float | None) -> str:
    """A share as per cent."""
    return NONE if value is None else f"{100 * value:.1f} %"


def _largest(values: list[float]) -> int:
    return max(range(len(values)), key=values.__getitem__)


def _figure(name: str, value: float) -> str:
    return f"{value:.1f}" if name.startswith("popularity") else f"{value:.4f}"


def _with_deviation(name: str, figure: Mapping[str, Any]) -> str:
    mean = _figure(name, figure["mean"])
    return mean if figure["sd"] is None else f"{mean} ±\N{NO-BREAK SPACE}{_figure(name, figure['sd'])}"


def _number(value: float | None, form: str) -> str:
    return NONE if value is None else format(value, form)


def _count(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:,.2f}"


def _spread(quantiles: Mapping[str, float] | None) -> str:
    return NONE if quantiles is None else ", ".join(f"{k} {v:,.0f}" for k, v in quantiles.items())


def _shortly(q: Mapping[str, float] | None) -> str:
    if q is None:
        return NONE
    return f"{q['median']:,.0f} [{q['5 %']:,.0f}, {q['95 %']:,.0f}], {q['least']:,.0f} to {q['most']:,.0f}"


def _list(value: object) -> str:
    if isinstance(value, Iterable) and not isinstance(value, str):
        return ", ".join(map(str, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)
