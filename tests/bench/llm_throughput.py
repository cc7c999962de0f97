"""`make bench-llm`: output tokens per second of the profile stage, beside vLLM alone and transformers one by one.

The same prompts, the same random-weight Gemma-2 of about 100 million parameters, 64 output tokens each (`ignore_eos`),
gate off. The start of an engine is left out and told apart. Each way runs in a fresh process. Writes
``docs/results/bench-llm.{json,md}``.
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

from tests.bench.llm_cpu import vllm_variables
from tests.bench.pages import RESULTS, write_page

ROOT = Path(__file__).resolve().parents[2]
USERS, OUTPUT_TOKENS, ONE_BY_ONE = 300, 64, 24
MAX_LENGTH = 2048
ENGINE = {"enforce_eager": True, "max_num_seqs": 64, "enable_chunked_prefill": False, "max_num_batched_tokens": 4096}
TARGETS = {"raw": 0.8, "transformers": 5.0}
"""Stage ÷ other, at least."""


def main() -> None:
    """Measure the three ways and record them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--users", type=int, default=USERS)
    parser.add_argument("--one-by-one", type=int, default=ONE_BY_ONE, help="prompts of the transformers loop")
    parser.add_argument("--size", choices=("tiny", "100m"), default="100m")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--way", choices=("stage", "raw", "transformers"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.way is not None:
        way = {"stage": stage, "raw": raw, "transformers": one_by_one}[given.way]
        (given.folder / f"{given.way}.json").write_text(json.dumps(way(given)))
        return
    with tempfile.TemporaryDirectory(prefix="mentorec-bench-llm-") as folder:
        from tests.tiny_llm import make_model

        make_model(Path(folder) / "model", given.size, MAX_LENGTH)
        found = {way: _in_fresh_process(way, Path(folder)) for way in ("stage", "raw", "transformers")}
    record(given, found)


