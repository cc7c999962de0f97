"""How vLLM starts on CPUs: what its processes find in their environment, and arguments of its engine.

`make bench-llm-cpu` measures them; a user's `engine_kwargs` and `runtime_env` go before each of them.
"""

from __future__ import annotations

from typing import Any

from pipeline.work import memory

_CACHE_GIB = 2
"""Of keys and values, for each engine."""
_BATCHED_TOKENS = 4096


def variables(threads: int, tensor_parallel: int = 1) -> dict[str, str]:
    """Of an engine's processes: as many threads as it is given, where Ray would give one to an actor that asks for half
    a CPU, and no pinning, which would fight with Ray's."""
    one_process = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"} if tensor_parallel == 1 else {}  # else vLLM refuses "uni"
    return {"VLLM_CPU_KVCACHE_SPACE": str(_CACHE_GIB), "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "OMP_NUM_THREADS": str(threads), **one_process, **memory.FROM_THE_START}


def arguments(max_model_len: int, tensor_parallel: int = 1) -> dict[str, Any]:
    """Of the engine.

    A prompt read in pieces ends vLLM 0.32 on CPUs when the request has a seed ("CPU Generator does not use offset",
    gpu_model_runner.py), so prompts are read whole. Compiling takes minutes at every start, for its cache is not found
    again. The model runs in the engine's own process, where vLLM would start one more for its threads.
    """
    return {"distributed_executor_backend": "uni" if tensor_parallel == 1 else "mp", "enable_chunked_prefill": False,
            "enforce_eager": True, "max_num_batched_tokens": max(_BATCHED_TOKENS, max_model_len)}
