"""An update that starts above the frozen layers, from what the sampler kept, is the update that computes them again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, PreTrainedConfig, Qwen2Config, Qwen3Config

from milepost.agents.driver import play
from milepost.agents.local import attention, models, tiny
from milepost.agents.local.policy import LocalPolicy
from milepost.agents.objective import Objective
from milepost.agents.packing import Below, begins_anywhere, token_logprobs
from milepost.agents.samples import Sample, n_forks, to_samples
from milepost.agents.trainer import Trainer
from milepost.envs.core import Episode, Task

SMALL: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}
FORGETFUL = tiny.CHATML.replace(
    "message['content'] + '<|im_end|>", "(message['content'] if message['role'] == 'user' else 'said') + '<|im_end|>"
)
"""A template that rewrites every action once the next one is asked for: each turn is a fork."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.build(tmp_path_factory.mktemp("model"), num_hidden_layers=3)


def policy_of(folder: Path, template: str = tiny.CHATML, lora: int = 4) -> LocalPolicy:
    """Return a policy whose adapters do something."""
    model, tokenizer = models.load(folder, lora=lora)
    tokenizer.chat_template = template
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    policy = LocalPolicy(model, tokenizer, max_new_tokens=8)
    policy.sync()
    return policy


def played(policy: LocalPolicy) -> list[Sample]:
    tasks = [Task("milepost/Ladder-v0", seed=s, group=str(s), attempt=a) for s in range(2) for a in range(3)]
    return rows(play(tasks, policy))


def rows(episodes: list[Episode]) -> list[Sample]:
    for i, episode in enumerate(episodes):
        for turn in episode.turns:
            turn.advantage = float(i % 5 - 2)
    return [sample for episode in episodes for sample in to_samples(episode)]


def n_kept(policy: LocalPolicy, samples: list[Sample], layer: int = 2) -> int:
    return sum(policy.states_below(layer, s.episode, s.agent, s.ids) is not None for s in samples)


def gradients(policy: LocalPolicy) -> dict[str, torch.Tensor]:
    return {n: p.grad.clone() for n, p in policy.model.named_parameters() if p.grad is not None}


def assert_same_update(folder: Path, template: str, lora: int) -> tuple[LocalPolicy, list[Sample]]:
    """Update the top layer with what was kept, and again without; the gradients are the same."""
    found = []
    for top_layers in (1, None):
        policy = policy_of(folder, template, lora)
        trainer = Trainer(policy, lr=0.0, top_layers=top_layers, clip_norm=1e9)
        samples = played(policy)
        trainer.update(samples)
        found.append((gradients(policy), policy, samples))
    (kept, policy, samples), (again, _, _) = found
    top = {name: gradient for name, gradient in again.items() if ".layers.2." in name}
    assert kept.keys() == top.keys()
    assert any(gradient.any() for gradient in top.values())
    for name, gradient in top.items():
        assert kept[name].numpy() == pytest.approx(gradient.numpy(), abs=1e-5 * float(gradient.abs().max()) + 1e-12)
    return policy, samples


@pytest.mark.parametrize("lora", [4, 0])
def test_an_update_from_what_was_kept_has_the_gradient_of_the_whole_forward(folder: Path, lora: int):
    policy, samples = assert_same_update(folder, tiny.CHATML, lora)
    assert n_kept(policy, samples) == 0, "what was kept is dropped with the weights"
    samples = played(policy)
    assert n_kept(policy, samples) == len(samples)


def test_a_row_that_was_left_for_a_fork_is_computed_again(folder: Path):
    policy, samples = assert_same_update(folder, FORGETFUL, 4)
    assert n_forks(samples) > 6
    samples = played(policy)
    last = {s.key: s for s in samples}
    assert n_kept(policy, samples) == n_kept(policy, list(last.values())) == len(last)


def test_what_enters_another_layer_is_not_taken_for_it(folder: Path):
    policy = policy_of(folder)
    for top_layers in (2, 1):
        Trainer(policy, lr=0.0, top_layers=top_layers)
    samples = played(policy)
    assert [n_kept(policy, samples, layer) for layer in (1, 2)] == [0, len(samples)]


def test_rows_that_live_when_listening_begins_are_kept_whole(folder: Path):
    policy, states = policy_of(folder), []
    for listens_at in (0, 2):
        tasks = [Task("milepost/Ladder-v0", seed=3, group="g")]
        n_acts, act = 0, policy.act

        def acting(requests: Any, at: int = listens_at, act: Any = act) -> Any:
            nonlocal n_acts
            if n_acts == at:
                policy.listen(2)
            n_acts += 1
            return act(requests)

        policy.act = acting  # type: ignore[method-assign]
        (sample,) = rows(play(tasks, policy))
        policy.act = act  # type: ignore[method-assign]
        kept = policy.states_below(2, sample.episode, sample.agent, sample.ids)
        assert kept is not None
        states.append(kept)
    assert torch.allclose(*states, atol=1e-5)


def test_the_ratio_of_a_first_epoch_is_one_also_from_what_was_kept_in_bf16(folder: Path):
    policy = policy_of(folder)
    for parameter in policy.model.parameters():
        if not parameter.requires_grad:
            parameter.data = parameter.data.bfloat16()
    policy = LocalPolicy(policy.model, policy.tokenizer, max_new_tokens=8)
    trainer = Trainer(policy, lr=0.0, top_layers=1, objective=Objective(n_epochs=2))
    assert trainer.update(played(policy))["ratio/max"] == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("config", [LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config])
def test_a_forward_from_any_layer_is_the_whole_forward(config: type[PreTrainedConfig]):
    torch.manual_seed(0)
    auto: Any = AutoModelForCausalLM
    shape = {"vocab_size": 97, "num_key_value_heads": 2, "head_dim": 8}
    model = auto.from_config(config(**shape, **SMALL), attn_implementation=attention.NAME).eval()
    assert begins_anywhere(model)
    rng = np.random.default_rng(0)
    ids = [np.append(np.arange(20), rng.integers(0, 97, n)).astype(np.int32) for n in (4, 9, 6)]
    wanted = [np.arange(len(row)) >= 20 for row in ids]
    states: list[torch.Tensor] = []
    hook = model.model.layers[1].register_forward_pre_hook(lambda _, inputs: states.append(inputs[0][0].detach()))
    for row in ids:
        model(torch.from_numpy(row[None]).long())
    hook.remove()
    whole, above = (token_logprobs(model, ids, wanted, below=below) for below in (None, Below(1, states)))
    assert torch.allclose(whole, above, atol=1e-5)


def test_a_model_of_another_make_is_computed_whole(folder: Path):
    model, _ = models.load(folder)
    assert begins_anywhere(model)
    model.config.model_type = "gemma3_text"
    assert not begins_anywhere(model)