def _in_fresh_process(way: str, folder: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.bench.llm_throughput", *sys.argv[1:], "--way", way, "--folder", str(folder)]
    print(f"{way} …", file=sys.stderr, flush=True)
    started = time.perf_counter()
    subprocess.run(command, cwd=ROOT, check=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    found: dict[str, Any] = json.loads((folder / f"{way}.json").read_text())
    return found | {"process_seconds": round(time.perf_counter() - started, 1)}


def stage(given: argparse.Namespace) -> dict[str, Any]:
    """The profile stage; seconds between the first request with the engine and the last answer."""
    import pyarrow.compute as pc
    import ray

    from cluster.config import ActorExecution, StorageConfig
    from cluster.storage import Storage
    from pipeline.profile import keys
    from pipeline.profile.config import ProfileConfig
    from pipeline.profile.stage import profile
    from pipeline.store import artifacts
    from tests.texts import make_text_prepared

    config = ProfileConfig(
        max_rejected_fraction=1.0, execution=ActorExecution(actors=1, num_cpus=0.5, batch_rows=50, block_rows=50),
        engine={"kind": "vllm", "model": str(given.folder / "model"), "max_model_len": MAX_LENGTH,
                "gate": {"enabled": False, "retries": 0},
                "sampling": {"max_tokens": OUTPUT_TOKENS, "ignore_eos": True},
                "execution": {"num_gpus": 0, "num_cpus": 0.5, "batch_size": 16, "concurrent_batches": 8,
                              "engine_kwargs": ENGINE,
                              "runtime_env": {"env_vars": {"OMP_NUM_THREADS": str(given.threads)}}}})
    storage = Storage.from_config(StorageConfig(uri=str(given.folder / "storage")))
    prepared = make_text_prepared(storage, users=given.users, textless=0)
    os.environ.setdefault("RAY_worker_niceness", "0")
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    started = time.time()
    artifact = profile(config, prepared, artifacts.begin(storage, keys.key(config, prepared.fingerprint)))
    ended = time.time()
    work = storage.read_table(f"{artifact.manifest.info['ledger']}/parts")
    first, last = pc.min(work["started_at"]).as_py(), pc.max(work["answered_at"]).as_py()
    (given.folder / "prompts.json").write_text(json.dumps(prompts_of(config, prepared, given.folder)))
    return _figures(pc.sum(work["output_tokens"]).as_py(), pc.sum(work["prompt_tokens"]).as_py(), work.num_rows,
                    last - first, first - started) | {"stage_seconds": round(ended - started, 1)}


def prompts_of(config: Any, prepared: Any, folder: Path) -> list[list[int]]:
    """The very prompts that the stage sent, as tokens."""
    from pipeline.profile.engines import engine_of
    from pipeline.profile.histories import Histories

    engine = engine_of(config)
    builder = engine.prompt_builder(engine.digests())  # type: ignore[attr-defined]
    builder.build(prepared, folder / "prompts")
    replayer = builder.open(folder / "prompts", "", lambda key: None)
    states = replayer.replay(Histories.from_table(prepared.read_table("histories")), None, "overall")
    return [request.prompt.tokens for state, _ in states for request in state.wanted]


def raw(given: argparse.Namespace) -> dict[str, Any]:
    """One vLLM engine in this process, all prompts at once."""
    os.environ |= vllm_variables(given.threads)
    from vllm import LLM, SamplingParams

    prompts = json.loads((given.folder / "prompts.json").read_text())
    started = time.perf_counter()
    llm = LLM(str(given.folder / "model"), max_model_len=MAX_LENGTH, dtype="bfloat16", **ENGINE)
    ready = time.perf_counter()
    sampling = SamplingParams(temperature=0.7, seed=0, max_tokens=OUTPUT_TOKENS, ignore_eos=True)
    answers = llm.generate([{"prompt_token_ids": ids} for ids in prompts], sampling, use_tqdm=False)
    ended = time.perf_counter()
    return _figures(sum(len(answer.outputs[0].token_ids) for answer in answers), sum(map(len, prompts)), len(prompts),
                    ended - ready, ready - started)


def one_by_one(given: argparse.Namespace) -> dict[str, Any]:
    """``transformers.generate``, one user at a time."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(given.threads)
    prompts = json.loads((given.folder / "prompts.json").read_text())[:given.one_by_one]
    started = time.perf_counter()
    model = AutoModelForCausalLM.from_pretrained(given.folder / "model", dtype=torch.bfloat16).eval()
    ready = time.perf_counter()
    written = 0
    with torch.inference_mode():
        for ids in prompts:
            answer = model.generate(torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long),
                                    do_sample=True, temperature=0.7, max_new_tokens=OUTPUT_TOKENS,
                                    min_new_tokens=OUTPUT_TOKENS)
            written += answer.shape[1] - len(ids)
    return _figures(written, sum(map(len, prompts)), len(prompts), time.perf_counter() - ready, ready - started)


def _figures(output: int, prompt: int, requests: int, seconds: float, start: float) -> dict[str, Any]:
    return {"requests": requests, "prompt_tokens": prompt, "output_tokens": output, "seconds": round(seconds, 2),
            "start_seconds": round(start, 2), "output_tokens_per_second": round(output / seconds, 1)}


def record(given: argparse.Namespace, found: dict[str, dict[str, Any]]) -> None:
    """``bench-llm.json`` and ``bench-llm.md``."""
    speed = {way: figures["output_tokens_per_second"] for way, figures in found.items()}
    ratios = {way: round(speed["stage"] / speed[way], 2) for way in TARGETS}
    figures = {"model": given.size, "threads": given.threads, "output_tokens_each": OUTPUT_TOKENS, "ways": found,
               "stage_against": ratios, "targets": TARGETS}
    rows = "\n".join(
        f"| {label} | {found[way]['requests']:,} | {found[way]['prompt_tokens']:,} | {found[way]['output_tokens']:,} | "
        f"{found[way]['seconds']:,} | {speed[way]:,} | {found[way]['start_seconds']:,} |"
        for way, label in (("stage", "profile stage, `ray.data.llm`"), ("raw", "one vLLM engine, all prompts at once"),
                           ("transformers", "`transformers.generate`, one by one")))
    write_page(given.results, "bench-llm", figures, f"""# Throughput of the profile stage

A Gemma-2 with random weights ({given.size}), {OUTPUT_TOKENS} output tokens for each prompt, gate off, {given.threads}
threads, on a CPU. The start of the engine (for the stage: everything before its first request) is not in the seconds.

| way | requests | prompt tokens | output tokens | seconds | output tokens/s | start, seconds |
|---|---|---|---|---|---|---|
{rows}

Stage against one raw engine: {ratios["raw"]} (target ≥ {TARGETS["raw"]}); against transformers:
{ratios["transformers"]} × (target ≥ {TARGETS["transformers"]:g}).""")


if __name__ == "__main__":
    main()
