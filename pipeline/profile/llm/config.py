"""Settings of the engines that ask a language model. Torch-, Ray- and vLLM-free."""

from __future__ import annotations

import re
from typing import Any, Literal
from urllib.parse import SplitResult, urlsplit

from pydantic import Field, field_validator, model_validator

from cluster.config import ActorExecution, Placement
from configs.base import Config
from pipeline.profile.prompts.config import GateConfig, PromptConfig

_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_OURS = frozenset({"model", "tokenizer", "revision", "tokenizer_revision", "dtype", "max_model_len", "seed",
                   "tensor_parallel_size", "trust_remote_code"})
"""Engine arguments that have a setting of their own, or none for safety."""
_CHANGES_ANSWERS = frozenset({"quantization", "kv_cache_dtype", "rope_scaling", "hf_overrides", "speculative_config",
                              "load_format", "chat_template", "generation_config", "override_generation_config"})
"""Engine arguments that change what is written."""


def _has_port(parts: SplitResult) -> bool:
    """Whether the port is one, or the scheme's."""
    try:
        return parts.port != 0
    except ValueError:
        return False


class SamplingConfig(Config):
    """How the model draws its answer."""

    temperature: float = Field(default=0.7, ge=0, le=2)
    """0: always the likeliest token; another seed then changes nothing, so `gate.retries` must be 0."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    seed: int = Field(default=0, ge=0)
    """Of the first request of a prompt; each retry takes the next one."""
    max_tokens: int = Field(default=1000, ge=1)
    """Output limit."""
    ignore_eos: bool = False
    """Write on to the limit: for measurements."""


class HistoryConfig(Config):
    """What becomes of a history that does not fit into one prompt."""

    strategy: Literal["agg_after", "agg_with", "cut"] = "agg_after"
    """agg_after: halve until the parts fit, write of each, merge; agg_with: write of the first part, then go on part
    by part; cut: the latest items that fit."""
    max_prompt_tokens: int | None = Field(default=None, ge=16)
    """Token budget of one prompt, chat template included; None: what `max_model_len` leaves beside the output."""


class CostConfig(Config):
    """What the plan multiplies; never part of a fingerprint."""

    tokens_per_second: float | None = Field(default=None, gt=0)
    """Prompt and output tokens that all replicas together work off in a second; None: no time is estimated."""
    price_per_hour: float | None = Field(default=None, ge=0)
    """Of one GPU (where there is none to count, of the whole endpoint or machine), in the currency of
    `profile.max_cost_without_confirm`."""

    @property
    def gpus(self) -> float:
        """That are counted: none of an endpoint."""
        return 0.0

    @property
    def engines(self) -> int:
        """That share the work; an endpoint is one."""
        return 1

    @property
    def price_per_token(self) -> tuple[float, float] | None:
        """Of a prompt's and an answer's token; None: tokens are not what is paid for."""
        return None


class LLMConfig(Config):
    """What every engine that asks a language model has."""

    prompt: PromptConfig = PromptConfig()
    gate: GateConfig = GateConfig()
    sampling: SamplingConfig = SamplingConfig()
    long_history: HistoryConfig = HistoryConfig()
    max_model_len: int = Field(default=8192, ge=64)
    """Context window in tokens, prompt and output together."""
    execution: CostConfig = CostConfig()

    @property
    def prompt_budget(self) -> int:
        """Most tokens of a prompt."""
        room = self.max_model_len - self.sampling.max_tokens
        return min(room, self.long_history.max_prompt_tokens or room)

    @model_validator(mode="after")
    def _fits_together(self) -> LLMConfig:
        if self.prompt_budget < 16:
            raise ValueError(f"max_model_len={self.max_model_len} leaves {self.prompt_budget} tokens for the prompt "
                             f"beside sampling.max_tokens={self.sampling.max_tokens}; raise the one or lower the other")
        if self.sampling.temperature == 0 and self.gate.retries:
            raise ValueError(f"sampling.temperature=0 gives the same answer to every seed, so gate.retries="
                             f"{self.gate.retries} would ask in vain; set gate.retries=0 or a temperature above 0")
        return self


class VLLMExecution(CostConfig, Placement):
    """Where and how fast vLLM runs."""

    replicas: int = Field(default=1, ge=1)
    """Engines side by side."""
    tensor_parallel: int = Field(default=1, ge=1)
    """GPUs (or bundles of CPUs) that one engine is spread over."""
    num_gpus: float = Field(default=1.0, ge=0)
    """Per engine and tensor-parallel rank; 0: on CPUs."""
    num_cpus: float = Field(default=1.0, ge=0)
    """Per engine and tensor-parallel rank; lowered by itself where no node would keep a CPU for what feeds them."""
    batch_size: int = Field(default=32, ge=1)
    """Requests handed to an engine at once, and saved together: the unit of work lost to a kill."""
    concurrent_batches: int = Field(default=8, ge=1)
    """Batches in an engine at the same time."""
    engine_kwargs: dict[str, Any] = {}
    """Passed to vLLM as they are: `gpu_memory_utilization`, `max_num_seqs`, `enforce_eager`, …"""

    @field_validator("engine_kwargs")
    @classmethod
    def _speed_only(cls, value: dict[str, Any]) -> dict[str, Any]:
        for name in value:
            if name in _OURS:
                raise ValueError(f"{name} is not passed through; see `mentorec schema` for the engine's own settings")
            if name in _CHANGES_ANSWERS:
                raise ValueError(f"{name} changes what is written; set it in engine.model_kwargs, which is part of the "
                                 "fingerprint")
        return value

    @property
    def gpus(self) -> float:
        """Of all engines; 0 on CPUs."""
        return self.replicas * self.tensor_parallel * self.num_gpus

    @property
    def engines(self) -> int:
        return self.replicas

    @property
    def in_flight(self) -> int:
        """Most requests that are with the engines, or done and not yet saved."""
        return 2 * self.replicas * self.concurrent_batches * self.batch_size


class VLLMEngine(LLMConfig):
    """vLLM through ``ray.data.llm``, on GPUs or CPUs."""

    kind: Literal["vllm"] = "vllm"
    model: str
    """Hub id or local folder; environment variables are expanded."""
    revision: str | None = None
    """Hub revision; its resolved commit goes into the fingerprint."""
    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    model_kwargs: dict[str, Any] = {}
    """Passed to vLLM as they are, and part of the fingerprint: `quantization`, `kv_cache_dtype`, …"""
    execution: VLLMExecution = VLLMExecution()

    def demand(self, readers: ActorExecution) -> ActorExecution:
        """The engines; the histories are read before and after them, never beside."""
        ranks = self.execution.tensor_parallel
        return ActorExecution(actors=self.execution.replicas, num_cpus=self.execution.num_cpus * ranks,
                              num_gpus=self.execution.num_gpus * ranks,
                              accelerator_type=self.execution.accelerator_type, resources=self.execution.resources)

    @field_validator("model_kwargs")
    @classmethod
    def _not_ours(cls, value: dict[str, Any]) -> dict[str, Any]:
        for name in value.keys() & _OURS:
            raise ValueError(f"{name} is not passed through; see `mentorec schema` for the engine's own settings")
        return value


class OpenAIExecution(CostConfig):
    """How fast the endpoint may be asked."""

    api_key_env: str | None = None
    """Name of the environment variable that holds the key, on the machines that ask; None: no key."""
    actors: int = Field(default=1, ge=0)
    """Ray actors that ask; 0: this process asks, without Ray."""
    num_cpus: float = Field(default=0.5, ge=0)
    """Per actor."""
    batch_size: int = Field(default=16, ge=1)
    """Requests saved together: the unit of work lost to a kill."""
    concurrent_batches: int = Field(default=4, ge=1)
    """Batches an actor has under way at the same time."""
    requests_per_second: float | None = Field(default=None, gt=0)
    """Of all actors together; None: no limit."""
    retries: int = Field(default=5, ge=0)
    """Further attempts after HTTP 408, 409, 429 or 5xx, a lost connection or a timeout."""
    backoff_s: float = Field(default=1.0, gt=0)
    """Wait before the first further attempt; doubled each time, 60 s at most; `Retry-After` is obeyed. Up to as much
    again comes on top by chance, so that requests do not come back together."""
    timeout_s: float = Field(default=600.0, gt=0)
    """An answer that takes longer counts as lost."""
    price_per_million_prompt_tokens: float | None = Field(default=None, ge=0)
    """Where tokens are paid for, in the place of `price_per_hour`."""
    price_per_million_output_tokens: float | None = Field(default=None, ge=0)
    """Goes with the other."""

    @field_validator("api_key_env")
    @classmethod
    def _a_name(cls, value: str | None) -> str | None:
        if value is not None and not _ENV_NAME.fullmatch(value):
            raise ValueError("takes the NAME of an environment variable, never the key itself")
        return value

    @model_validator(mode="after")
    def _one_price(self) -> OpenAIExecution:
        of_tokens = (self.price_per_million_prompt_tokens, self.price_per_million_output_tokens)
        if (of_tokens[0] is None) != (of_tokens[1] is None):
            raise ValueError("price_per_million_prompt_tokens and price_per_million_output_tokens are set together")
        if of_tokens[0] is not None and self.price_per_hour is not None:
            raise ValueError("set price_per_hour or the prices of tokens, not both")
        return self

    @property
    def price_per_token(self) -> tuple[float, float] | None:
        prompt, output = self.price_per_million_prompt_tokens, self.price_per_million_output_tokens
        return None if prompt is None or output is None else (prompt / 1e6, output / 1e6)

    @property
    def in_flight(self) -> int:
        """Most requests that are with the endpoint, or done and not yet saved."""
        return max(self.actors, 1) * self.concurrent_batches * self.batch_size


class OpenAIEngine(LLMConfig):
    """Any server that speaks the chat completions protocol of OpenAI."""

    kind: Literal["openai"] = "openai"
    base_url: str
    """Up to and including the version: `http://127.0.0.1:8000/v1`. It says whose answers they are: another address,
    the same model moved to another port included, is asked anew."""
    model: str
    """As the server names it."""
    revision: str | None = None
    """A label of your own for what the server serves; another label asks everything anew."""
    tokenizer: str
    """Hub id or local folder of the model's tokenizer and chat template: prompts are cut to size by it."""
    tokenizer_revision: str | None = None
    structured_output: Literal["json_schema", "none"] = "json_schema"
    """How the server is told the schema of the short form; none: by the prompt's words alone."""
    send_seed: bool = True
    """Whether the server knows the field `seed`."""
    execution: OpenAIExecution = OpenAIExecution()

    def demand(self, readers: ActorExecution) -> ActorExecution:
        """The actors that ask; the histories are read before and after them, never beside."""
        if not self.execution.actors:
            return readers
        return ActorExecution(actors=self.execution.actors, num_cpus=self.execution.num_cpus)

    @field_validator("base_url")
    @classmethod
    def _url(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname or not _has_port(parts):
            raise ValueError("takes a URL such as http://127.0.0.1:8000/v1")
        if parts.username or parts.password or parts.query:
            raise ValueError("holds no user, password or query: keys go into the variable named by "
                             "execution.api_key_env")
        return value.rstrip("/")
