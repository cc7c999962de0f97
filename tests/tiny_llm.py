"""A Gemma-2 with random weights and a tokenizer trained on a few sentences: a real model folder, made in seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

SENTENCES = (
    "The person favours floral soaps, cedar candles and citrus perfumes of small makers.",
    "Write a profile of the person in English from the history between the marks.",
    "lavender rose soap number 7 | soap | price: 3.50 | rated 4 of 5",
    "They dislike heavy musk, and lately turn to vanilla and mint; they come back to what they know.",
    '{"tastes": "fresh, floral", "attributes": "small makers", "price_or_era": "moderate", "summary": "fresh"}',
)
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}"
    "{{ '<start_of_turn>' + ('model' if message['role'] == 'assistant' else message['role']) + '\n' "
    "+ message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}")
SIZES: dict[str, dict[str, Any]] = {
    "tiny": dict(hidden_size=128, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=32,
                 intermediate_size=256),
    "100m": dict(hidden_size=768, num_hidden_layers=12, num_attention_heads=12, num_key_value_heads=4, head_dim=64,
                 intermediate_size=2048),
}


def make_tokenizer(folder: Path, vocab_size: int = 1200) -> Path:
    """Byte-level BPE with Gemma's control tokens and chat template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    control = ["<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>"]
    tokenizer.train_from_iterator(SENTENCES * 3, trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=control, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>",
        additional_special_tokens=["<start_of_turn>", "<end_of_turn>"], chat_template=CHAT_TEMPLATE)
    folder.mkdir(parents=True, exist_ok=True)
    fast.save_pretrained(folder)
    return folder


def make_model(folder: Path, size: str = "tiny", max_length: int = 2048, seed: int = 0) -> Path:
    """The model folder; weights are random and the same for the same seed."""
    import torch
    from transformers import AutoTokenizer, Gemma2Config, Gemma2ForCausalLM

    make_tokenizer(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    torch.manual_seed(seed)
    config = Gemma2Config(
        vocab_size=len(tokenizer), max_position_embeddings=max_length, sliding_window=max_length,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
        **SIZES[size])
    Gemma2ForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    return folder
