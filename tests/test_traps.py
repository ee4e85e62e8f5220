"""The known traps of multi-turn training, each with the test that keeps us out of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rows import TinyPolicy, batch, sample, weights
from tokenizers import Tokenizer, models
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from milepost.agents.loss import kl_k2, sequence_weights
from milepost.agents.objective import Objective
from milepost.agents.packing import token_logprobs
from milepost.agents.samples import n_forks, to_samples
from milepost.agents.trainer import Trainer
from milepost.envs.core import Action, Episode, Stop, Tokens, Turn


def turn(keep: int, context: list[int], ids: list[int], version: int = 0, advantage: float | None = 1.0) -> Turn:
    kept = Tokens(
        keep, np.array(context, np.int32), np.array(ids, np.int32), np.zeros(len(ids), np.float32), version=version
    )
    return Turn("seen", Action("did", tokens=kept), advantage=advantage)


def episode(*turns: Turn, stop: Stop = Stop.TERMINATED) -> Episode:
    return Episode(id="e", group="g", turns=list(turns), stop=stop)


PIECES = ["h", "e", "l", "o", "he", "ll", "llo", "hello"]


@given(st.lists(st.lists(st.integers(0, 7), min_size=1, max_size=4), min_size=1, max_size=4))
def test_trap_retokenization_drift(sampled: list[list[int]]):
    """What is trained on is what was sampled, also where text -> tokens would give other ids."""
    turns, n = [], 0
    for ids in sampled:
        turns.append(turn(n, [99], ids))
        n += 1 + len(ids)
    (row,) = to_samples(episode(*turns))
    assert row.ids[row.sampled].tolist() == [i for ids in sampled for i in ids]


def test_trap_retokenization_drift_is_real():
    """The ids of "he" + "llo" come back from their text as "hello"."""
    merges = [("h", "e"), ("l", "l"), ("ll", "o"), ("he", "llo")]
    tokenizer = Tokenizer(models.BPE({piece: i for i, piece in enumerate(PIECES)}, merges))
    assert tokenizer.encode("".join(PIECES[i] for i in (4, 6))).ids == [7]
    (row,) = to_samples(episode(turn(0, [99], [4, 6])))
    assert row.ids[row.sampled].tolist() == [4, 6]


def test_trap_thinking_stripped_from_history():
    """A template that drops the thinking (50, 51) of earlier turns gives two rows, never one that is realigned."""
    first, second = to_samples(episode(turn(0, [5], [50, 51, 7]), turn(1, [7, 8], [50, 9])))
    assert first.ids.tolist() == [5, 50, 51, 7]
    assert second.ids.tolist() == [5, 7, 8, 50, 9]
    assert second.sampled.tolist() == [False, False, False, True, True]
    assert n_forks([first, second]) == 1


def test_trap_newline_after_the_end_token():
    """The template's newline (13) after the end token (2) was never sampled and carries no loss."""
    (row,) = to_samples(episode(turn(0, [5], [7, 2]), turn(3, [13, 6], [8, 2])))
    assert row.ids[~row.sampled].tolist() == [5, 13, 6]


def test_trap_loss_on_environment_tokens():
    """The gradient is exactly 0 at every position that does not predict a sampled token."""
    policy, row = TinyPolicy(), sample(3, "a", 0)
    states: list[torch.Tensor] = []

    def keep(_module: Any, _inputs: Any, output: torch.Tensor) -> None:
        output.retain_grad()
        states.append(output)

    policy.model.model.norm.register_forward_hook(keep)
    token_logprobs(policy.model, [row.ids], [row.sampled]).sum().backward()
    assert states[0].grad is not None
    touched = states[0].grad[0].abs().sum(-1) > 0
    assert touched.tolist() == [*row.sampled[1:].tolist(), False]


def test_trap_assistant_messages_of_the_prompt():
    """Demonstrations inside a prompt are context, whoever wrote them."""
    shown = [1, 7, 2, 1, 8, 2]
    (row,) = to_samples(episode(turn(0, shown, [9, 2])))
    assert row.ids[row.sampled].tolist() == [9, 2]


def test_trap_pad_is_eos():
    """A sampled end token is trained on and padding is not, though their ids are the same."""
    policy = TinyPolicy()
    assert policy.model.config.pad_token_id == policy.model.config.eos_token_id == 2
    short, long = sample(1, "a", 0, advantage=1.0), sample(3, "b", 1, advantage=1.0)
    short.ids[-1] = 2
    metrics = Trainer(policy, lr=1e-3).update([short, long])
    assert metrics["tokens/trained"] == 8
    alone = token_logprobs(policy.model, [short.ids], [short.sampled])
    both = token_logprobs(policy.model, [short.ids, long.ids], [short.sampled, long.sampled])
    assert torch.allclose(both[:2], alone, atol=1e-6)


def test_trap_a_mask_without_a_trainable_token():
    silent = sample(2, "a", 0)
    silent.sampled[:] = False
    with pytest.raises(ValueError, match="nothing to imitate: none of 1 samples"):
        Trainer(TinyPolicy(), lr=1e-3).clone([silent])


def test_trap_length_bias():
    """By default a token weighs the same in short and long trajectories; dividing by the own length does not."""
    assert len(set(sequence_weights([3, 30], Objective().aggregation, Objective().constant))) == 1
    assert len(set(sequence_weights([3, 30], "seq_mean_token_mean"))) == 2


