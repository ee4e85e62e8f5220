"""The train step on a tiny model: same gradient however split, skips, schedules, checkpoints."""

from __future__ import annotations

import random
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from rows import TinyPolicy, batch, sample, weights

from milepost.agents.lora import compute_narrow
from milepost.agents.loss import Aggregation, Level
from milepost.agents.objective import Objective
from milepost.agents.packing import micro_batches, token_logprobs, token_scores
from milepost.agents.samples import Sample, kl_credit
from milepost.agents.trainer import Trainer
from milepost.envs.core import Action, Episode, Stop, Tokens, Turn


def gradient(trainer: Trainer) -> torch.Tensor:
    return torch.cat([p.grad.reshape(-1) for p in trainer.policy.model.parameters() if p.grad is not None])


@pytest.mark.parametrize("how", get_args(Aggregation))
@pytest.mark.parametrize("level", get_args(Level))
def test_micro_batches_do_not_change_the_gradient(how: Aggregation, level: Level):
    gradients = []
    for max_tokens in (1000, 50, 25, 1):
        trainer = Trainer(
            TinyPolicy(), lr=1e-3, max_tokens=max_tokens, objective=Objective(level=level, aggregation=how)
        )
        metrics = trainer.update(batch())
        gradients.append(gradient(trainer))
        assert metrics["ratio/mean"] == pytest.approx(1)
    for other in gradients[1:]:
        assert (other - gradients[0]).abs().max() <= 1e-6


@pytest.mark.parametrize("level", get_args(Level))
def test_micro_batches_do_not_change_the_gradient_of_entropy_and_masked_importance(level: Level):
    o = Objective(entropy=0.5, importance_range=(0.95, 1.05), importance_level=level, aggregation="token_mean")
    gradients, counts = [], []
    for max_tokens in (1000, 50, 25, 1):
        trainer = Trainer(TinyPolicy(), lr=1e-3, max_tokens=max_tokens, clip_norm=1e9, objective=o)
        metrics = trainer.update(batch())
        gradients.append(gradient(trainer))
        counts.append(metrics["tokens/left_out"])
    for other in gradients[1:]:
        assert (other - gradients[0]).abs().max() <= 1e-6
    assert len(set(counts)) == 1
    assert 0 < counts[0] < metrics["tokens/trained"]


def test_a_bonus_makes_the_policy_less_sure_even_where_nothing_was_better():
    policy, flat = TinyPolicy(lora=True), sample(3, "a", 0, advantage=0.0)
    trainer = Trainer(policy, lr=1e-2, objective=Objective(entropy=1.0))
    before = trainer.update([flat])["entropy/mean_nats"]
    assert trainer.update([flat])["entropy/mean_nats"] > before
    assert "entropy/mean_nats" not in Trainer(TinyPolicy(), lr=0.0).update(batch())


def test_scores_are_the_log_probabilities_and_the_entropies_of_a_plain_forward():
    policy, samples = TinyPolicy(), batch()[:3]
    rows, wanted = [s.ids for s in samples], [s.sampled for s in samples]
    logprobs, entropies = token_scores(policy.model, rows, wanted, 0.7)
    assert torch.equal(logprobs, token_logprobs(policy.model, rows, wanted, 0.7))
    plain = []
    for row, at in zip(rows, wanted, strict=True):
        logits = policy.model(torch.tensor(row[None].astype(np.int64))).logits[0, :-1] / 0.7
        plain.append(torch.distributions.Categorical(logits=logits).entropy()[torch.from_numpy(at[1:])])
    assert torch.allclose(entropies, torch.cat(plain), atol=1e-5)
    (a,) = torch.autograd.grad(entropies.sum(), policy.model.lm_head.weight)
    assert a.abs().max() > 0


def test_a_batch_of_rows_has_the_log_probabilities_of_each_row_alone():
    policy, samples = TinyPolicy(), batch()
    rows, wanted = [s.ids for s in samples], [s.sampled for s in samples]
    together = token_logprobs(policy.model, rows, wanted)
    alone = torch.cat([token_logprobs(policy.model, [r], [w]) for r, w in zip(rows, wanted, strict=True)])
    assert torch.allclose(together, alone, atol=1e-6)


