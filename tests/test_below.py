"""An update that starts above the frozen layers, from what the sampler kept, is the update that computes them again."""

from pathlib import Path

import pytest
import torch

from milepost.agents.driver import play
from milepost.agents.local import models, tiny
from milepost.agents.local.policy import LocalPolicy
from milepost.agents.samples import Sample, to_samples
from milepost.agents.trainer import Trainer
from milepost.envs.core import Task


def trained(folder: Path, *, remember: bool) -> tuple[dict[str, torch.Tensor], list[Sample], LocalPolicy]:
    """Return the gradients of one update of the top layer, its samples and the policy."""
    model, tokenizer = models.load(folder, lora=4)
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    policy = LocalPolicy(model, tokenizer, max_new_tokens=8)
    trainer = Trainer(policy, lr=1e-3, top_layers=1)
    policy.sync()
    tasks = [Task("milepost/Ladder-v0", seed=s, group=str(s), attempt=a) for s in range(2) for a in range(3)]
    episodes = play(tasks, policy)
    for i, episode in enumerate(episodes):
        for turn in episode.turns:
            turn.advantage = float(i % 5 - 2)
    samples = [sample for episode in episodes for sample in to_samples(episode)]
    if not remember:
        policy._below = {}
    else:
        known = [policy.states_below(s.episode, s.agent) for s in samples]
        assert [None if k is None else len(k) for k in known] == [len(s) - 1 for s in samples]
    trainer.update(samples)
    gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    return gradients, samples, policy


def test_an_update_from_what_was_kept_has_the_gradient_of_the_whole_forward(tmp_path: Path) -> None:
    folder = tiny.build(tmp_path / "model", num_hidden_layers=3)
    kept, _, _ = trained(folder, remember=True)
    again, _, _ = trained(folder, remember=False)
    assert kept
    assert kept.keys() == again.keys()
    for name, gradient in again.items():
        assert kept[name].numpy() == pytest.approx(gradient.numpy(), abs=1e-5 * float(gradient.abs().max()) + 1e-12)


def test_what_was_kept_of_the_old_weights_is_dropped_with_them(tmp_path: Path) -> None:
    _, samples, policy = trained(tiny.build(tmp_path / "model", num_hidden_layers=3), remember=True)
    assert all(policy.states_below(s.episode, s.agent) is None for s in samples)
