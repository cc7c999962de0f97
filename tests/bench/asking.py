"""Part `asking`: the profile stage with an engine that asks a server which answers badly, late, or not at all."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from pipeline.profile.llm.chat import ChatTokenizer
from pipeline.store.columns import REASON, USER_IDX
from pipeline.work.hub import ModelFiles
from tests.bench.ratings import write_grown, write_ratings
from tests.bench.sections import Section
from tests.bench.workshop import Workshop, done, kill_when
from tests.scripted_llm import GOOD, Faulty, ReceivedRequest, Reply, ScriptedServer, scripted_server
from tests.tiny_llm import make_tokenizer
from tests.tools import TINY, asking_run

_LONG = "prepare.source={kind: synthetic, users: 60, items: 300, mean_length: 30}"
USERS, ITEMS, BATCH, CONCURRENT = 600, 2000, 10, 2
TEMPERATURE = "profile.engine.sampling.temperature=0.3"


def run(workshop: Workshop) -> Section:
    """Plan, faults, kill, another setting, new interactions."""
    section = Section("Asking a server (engine `openai`)",
                      f"A scripted server on loopback, {USERS:,} users with a prompt each; for the plan 60 users "
                      f"whose histories are cut into prompts of 1,500 tokens. {CONCURRENT} batches of {BATCH} requests "
                      "are under way at once. What the server saw is compared with what the commands say.")
    tokenizer = make_tokenizer(workshop.folder / "tokenizer")
    source = f"prepare.source={write_ratings(workshop.folder / 'raw', users=USERS, items=ITEMS, rated_share=0.7)}"
    _plan(section, workshop, tokenizer)
    _faults(section, workshop, tokenizer, source)
    _kill(section, workshop, tokenizer, source)
    _grown(section, workshop, tokenizer, source)
    return section


def _plan(section: Section, workshop: Workshop, tokenizer: Path) -> None:
    """What is planned against what is sent; one answer in five is bad and asked for again."""
    chat = ChatTokenizer("t", ModelFiles(str(tokenizer)))

    def script(asked: ReceivedRequest) -> Reply:
        return Reply("" if asked.seed == 0 and asked.chance < 0.2 else f"{GOOD} Their mark is {asked.chance}.")

    with scripted_server(script, count=lambda messages: len(chat.ids(messages))) as server:
        args = _args(workshop, "asking-plan", server, tokenizer, _LONG,
                     engine="long_history: {strategy: agg_after, max_prompt_tokens: 1500}")
        done("prepare", *args)
        said = done("profile", *args, "--dry-run").stdout
        done("profile", *args)
    first = {asked.prompt: len(chat.ids(asked.body["messages"])) for asked in server.asked
             if asked.seed == 0 and "<profile" not in asked.prompt}
    sent = sum(len(chat.ids(asked.body["messages"])) for asked in server.asked)
    planned = _numbers(r"to be asked: ([\d,]+) requests, ([\d,]+) prompt tokens", said)
    bound = _numbers(r"retries of each: ([\d,]+) requests, ([\d,]+) prompt tokens", said)
    section.check("first prompts: requests and tokens", f"{planned[0]:,}, {planned[1]:,} (the plan)",
                  f"{len(first):,}, {sum(first.values()):,} sent", planned == [len(first), sum(first.values())])
    section.check("all prompts, with merges and retries", f"at most {bound[0]:,}, {bound[1]:,} (the plan)",
                  f"{len(server.asked):,}, {sent:,} sent",
                  len(first) < len(server.asked) <= bound[0] and sent <= bound[1])


def _faults(section: Section, workshop: Workshop, tokenizer: Path, source: str) -> None:
    faulty = Faulty()
    with scripted_server(faulty) as server:
        args = _args(workshop, "asking-faults", server, tokenizer, source, engine="gate: {retries: 1}")
        done("prepare", *args)
        done("profile", *args, "profile.engine.execution.timeout_s=4", "profile.engine.execution.retries=1",
             "profile.max_rejected_fraction=0.5")
    told, refused, info = _profiles(workshop.folder / "asking-faults")
    reasons = Counter(row[REASON] for row in refused)
    section.check("20 % bad answers in seven ways, 10 % HTTP 429 and 500, one hang: told + refused with a reason",
                  f"{USERS:,}, each once", f"{len(told):,} + {len(refused):,}",
                  sorted(row[USER_IDX] for row in [*told, *refused]) == list(range(USERS)) and all(reasons))
    section.check("reasons in the manifest", "those of the rows", "equal" if reasons == info["rejected_by_reason"]
                  else f"{info['rejected_by_reason']}", reasons == info["rejected_by_reason"])
    bad = {asked.prompt for asked in server.asked if asked.chance >= 0.98} - {faulty.hung}
    section.check("refused: answers that stay bad, and the hang", f"{len(bad)} + 1", sum(reasons.values()),
                  sum(reasons.values()) == len(bad) + 1)
    section.table("What the gate refused, each asked again once", ("reason", "answers"), sorted(info["gate"].items()))
    section.table("Users without a profile", ("reason", "users"), sorted(reasons.items()))


def _kill(section: Section, workshop: Workshop, tokenizer: Path, source: str) -> None:
    storage = workshop.folder / "asking-killed"
    with scripted_server(lambda asked: Reply(wait_s=0.5)) as server:
        args = _args(workshop, "asking-killed", server, tokenizer, source)
        done("prepare", *args)
        kill_when(lambda: _saved(storage) >= USERS // 2, "profile", *args)
        saved, asked = _saved(storage), len(server.asked)
        done("profile", *args, TEMPERATURE)
        anew = len(server.asked) - asked
        again = done("profile", *args)
    told, refused, _ = _profiles(storage, temperature=0.7)
    counts = Counter(asked.prompt for asked in server.asked if asked.body["temperature"] == 0.7)
    repeated = sum(counts.values()) - len(counts)
    in_flight = CONCURRENT * BATCH
    section.check(f"SIGKILL to the driver after {saved} of {USERS} answers, then the same command: every user once",
                  f"{USERS:,}", f"{len(told):,}; {len(refused):,} refused",
                  [row[USER_IDX] for row in told] == list(range(USERS)))
    section.check("requests asked again", f"at most the {in_flight} in flight", repeated, repeated <= in_flight)
    goes_on = re.search(r"([\d,]+) of ([\d,]+) answers are saved; .* asked again", again.stderr)
    section.check("the rerun says how many", "a line with the count", goes_on[0] if goes_on else "nothing",
                  goes_on is not None)
    named = next((line.partition("changed: ")[2] for line in again.stderr.splitlines() if "changed: " in line), "")
    section.check("another temperature in between makes an artifact of its own; what differs is named",
                  "sampling.temperature: 0.3 → 0.7", named or "nothing", "sampling.temperature: 0.3 → 0.7" in named)
    section.check("nothing of the unfinished artifact is used for it", f"{len(counts):,} requests", f"{anew:,}",
                  anew == len(counts))


def _grown(section: Section, workshop: Workshop, tokenizer: Path, source: str) -> None:
    """1 % more interactions."""
    later, touched = write_grown(workshop.folder / "raw", workshop.folder / "raw-grown", share=0.01)
    with scripted_server() as server:
        args = _args(workshop, "asking-grown", server, tokenizer, source)
        done("prepare", *args)
        done("profile", *args)
        asked = len(server.asked)
        fingerprint = next((workshop.folder / "asking-grown").glob("artifacts/prepare/*")).name
        grown = (*args[:2], f"prepare.source={later}", f"prepare.extends={fingerprint}")
        done("prepare", *grown)
        said = done("profile", *grown).stderr
        anew = len(server.asked) - asked
    section.check("1 % more interactions: users whose profile is asked for anew", f"the {touched} who are touched",
                  f"{anew}", anew == touched)
    why = next((line.strip() for line in said.splitlines() if "other interactions" in line), "")
    section.check("the plan says why", "a line with the count", why or "nothing", bool(why))


def _args(workshop: Workshop, name: str, server: ScriptedServer, tokenizer: Path, *overrides: str,
          engine: str = "gate: {language: false}") -> tuple[str, ...]:
    execution = f"batch_size: {BATCH}, concurrent_batches: {CONCURRENT}, num_cpus: 0.25, backoff_s: 0.01"
    text = asking_run(TINY, server.url, tokenizer, execution, "sampling: {max_tokens: 250}", engine)
    return "-c", str(workshop.config(name, text)), *overrides


def _numbers(pattern: str, said: str) -> list[int]:
    found = re.search(pattern, said)
    if found is None:
        raise RuntimeError(f"the plan has no line like {pattern!r}: {said[-1000:]}")
    return [int(number.replace(",", "")) for number in found.groups()]


def _saved(storage: Path) -> int:
    return sum(pq.read_metadata(part).num_rows for part in storage.glob("ledger/*/parts/*.parquet"))


def _profiles(storage: Path, temperature: float = 0.7) -> tuple[list[dict[str, Any]], list[dict[str, Any]],
                                                                dict[str, Any]]:
    """Rows told, rows refused and facts of the artifact with this temperature."""
    for manifest in storage.glob("artifacts/profile/*/manifest.json"):
        key = json.loads((manifest.parent / "key.json").read_text())
        if key["config"]["engine"]["sampling"]["temperature"] == temperature:
            attempt = manifest.parent / "attempts" / json.loads(manifest.read_text())["attempt"]
            told, refused = (pq.read_table(attempt / name).to_pylist() for name in ("profiles", "rejected.parquet"))
            return told, refused, json.loads(manifest.read_text())["info"]
    raise RuntimeError(f"no profile artifact with temperature {temperature}")
