"""The engines that ask a language model, as the stage sees them."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from configs.errors import MissingExtraError
from pipeline.profile.config import ProfileConfig
from pipeline.profile.llm.config import LLMConfig, OpenAIEngine, VLLMEngine
from pipeline.profile.llm.requests import Author, sampling_values
from pipeline.profile.prompts.gate import Gate
from pipeline.profile.prompts.prompt_set import PromptSet
from pipeline.store.artifacts import Artifact, ArtifactDir
from pipeline.store.digests import DigestCache
from pipeline.work import hub

if TYPE_CHECKING:
    import numpy as np

    from pipeline.profile.llm.inference import Backend
    from pipeline.profile.llm.prompt_builder import PromptBuilder

_MODEL, _TOKENIZER = "profile.engine.model", "profile.engine.tokenizer"


@dataclass(frozen=True)
class _LLMSpec:
    """What both engines share."""

    config: ProfileConfig
    version: int = 3
    """Raised when the same settings, items and answers give another text."""
    deterministic: bool = False

    def write(self, prepared: Artifact, out: ArtifactDir, ids: np.ndarray, confirmed: bool) -> Mapping[str, Any]:
        from pipeline.profile.llm.passes import Passes

        self.ready()
        Gate(self._llm.gate, self._llm.prompt, self.config.form).ready()
        digests = out.key.digests
        return Passes(self.prompt_builder(digests), self.backend(digests), prepared, out, ids, confirmed).run()

    def plan(self, prepared: Artifact | None) -> list[str]:
        from pipeline.profile.llm.plan import lines

        return lines(self.prompt_builder(self.digests()), prepared)

    def ready(self) -> None:
        """Raise MissingExtraError where a package is needed and absent."""
        raise NotImplementedError

    def digests(self, cache: DigestCache | None = None) -> dict[str, str]:
        raise NotImplementedError

    def backend(self, digests: Mapping[str, str]) -> Backend:
        """The way to answers."""
        raise NotImplementedError

    def prompt_builder(self, digests: Mapping[str, str]) -> PromptBuilder:
        """What writes the prompts."""
        raise NotImplementedError

    @property
    def _llm(self) -> LLMConfig:
        assert isinstance(self.config.engine, LLMConfig)
        return self.config.engine

    def _prompts(self) -> PromptSet:
        return PromptSet.of(self._llm.prompt, self.config.form)

    def _author(self, values: Mapping[str, Any]) -> Author:
        return Author({"engine": self.config.engine.kind, **values, "sampling": sampling_values(self._llm.sampling),
                       "schema": self._prompts().schema})


@dataclass(frozen=True)
class VLLMSpec(_LLMSpec):
    """The vllm engine."""

    @property
    def engine(self) -> VLLMEngine:
        assert isinstance(self.config.engine, VLLMEngine)
        return self.config.engine

    def ready(self) -> None:
        if importlib.util.find_spec("vllm") is None and not self.engine.execution.runtime_env:
            raise MissingExtraError("vllm", "llm")

    def digests(self, cache: DigestCache | None = None) -> dict[str, str]:
        return {"engine": f"vllm-{self.version}", "prompts": self._prompts().digest,
                "model": hub.identity(_MODEL, self.engine.model, self.engine.revision, cache)}

    def backend(self, digests: Mapping[str, str]) -> Backend:
        from pipeline.profile.llm.vllm import VLLMBackend

        return VLLMBackend(self.engine, self._files(digests), self._prompts().schema)

    def prompt_builder(self, digests: Mapping[str, str]) -> PromptBuilder:
        from pipeline.profile.llm.prompt_builder import PromptBuilder

        author = self._author({"model": digests["model"], "dtype": self.engine.dtype,
                               "model_kwargs": self.engine.model_kwargs})
        return PromptBuilder(self.config, self.engine, author, self._files(digests), _MODEL, as_tokens=True)

    def _files(self, digests: Mapping[str, str]) -> hub.ModelFiles:
        return hub.locate(_MODEL, self.engine.model, self.engine.revision, digests["model"])


@dataclass(frozen=True)
class OpenAISpec(_LLMSpec):
    """The openai engine."""

    @property
    def engine(self) -> OpenAIEngine:
        assert isinstance(self.config.engine, OpenAIEngine)
        return self.config.engine

    def ready(self) -> None:
        if importlib.util.find_spec("tenacity") is None:  # the rest of its client comes with Ray
            raise MissingExtraError("tenacity", "openai")

    def digests(self, cache: DigestCache | None = None) -> dict[str, str]:
        return {"engine": f"openai-{self.version}", "prompts": self._prompts().digest,
                "tokenizer": hub.identity(_TOKENIZER, self.engine.tokenizer, self.engine.tokenizer_revision, cache)}

    def backend(self, digests: Mapping[str, str]) -> Backend:
        from pipeline.profile.llm.openai import OpenAIBackend

        return OpenAIBackend(self.engine, self._prompts().schema)

    def prompt_builder(self, digests: Mapping[str, str]) -> PromptBuilder:
        from pipeline.profile.llm.prompt_builder import PromptBuilder

        files = hub.locate(_TOKENIZER, self.engine.tokenizer, self.engine.tokenizer_revision, digests["tokenizer"])
        author = self._author({"base_url": self.engine.base_url, "model": self.engine.model,
                               "revision": self.engine.revision, "structured_output": self.engine.structured_output,
                               "send_seed": self.engine.send_seed})
        return PromptBuilder(self.config, self.engine, author, files, _TOKENIZER, as_tokens=False)