def shared(n: int, prompt: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A row of ``n`` tokens after a prompt of ``prompt`` equal ones."""
    ids = np.random.default_rng(seed).integers(3, 32, n + prompt).astype(np.int32)
    ids[:prompt] = np.arange(prompt) % 29 + 3
    wanted = np.arange(n + prompt) >= prompt
    wanted[prompt + n // 2] = False
    return ids, wanted


def test_a_shared_prompt_is_computed_once_with_the_same_log_probabilities_and_gradient():
    policy = TinyPolicy(lora=True, dropout=0.0)
    rows, wanted = map(list, zip(*[shared(n, 20, n) for n in (9, 4, 6)], strict=True))
    parameters = [p for p in policy.model.parameters() if p.requires_grad]
    together = token_logprobs(policy.model, rows, wanted)
    alone = torch.cat([token_logprobs(policy.model, [r], [w]) for r, w in zip(rows, wanted, strict=True)])
    assert torch.allclose(together, alone, atol=1e-6)
    for a, b in zip(*[torch.autograd.grad(x.square().sum(), parameters) for x in (together, alone)], strict=True):
        assert (a - b).abs().max() <= 1e-6 * max(1, b.abs().max())


def batches(sizes: list[tuple[int, int]], max_tokens: int) -> list[list[int]]:
    rows = [shared(n, prompt, i) for i, (n, prompt) in enumerate(sizes)]
    return micro_batches([r for r, _ in rows], [w for _, w in rows], max_tokens)


def test_rows_go_by_length_into_batches_that_fit():
    assert batches([(2, 1), (8, 1), (3, 1), (3, 1), (1, 1)], 12) == [[1], [2, 3, 0], [4]]
    assert batches([(20, 1)], 12) == [[0]]
    assert batches([], 12) == []


def test_rows_of_one_prompt_go_together_and_their_prompt_counts_once():
    assert batches([(4, 20), (9, 3), (5, 20), (20, 3), (5, 20)], 35) == [[3], [1], [2, 4, 0]]


def test_samples_without_advantage_are_skipped_and_counted():
    samples = [sample(2, "a", 0), sample(2, "b", 1, advantage=0.0), sample(2, "c", 2, advantage=float("nan"))]
    samples[2].advantages[~samples[2].sampled] = 0
    metrics = Trainer(TinyPolicy(), lr=1e-3).update(samples)
    assert metrics["samples/skipped"] == 2
    assert metrics["turns/unjudged"] == 2
    assert metrics["tokens/trained"] == 4
    assert metrics["tokens/forwarded"] == 10


def test_a_judged_zero_counts_in_the_mean_and_an_unjudged_turn_does_not():
    def grad(*samples: Sample) -> torch.Tensor:
        trainer = Trainer(TinyPolicy(), lr=1e-3, clip_norm=1e9, objective=Objective(aggregation="seq_mean_token_sum"))
        trainer.update(samples)
        return gradient(trainer)

    unjudged = sample(1, "b", 1, advantage=float("nan"))
    unjudged.advantages[~unjudged.sampled] = 0
    alone = grad(sample(1, "a", 0))
    assert torch.allclose(grad(sample(1, "a", 0), unjudged), alone, atol=1e-7)
    assert torch.allclose(grad(sample(1, "a", 0), sample(1, "b", 1, advantage=0.0)), alone / 2, atol=1e-7)


def test_a_batch_without_advantage_leaves_the_weights_alone():
    policy = TinyPolicy()
    trainer = Trainer(policy, lr=1e-1)
    trainer.update(batch())
    before = weights(policy)
    metrics = trainer.update([sample(2, "a", 0, advantage=0.0)])
    assert torch.equal(weights(policy), before)
    assert (policy.version, policy.synced, trainer.n_updates) == (1, 1, 2)
    assert metrics["samples/skipped"] == 1
    assert "grad/norm" not in metrics


def test_an_update_makes_what_was_good_more_likely():
    policy, good = TinyPolicy(lora=True), sample(3, "a", 0, advantage=1.0)
    trainer = Trainer(policy, lr=1e-2)
    before = trainer.logprobs([good])[0].sum()
    trainer.update([good])
    assert trainer.logprobs([good])[0].sum() > before
    assert (policy.version, policy.synced) == (1, 1)


def test_several_epochs_move_the_ratio_from_one_and_clip_it():
    trainer = Trainer(TinyPolicy(), lr=3e-2, objective=Objective(n_epochs=4, clip_low=0.05, clip_high=0.05))
    metrics = trainer.update(batch())
    assert metrics["ratio/max"] > 1.05
    assert metrics["ratio/clipped"] > 0


def test_the_loss_that_is_told_is_the_mean_over_epochs():
    losses = [
        Trainer(TinyPolicy(), lr=0.0, objective=Objective(n_epochs=n)).update([sample(2, "a", 0)])["loss/policy"]
        for n in (1, 3)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert losses[0] != 0


def test_the_samplers_log_probabilities_are_the_denominator_by_option():
    policy, samples = TinyPolicy(), batch()
    trainer = Trainer(policy, lr=0.0, objective=Objective(old="sampler"))
    own = trainer.logprobs(samples)
    ratio = np.concatenate([np.exp(o - s.logprobs)[s.judged] for o, s in zip(own, samples, strict=True)])
    metrics = trainer.update(samples)
    assert metrics["ratio/mean"] == pytest.approx(ratio.mean(), rel=1e-5)
    assert metrics["kl/sampler_nats"] == pytest.approx(-np.log(ratio).mean(), rel=1e-3)


def test_a_sampler_that_was_certain_twice_as_much_halves_the_step():
    good = sample(1, "a", 0, advantage=1.0)
    gradients = []
    for gap in (0.0, np.log(2), -9.0):
        trainer = Trainer(TinyPolicy(), lr=0.0, clip_norm=1e9, objective=Objective(importance_cap=3.0))
        good.logprobs = trainer.logprobs([good])[0] + np.float32(gap)
        trainer.update([good])
        gradients.append(gradient(trainer))
    assert torch.allclose(gradients[1], gradients[0] / 2, atol=1e-6)
    assert torch.allclose(gradients[2], gradients[0] * 3, atol=1e-5)


def test_an_objective_that_needs_the_sampler_says_so():
    unknown = sample(1, "a", 0)
    unknown.logprobs[:] = np.nan
    with pytest.raises(ValueError, match="episode a has no log-probabilities of its sampler"):
        Trainer(TinyPolicy(), lr=0.0, objective=Objective(old="sampler")).update([unknown])
    with pytest.raises(ValueError, match="counts twice"):
        Objective(old="sampler", importance_cap=2.0)


def test_the_reference_is_the_model_with_its_adapter_off():
    policy, samples = TinyPolicy(lora=True), batch()
    trainer = Trainer(policy, lr=1e-2, objective=Objective(kl=0.1))
    plain = Trainer(TinyPolicy(), lr=0.0).logprobs(samples)
    for got, expected in zip(trainer.reference(samples), plain, strict=True):
        assert got == pytest.approx(expected, abs=1e-6)
    metrics = trainer.update(samples)
    assert metrics["loss/kl"] > 0
    assert "kl/reference_nats" in metrics
    with pytest.raises(ValueError, match="this model has none"):
        Trainer(TinyPolicy(), lr=0.0).reference(samples)


def test_kl_credit_of_the_policy_itself_is_zero():
    played = sample(2, "a", 0)
    policy = TinyPolicy(lora=True)
    for p in policy.model.parameters():
        if p.requires_grad:
            torch.nn.init.zeros_(p)
    trainer = Trainer(policy, lr=0.0)
    own = trainer.logprobs([played])[0]
    turns = [
        Turn("o", Action("a", tokens=Tokens(5 * t, played.ids[5 * t : 5 * t + 3], played.ids[5 * t + 3 : 5 * t + 5],
                                            own[5 * t + 3 : 5 * t + 5])))
        for t in range(2)
    ]  # fmt: skip
    episode = Episode(id="a", turns=turns, stop=Stop.TERMINATED)
    kl_credit([episode], trainer.reference)
    for turn in turns:
        assert turn.credit["kl"] == pytest.approx(np.zeros(2), abs=1e-6)


def test_cloning_learns_the_demonstration_and_leaves_out_what_weighs_nothing():
    policy = TinyPolicy()
    demonstration, noise = sample(3, "a", 0, advantage=float("nan")), sample(1, "b", 1, advantage=0.0)
    trainer = Trainer(policy, lr=1e-2)
    losses = [trainer.clone([demonstration, noise])["loss/clone"] for _ in range(30)]
    assert losses[0] > 3
    assert losses[-1] < 1
    assert trainer.clone([demonstration, noise])["tokens/trained"] == 6


def test_cloning_with_a_negative_weight_is_refused():
    with pytest.raises(ValueError, match="cannot imitate with a negative weight"):
        Trainer(TinyPolicy(), lr=0.0).clone([sample(1, "a", 0, advantage=-1.0)])


def test_the_schedule_counts_updates():
    trainer = Trainer(TinyPolicy(), lr=1.0, total_updates=5, warmup_updates=2, final_lr=0.2)
    assert [trainer.lr_at(u) for u in (0, 1, 2, 4, 9)] == pytest.approx([0.5, 0.8, 0.6, 0.2, 0.2])


def test_adapters_that_compute_narrow_are_those_of_peft():
    policy, samples = TinyPolicy(lora=True, dropout=0.0), batch()
    rows, wanted = [s.ids for s in samples], [s.sampled for s in samples]
    before = token_logprobs(policy.model, rows, wanted)
    compute_narrow(policy.model)
    assert torch.allclose(token_logprobs(policy.model, rows, wanted), before, atol=1e-6)
    with policy.model.disable_adapter():
        off = token_logprobs(policy.model, rows, wanted)
    assert torch.allclose(off, token_logprobs(TinyPolicy().model, rows, wanted), atol=1e-6)
    policy.model.merge_adapter()
    assert torch.allclose(token_logprobs(policy.model, rows, wanted), before, atol=1e-5)


def test_a_bf16_model_keeps_its_adapters_in_fp32():
    policy = TinyPolicy(lora=True)
    for p in policy.model.parameters():
        p.data = p.data if p.requires_grad else p.data.bfloat16()
    metrics = Trainer(policy, lr=1e-2).update(batch())
    assert {p.dtype for p in policy.model.parameters() if p.requires_grad} == {torch.float32}
    assert metrics["grad/norm"] > 0


def test_only_the_top_layers_learn_when_told_so():
    policy = TinyPolicy(lora=True, layers=3)
    before = {n: p.detach().clone() for n, p in policy.model.named_parameters()}
    Trainer(policy, lr=1e-2, top_layers=1).update(batch())
    moved = {n for n, p in policy.model.named_parameters() if not torch.equal(p, before[n])}
    assert moved
    assert all(".layers.2." in name for name in moved)
    with pytest.raises(ValueError, match=r"top_layers: expected 1\.\.3, got 4"):
        Trainer(policy, lr=1e-2, top_layers=4)


def test_a_gradient_that_is_not_finite_changes_nothing():
    policy = TinyPolicy()
    trainer = Trainer(policy, lr=1e-2)
    broken = sample(1, "a", 0)
    broken.advantages[3] = np.inf
    before = weights(policy)
    with pytest.raises(ArithmeticError, match="no weight was changed"):
        trainer.update([broken])
    assert torch.equal(weights(policy), before)


@pytest.mark.parametrize("lora", [False, True])
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(tmp_path: Path, lora: bool):
    straight = TinyPolicy(lora)
    trainer = Trainer(straight, lr=1e-2, total_updates=6, seed=3)
    for _ in range(3):
        trainer.update(batch())
    trainer.save(tmp_path / "trainer.safetensors")
    draws = random.random(), np.random.random(), torch.rand(1)
    for _ in range(3):
        trainer.update(batch())
    resumed = TinyPolicy(lora, seed=0)
    again = Trainer(resumed, lr=1e-2, total_updates=6, seed=3)
    again.update([sample(2, "x", 7)])
    again.load(tmp_path / "trainer.safetensors")
    assert (again.n_updates, resumed.version) == (3, 3)
    assert (random.random(), np.random.random(), torch.rand(1)) == draws
    for _ in range(3):
        again.update(batch())
    assert torch.equal(weights(resumed), weights(straight))


def test_a_checkpoint_of_an_adapter_holds_the_adapter_alone(tmp_path: Path):
    policy = TinyPolicy(lora=True)
    Trainer(policy, lr=1e-2, top_layers=1).save(tmp_path / "t")
    from safetensors import safe_open

    with safe_open(str(tmp_path / "t"), framework="pt") as file:
        names = list(file.keys())
    assert all("lora_" in name for name in names)
    assert any(".layers.0." in name for name in names)


def test_a_checkpoint_that_does_not_fit_is_refused_in_one_line(tmp_path: Path):
    trainer = Trainer(TinyPolicy(), lr=1e-2)
    trainer.update(batch())
    path, before = tmp_path / "t", weights(TinyPolicy(layers=3))
    trainer.save(path)
    other = TinyPolicy(layers=3)
    with pytest.raises(ValueError, match=r"checkpoint of another model: model\.layers\.2\S+ is absent there"):
        Trainer(other, lr=1e-2).load(path)
    assert torch.equal(weights(other), before)
    (tmp_path / "cut").write_bytes(path.read_bytes()[:-100])
    (tmp_path / "short").write_bytes(path.read_bytes()[:5])
    for name in ("cut", "short"):
        with pytest.raises(ValueError, match="not a whole checkpoint"):
            trainer.load(tmp_path / name)
    with pytest.raises(ValueError, match="no checkpoint at"):
        trainer.load(tmp_path / "absent")
