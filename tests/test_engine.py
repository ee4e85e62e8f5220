"""Rows fed piece by piece against plain forwards, on several kinds of model; and the draw of a token."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, PreTrainedConfig, Qwen2Config

from milepost.agents.local import attention
from milepost.agents.local import engine as engines
from milepost.agents.local.engine import Engine
from milepost.agents.local.sampling import choose
from milepost.agents.packing import token_logprobs

torch.set_num_threads(1)

SMALL: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
CONFIGS: dict[str, PreTrainedConfig] = {
    "llama": LlamaConfig(vocab_size=97, num_key_value_heads=2, **SMALL),
    "qwen2": Qwen2Config(vocab_size=97, num_key_value_heads=2, **SMALL),
    "gpt2 (absolute positions)": GPT2Config(vocab_size=97, n_embd=32, n_layer=2, n_head=4, n_positions=256),
}


def build(kind: str) -> Any:
    torch.manual_seed(0)
    auto: Any = AutoModelForCausalLM
    return auto.from_config(CONFIGS[kind], attn_implementation=attention.NAME).eval()


def tokens(n: int, seed: int) -> list[int]:
    return [int(x) for x in np.random.default_rng(seed).integers(0, 97, n)]


def plain(model: Any, row: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.tensor([row])).logits[0, -1]


@pytest.mark.parametrize("kind", CONFIGS)
def test_rows_of_any_length_fed_in_any_pieces_give_the_logits_of_a_plain_forward(kind: str) -> None:
    model = build(kind)
    engine = Engine(model)
    rows = {f"row {i}": tokens(9 + 5 * i, seed=i) for i in range(5)}
    for step in range(6):
        keys = [key for i, key in enumerate(rows) if (i + step) % 3]
        for i, key in enumerate(keys):
            rows[key] += tokens(1 if step == 4 else 1 + (step * 7 + i * 3) % 11, seed=100 * step + i)
        logits = engine.feed(keys, [rows[key] for key in keys])
        for key, row in zip(keys, logits, strict=True):
            assert (row - plain(model, rows[key])).abs().max() < 2e-5
        if step == 2:
            engine.forget(["row 1"])
        if step == 3:
            engine.truncate("row 2", 4)


@pytest.mark.parametrize("kind", CONFIGS)
def test_fed_rows_and_packed_rows_have_the_same_log_probabilities(kind: str) -> None:
    model = build(kind)
    engine = Engine(model)
    prompt = tokens(24, seed=9)
    rows = [prompt + tokens(n, seed=n) for n in (3, 8, 14)]
    wanted = [np.arange(len(row)) >= len(prompt) for row in rows]
    with torch.no_grad():
        packed = token_logprobs(model, [np.array(row, np.int32) for row in rows], wanted)
    fed: list[list[float]] = [[] for _ in rows]
    for at in range(len(prompt), max(map(len, rows))):
        live = [i for i, row in enumerate(rows) if len(row) > at]
        logits = engine.feed(live, [rows[i][:at] for i in live]).log_softmax(-1)
        for i, row in zip(live, logits, strict=True):
            fed[i].append(float(row[rows[i][at]]))
    assert np.abs(np.concatenate(fed) - packed.numpy()).max() < 2e-5


def test_a_long_prompt_in_pieces_gives_the_logits_of_a_plain_forward(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "CHUNK", 16)
    model = build("llama")
    rows = [tokens(75, seed=1), tokens(16, seed=2), tokens(75, seed=1)]
    for row, logits in zip(rows, Engine(model).feed([0, 1, 2], rows), strict=True):
        assert (logits - plain(model, row)).abs().max() < 2e-5


def test_a_token_is_drawn_where_its_number_falls() -> None:
    logits = torch.tensor([[0.5, 0.0, 0.25, 0.25]]).log().expand(6, -1)
    ids, logprobs = choose(logits, [0.0, 0.49, 0.51, 0.74, 0.76, 1 - 2**-53], 1.0)
    assert ids == [0, 0, 2, 2, 3, 3]
    assert np.exp(logprobs) == pytest.approx([0.5, 0.5, 0.25, 0.25, 0.25, 0.25])


@given(st.integers(1, 700), st.integers(0, 2**32 - 1), st.floats(0, 1, exclude_max=True))
def test_a_drawn_token_is_the_inverse_of_the_cumulated_probabilities(n: int, seed: int, at: float) -> None:
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 4, n)
    logits[rng.random(n) < 0.3] = -np.inf
    logits[rng.integers(n)] = 0.0
    probs = torch.tensor(logits, dtype=torch.float32).softmax(-1)
    (token,), _ = choose(torch.tensor(logits, dtype=torch.float32)[None], [at], 1.0)
    sums = probs.double().cumsum(0) / probs.double().sum()
    assert probs[token] > 0
    assert sums[token] - probs[token] - 1e-6 <= at <= sums[token] + 1e-6
