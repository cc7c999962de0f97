"""The tokenizer of the model that is asked: prompts as it counts them, chat template included."""

from __future__ import annotations

from typing import Any

from configs.errors import ConfigError, MissingExtraError
from pipeline.profile.prompts.prompt_set import Messages
from pipeline.work.hub import ModelFiles


class ChatTokenizer:
    """Turns messages into the tokens the model reads."""

    def __init__(self, setting: str, files: ModelFiles) -> None:
        """
        Args:
            setting: names the model in errors.

        Raises:
            ConfigError: the files hold no tokenizer with a chat template.
        """
        try:
            import transformers
        except ImportError as exc:
            raise MissingExtraError("transformers", "llm") from exc
        transformers.logging.set_verbosity_error()
        try:
            self._tokenizer: Any = transformers.AutoTokenizer.from_pretrained(
                files.name_or_path, revision=files.commit, trust_remote_code=False, local_files_only=True)
        except Exception as exc:  # of a broken tokenizer.json a bare one
            raise ConfigError(f"{setting}: {files.name_or_path!r} has no tokenizer that can be loaded"
                              f"{files.to_fetch}: {' '.join(str(exc).split())[:300]}") from exc
        if not getattr(self._tokenizer, "chat_template", None):
            raise ConfigError(f"{setting}: the tokenizer of {files.name_or_path!r} has no chat template; take the "
                              "instruction-tuned model, whose name often ends in -it, -Instruct or -chat")

    @property
    def special_tokens(self) -> list[str]:
        """Strings that the tokenizer reads as control."""
        added = [str(token) for token in self._tokenizer.get_added_vocab()]
        return sorted({*self._tokenizer.all_special_tokens, *added})

    def ids(self, messages: Messages) -> list[int]:
        """The prompt's tokens, up to where the answer begins."""
        found = self._tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=True,
                                                    return_dict=False)
        return list(found)

    def count(self, text: str) -> int:
        """Tokens of plain text."""
        return len(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def clip(self, text: str, tokens: int) -> str:
        """The text's beginning, of so many tokens at most."""
        ids = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        while len(ids) > tokens:
            text = self._tokenizer.decode(ids[:tokens], skip_special_tokens=True)
            ids, before = self._tokenizer(text, add_special_tokens=False)["input_ids"], ids
            if len(ids) >= len(before):  # broken characters may grow when written out
                tokens -= max(1, tokens // 10)
        return text
