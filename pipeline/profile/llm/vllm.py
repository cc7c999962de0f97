"""vLLM through ``ray.data.llm``: prompts as tokens in, texts out. A dead engine is replaced."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from cluster.connect import own_handler
from cluster.machine import cpu_count
from pipeline.profile.llm import cpu
from pipeline.profile.llm.config import VLLMEngine
from pipeline.profile.llm.inference import ERROR, AnswerSaver, drained
from pipeline.profile.llm.ledger import ANSWERED_AT, FINISH, OUTPUT_TOKENS, PROMPT_TOKENS, STARTED_AT, TEXT
from pipeline.profile.llm.requests import REQUEST, SEED, TOKENS
from pipeline.profile.llm.unanswered import HELPERS, Unanswered
from pipeline.work.hub import ModelFiles
from pipeline.work.nodes import cpus_each, require_type

if TYPE_CHECKING:
    from ray.data import Dataset

_INFERENCE_ERROR = "__inference_error__"
_STAGE_CPUS = 0.1
_LEAST_CPUS = 0.001
"""A bundle of a placement group cannot be empty."""
_MAX_TASK_RETRIES = 100
"""Ray spends several on an engine whose node is dead before it notices; a batch that ends its engine so often is at
fault itself."""
_SLOW_BF16 = "this CPU has no products in bfloat16, profile.engine.dtype=float32 is several times faster here"
_ALWAYS = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "VLLM_LOGGING_LEVEL": "WARNING",
           "HF_HUB_OFFLINE": "1"}


@dataclass(frozen=True)
class VLLMBackend:
    """The ``vllm`` engine's way to answers."""

    config: VLLMEngine
    files: ModelFiles
    schema: dict[str, Any] | None
    """JSON schema of the answer."""

    @property
    def engines(self) -> int:
        return self.config.execution.engines

    @property
    def in_flight(self) -> int:
        return self.config.execution.in_flight

    @property
    def start(self) -> str:
        execution = self.config.execution
        if execution.num_gpus:
            return f"starting vLLM: {self.config.model} is loaded first"
        from models.matmul import HAS_BF16

        compiled = "" if self.engine_kwargs()["enforce_eager"] else ", and compiled"
        slow = self.config.dtype == "bfloat16" and not HAS_BF16
        return (f"starting vLLM on CPUs, {self._threads()} threads each: {self.config.model} is loaded{compiled} "
                "first, half a minute or more" + (f"; {_SLOW_BF16}" if slow else ""))

    def answers(self, requests: Unanswered, save: AnswerSaver) -> Iterator[pa.Table]:
        return drained(lambda: self._stream(requests, save),
                       self._bundles(self.config.execution.num_cpus) * self.config.execution.replicas)

    def _stream(self, requests: Unanswered, save: AnswerSaver) -> Dataset:
        _quiet()
        import ray.data
        from ray.data.llm import build_processor

        execution = self.config.execution
        require_type(execution.accelerator_type, "profile")
        num_cpus = cpus_each(execution.num_cpus, execution.replicas * execution.tensor_parallel)
        sampling = self.sampling()
        limit = self.config.sampling.max_tokens

        def preprocess(row: dict[str, Any]) -> dict[str, Any]:
            return {"tokenized_prompt": row[TOKENS], "sampling_params": sampling | {"seed": int(row[SEED])}}

        def postprocess(row: dict[str, Any]) -> dict[str, Any]:
            now = time.time()
            return {REQUEST: row[REQUEST], TEXT: row["generated_text"], PROMPT_TOKENS: row["num_input_tokens"],
                    FINISH: "length" if row["num_generated_tokens"] >= limit else "stop",
                    OUTPUT_TOKENS: row["num_generated_tokens"], STARTED_AT: now - row["time_taken_llm"],
                    ANSWERED_AT: now}

        with own_handler():  # it calls ray.init
            processor = build_processor(self.processor_config(num_cpus), preprocess=preprocess, postprocess=postprocess,
                                        preprocess_map_kwargs={"num_cpus": _STAGE_CPUS},
                                        postprocess_map_kwargs={"num_cpus": _STAGE_CPUS})
        processor.get_stage_by_name("vLLMEngineStage").map_batches_kwargs["max_task_retries"] = _MAX_TASK_RETRIES
        return processor(requests.dataset(execution.batch_size)).map_batches(
            lambda batch: save(_uniform(batch)), batch_format="pyarrow", batch_size=None, num_cpus=_STAGE_CPUS,
            compute=ray.data.TaskPoolStrategy(size=HELPERS))

    def sampling(self) -> dict[str, Any]:
        """Sampling parameters of every request, but the seed."""
        values = self.config.sampling.model_dump(exclude={"seed"})
        if self.schema is not None:
            values["structured_outputs"] = {"json": self.schema}
        return values

    def engine_kwargs(self) -> dict[str, Any]:
        """Arguments of the engine."""
        config, execution = self.config, self.config.execution
        defaults: dict[str, Any] = {}
        ours: dict[str, Any] = {"max_model_len": config.max_model_len, "dtype": config.dtype,
                                "tensor_parallel_size": execution.tensor_parallel}
        if self.files.commit is not None:
            ours |= {"revision": self.files.commit, "tokenizer_revision": self.files.commit}
        if self.schema is not None:  # else a model may write white space up to its limit
            defaults["structured_outputs_config"] = {"backend": "xgrammar", "disable_any_whitespace": True}
        if not execution.num_gpus:
            defaults |= cpu.arguments(config.max_model_len, execution.tensor_parallel)
        return {**defaults, **execution.engine_kwargs, **config.model_kwargs, **ours}

    def _threads(self) -> int:
        """Of each engine on CPUs: this machine's cores, shared by the engines where it is one machine."""
        return max(1, cpu_count() // (self.config.execution.replicas * self.config.execution.tensor_parallel))

    def _bundles(self, num_cpus: float) -> list[dict[str, float]]:
        """Of one engine."""
        execution = self.config.execution
        amounts = {"CPU": num_cpus, "GPU": execution.num_gpus, **execution.resources}
        bundle = {name: amount for name, amount in amounts.items() if amount} or {"CPU": _LEAST_CPUS}
        return [dict(bundle) for _ in range(execution.tensor_parallel)]

    def processor_config(self, num_cpus: float) -> Any:
        """The configuration of ``ray.data.llm``.

        Args:
            num_cpus: that each rank of an engine asks for.
        """
        from ray.data.llm import vLLMEngineProcessorConfig

        execution = self.config.execution
        given = dict(execution.runtime_env)
        on_cpu = {} if execution.num_gpus else cpu.variables(self._threads(), execution.tensor_parallel)
        variables = {**_ALWAYS, **on_cpu, **given.pop("env_vars", {})}
        return vLLMEngineProcessorConfig(
            model_source=self.files.name_or_path, concurrency=(execution.replicas, execution.replicas),
            batch_size=execution.batch_size, max_concurrent_batches=execution.concurrent_batches,
            accelerator_type=execution.accelerator_type, engine_kwargs=self.engine_kwargs(),
            placement_group_config={"bundles": self._bundles(num_cpus)},
            should_continue_on_error=True, log_engine_metrics=False, chat_template_stage={"enabled": False},
            tokenize_stage={"enabled": False}, detokenize_stage={"enabled": False},
            runtime_env={**given, "env_vars": variables})


def _quiet() -> None:
    """Keep off the terminal what Ray and vLLM say of themselves while this process describes the engine to them."""
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    for name in ("ray._private.worker", "ray.llm", "vllm"):
        logging.getLogger(name).setLevel(logging.ERROR)
    rays = logging.getLogger("ray.llm")
    if not rays.handlers:  # else its children get some of their own
        rays.addHandler(logging.NullHandler())


def _uniform(batch: pa.Table) -> pa.Table:
    """The same columns whether or not the batch holds rows that failed."""
    names = {REQUEST: pa.string(), TEXT: pa.string(), FINISH: pa.string(), PROMPT_TOKENS: pa.int32(),
             OUTPUT_TOKENS: pa.int32(), STARTED_AT: pa.float64(), ANSWERED_AT: pa.float64()}
    columns = {name: batch[name].cast(kind) if name in batch.column_names else pa.nulls(batch.num_rows, kind)
               for name, kind in names.items()}
    errors = [error or None for error in batch[_INFERENCE_ERROR].to_pylist()]
    return pa.table({**columns, ERROR: pa.array(errors, pa.string())})