def test_trap_long_episodes_count_once():
    """An episode in three rows (forks) weighs what it weighs in one."""
    whole = sample(3, "a", 0)
    cuts = [whole, *(sample(3, "a", 0) for _ in range(2))]
    for t, row in enumerate(cuts):
        row.sampled = row.sampled & (row.turn == t)
        row.advantages = row.advantages * row.sampled
    other = sample(2, "b", 1)
    gradients = []
    for rows in ([sample(3, "a", 0), other], [*cuts, other]):
        trainer = Trainer(TinyPolicy(), lr=0.0, objective=Objective(aggregation="seq_mean_token_mean"))
        trainer.update(rows)
        gradients.append(torch.cat([p.grad.flatten() for p in trainer.policy.model.parameters()]))
    assert torch.allclose(*gradients, atol=1e-6)


def test_trap_kl_k3_in_the_loss():
    """k3's mean gradient is that of the reversed divergence; what we put in the loss is not k3."""
    logits = torch.tensor([0.3, -0.5, 1.1], dtype=torch.double, requires_grad=True)
    ref = torch.tensor([0.2, 0.7, 0.1]).double().log()
    logp = logits.log_softmax(-1)
    p = logp.exp().detach()
    k3 = (ref - logp).exp() - 1 - (ref - logp)
    exact = torch.autograd.grad((logp.exp() * (logp - ref)).sum(), logits, retain_graph=True)[0]
    ours = torch.autograd.grad((p * kl_k2(logp, ref)).sum(), logits, retain_graph=True)[0]
    theirs = torch.autograd.grad((p * k3).sum(), logits)[0]
    assert torch.allclose(ours, exact)
    assert (theirs - exact).abs().max() > 0.1


def test_trap_engine_and_trainer_disagree():
    """In bf16 the sampler's log-probabilities are not the trainer's: measured, and corrected up to a bound."""
    policy, row = TinyPolicy(), sample(3, "a", 0, advantage=1.0)
    row.logprobs = Trainer(policy, lr=0.0).logprobs([row])[0]
    policy.model.bfloat16()
    trainer = Trainer(policy, lr=0.0, objective=Objective(importance_cap=2.0))
    metrics = trainer.update([row])
    assert 0 < metrics["kl/sampler_abs_nats"] < 0.1
    assert metrics["ratio/mean"] == 1


def test_trap_scoring_at_another_temperature():
    """What was sampled at T = 2 is scored at T = 2."""
    policy, row = TinyPolicy(), sample(1, "a", 0)
    policy.temperature = 2.0
    logits = policy.model(torch.from_numpy(row.ids[None]).long()).logits[0].detach()
    expected = (logits / 2).log_softmax(-1)[[2, 3], row.ids[3:].astype(int)]
    assert Trainer(policy, lr=0.0).logprobs([row])[0][3:] == pytest.approx(expected.numpy(), abs=1e-6)


@pytest.mark.parametrize("prompt", [3, 30])
def test_trap_padding_and_absolute_positions(prompt: int):
    """A model with absolute positions gives a row the same numbers alone, padded, and behind a shared prompt."""
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=32, n_positions=64, n_embd=16, n_layer=2, n_head=2)).eval()
    rng = np.random.default_rng(0)
    rows = [np.append(np.arange(prompt) % 29 + 3, rng.integers(3, 32, n)).astype(np.int32) for n in (4, 9, 6)]
    wanted = [np.arange(len(row)) >= prompt for row in rows]
    alone = torch.cat([token_logprobs(model, [row], [at]) for row, at in zip(rows, wanted, strict=True)])
    assert torch.allclose(token_logprobs(model, rows, wanted), alone, atol=1e-5)


def test_trap_off_by_one_between_log_probabilities_and_mask():
    """In a model whose token i is always followed by i + 1, counting is certain and anything else is not."""
    size = 16
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=size, hidden_size=size, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1,
            tie_word_embeddings=False,
        )
    )  # fmt: skip
    for p in model.model.layers.parameters():
        torch.nn.init.zeros_(p)
    model.model.embed_tokens.weight.data = torch.eye(size)
    model.lm_head.weight.data = 9 * torch.eye(size).roll(1, 0)
    row = np.array([1, 2, 3, 9, 10, 5], np.int32)
    logprobs = token_logprobs(model, [row], [np.arange(6) > 0]).detach()
    assert (logprobs > -1e-4).tolist() == [True, True, False, True, False]


def test_trap_staleness_is_known_per_turn():
    (row,) = to_samples(episode(turn(0, [5], [7], version=3), turn(2, [6], [8], version=4)))
    assert row.versions == [3, 4]


@pytest.mark.parametrize("stop", [Stop.MAX_TURNS, Stop.MAX_TOKENS, Stop.TIMEOUT])
def test_trap_truncation_is_not_failure(stop: Stop):
    """An episode that ran out of turns is trained on with the advantage it was given, like any other."""
    (row,) = to_samples(episode(turn(0, [5], [7]), stop=stop))
    assert row.advantages[row.sampled].tolist() == [1.0]


def test_trap_a_group_of_equal_rewards_costs_no_forward():
    metrics = Trainer(TinyPolicy(), lr=1e-3).update([sample(2, f"e{i}", i, advantage=0.0) for i in range(4)])
    assert metrics["samples/skipped"] == 4
    assert metrics["tokens/forwarded"] == 0


@pytest.mark.parametrize("training", [False, True])
def test_trap_eval_mode_left_flipped(training: bool):
    """An update trains with dropout whatever a rollout left behind, scores without, and leaves the mode as it was."""
    results = []
    for mode in (training, True):
        policy: Any = TinyPolicy(lora=True, dropout=0.5)
        policy.model.train(mode)
        trainer = Trainer(policy, lr=1e-2)
        scores = trainer.logprobs(batch())
        trainer.update(batch())
        assert policy.model.training is mode
        results.append((weights(policy), np.concatenate(scores)))
    assert torch.equal(results[0][0], results[1][0])
    assert np.array_equal(results[0][1], results[1][1])
