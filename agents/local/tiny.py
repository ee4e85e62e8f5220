"""Build a tiny language model with random weights, a tokenizer of its own and a ChatML template, for tests."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
_TEXT = "You are in a room. You see a door. go north, take the lamp, open the chest. You can't do that. user assistant"


def build(folder: str | Path, texts: Iterable[str] = (), seed: int = 0, *, vocab: int = 512, **sizes: Any) -> Path:
    """Write a Llama of less than 0.5 million parameters that ``from_pretrained`` loads, and return its folder.

    Its end-of-turn token is also its padding token, as in the default model.

    Args:
        folder: Where to write.
        texts: What the byte-pair encoding is learned from, beside a few words of ours.
        seed: Where the weights come from.
        vocab: Most tokens, at least 258.
        sizes: Fields of ``LlamaConfig`` to change.
    """
    folder = Path(folder)
    bpe = Tokenizer(BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=vocab,
        special_tokens=["<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator([_TEXT, *texts], trainer)
    tokenizer: Any = cast(Any, PreTrainedTokenizerFast)(
        tokenizer_object=bpe, eos_token="<|im_end|>", pad_token="<|im_end|>"
    )
    tokenizer.chat_template = CHATML
    defaults = {
        "hidden_size": 64,
        "intermediate_size": 160,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
        "tie_word_embeddings": True,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 1,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(LlamaConfig(vocab_size=bpe.get_vocab_size(), **(defaults | sizes)))
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)
    return folder
