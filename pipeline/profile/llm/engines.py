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

    from pipeline.profile.llm.asking import Asker
    from pipeline.profile.llm.kit import Kit

_MODEL, _TOKENIZER = "profile.engine.model", "profile.engine.tokenizer"


@dataclass(frozen=True)
class _AskingSpec:
    """What both have."""

    config: ProfileConfig
    version: int = 1
    """Raised when the same settings, items and answers give another text."""
    deterministic: bool = False

    def tell(self, prepared: Artifact, out: ArtifactDir, ids: np.ndarray, confirmed: bool) -> Mapping[str, Any]:
        from pipeline.profile.llm.passes import Passes

        self.ready()
        Gate(self._llm.gate, self._llm.prompt, self.config.form).ready()
        digests = out.key.digests
        return Passes(self.kit(digests), self.asker(digests), prepared, out, ids, confirmed).run()

    def plan(self, prepared: Artifact | None) -> list[str]:
        from pipeline.profile.llm.plan import lines

        return lines(self.kit(self.digests()), prepared)

    def ready(self) -> None:
        """Raise MissingExtraError where a package is needed and absent."""
        raise NotImplementedError

    def digests(self, cache: DigestCache | None = None) -> dict[str, str]:
        raise NotImplementedError

    def asker(self, digests: Mapping[str, str]) -> Asker:
        """The way to answers."""
        raise NotImplementedError

    def kit(self, digests: Mapping[str, str]) -> Kit:
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
class VLLMSpec(_AskingSpec):
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

    def asker(self, digests: Mapping[str, str]) -> Asker:
        from pipeline.profile.llm.vllm import VLLMAsker

        return VLLMAsker(self.engine, self._files(digests), self._prompts().schema)

    def kit(self, digests: Mapping[str, str]) -> Kit:
        from pipeline.profile.llm.kit import Kit

        author = self._author({"model": digests["model"], "dtype": self.engine.dtype,
                               "model_kwargs": self.engine.model_kwargs})
        return Kit(self.config, self.engine, author, self._files(digests), _MODEL, as_tokens=True)

    def _files(self, digests: Mapping[str, str]) -> hub.ModelFiles:
        return hub.locate(_MODEL, self.engine.model, self.engine.revision, digests["model"])


@dataclass(frozen=True)
class OpenAISpec(_AskingSpec):
    """The openai engine."""

    @property
    def engine(self) -> OpenAIEngine:
        assert isinstance(self.config.engine, OpenAIEngine)
        return self.config.engine

    def ready(self) -> None:
        """Its client comes with Ray."""

    def digests(self, cache: DigestCache | None = None) -> dict[str, str]:
        return {"engine": f"openai-{self.version}", "prompts": self._prompts().digest,
                "tokenizer": hub.identity(_TOKENIZER, self.engine.tokenizer, self.engine.tokenizer_revision, cache)}

    def asker(self, digests: Mapping[str, str]) -> Asker:
        from pipeline.profile.llm.openai import OpenAIAsker

        return OpenAIAsker(self.engine, self._prompts().schema)

    def kit(self, digests: Mapping[str, str]) -> Kit:
        from pipeline.profile.llm.kit import Kit

        files = hub.locate(_TOKENIZER, self.engine.tokenizer, self.engine.tokenizer_revision, digests["tokenizer"])
        author = self._author({"base_url": self.engine.base_url, "model": self.engine.model,
                               "revision": self.engine.revision, "structured_output": self.engine.structured_output,
                               "send_seed": self.engine.send_seed})
        return Kit(self.config, self.engine, author, files, _TOKENIZER, as_tokens=False)
