"""The second model of a credit method: beside the policy, over whole episodes, and back bit for bit."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from token_ranks import run

from milepost.agents.local import models, tiny
from milepost.agents.local.token_model import AdapterModel
from milepost.agents.trainer import Trainer
from milepost.credit.core import Credit, assign, restore, saved
from milepost.credit.oprl import OPRL
from milepost.credit.peers.agentprm import AgentPRM
from milepost.credit.peers.archer import ArCHer
from milepost.credit.peers.ppo import Critic
from milepost.credit.peers.prime import PRIME
from milepost.credit.peers.sweet import SWEET
from milepost.credit.peers.turn_ppo import TurnCritic
from milepost.credit.spa import SPA
from milepost.envs.core import Action, ContractError, Episode, Stop, Tokens, Turn


class Policy:
    """The part of a policy that matters here."""

    def __init__(self, folder: Path, lora: int = 4, temperature: float = 1.0) -> None:
        self.model, self.tokenizer = models.load(folder, lora=lora)
        self.version, self.temperature = 0, temperature
        for name, p in self.model.named_parameters():
            if "lora_B" in name:  # an adapter that does something
                torch.nn.init.normal_(p, std=0.2, generator=torch.Generator().manual_seed(len(name)))

    def sync(self) -> None:
        pass


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.build(tmp_path_factory.mktemp("tiny"), seed=3)


def played(*turns: tuple[int, list[int], list[int]], id: str = "e", stop: Stop = Stop.TERMINATED) -> Episode:
    """An episode of turns (keep, context, ids)."""
    made = [
        Turn(
            "seen", Action("did", tokens=Tokens(k, np.array(c, np.int32), np.array(i, np.int32), -np.ones(len(i), "f")))
        )
        for k, c, i in turns
    ]
    made[-1].info["outcome"] = 1.0
    return Episode(id=id, group="g", turns=made, stop=stop)


PLAIN = played((0, [5, 6, 7], [8, 9]), (5, [10, 11], [12]), id="plain")
"""One row 5 6 7 8 9 10 11 12."""
FORKED = played((0, [5, 6, 7], [20, 21, 22]), (3, [30], [23, 24]), id="forked")
"""Rows 5 6 7 20 21 22 and 5 6 7 30 23 24."""


def logprob(model: Any, row: list[int], n_last: int) -> torch.Tensor:
    """The plain way: all logits, log-softmax, the last ``n_last`` tokens."""
    logits = model(input_ids=torch.tensor([row])).logits[0].float()
    every = logits.log_softmax(-1)[:-1].gather(1, torch.tensor(row[1:])[:, None])[:, 0]
    return every[len(every) - n_last :]


def test_log_probabilities_are_those_of_each_turns_own_row(folder: Path):
    policy = Policy(folder)
    (plain, forked) = AdapterModel.beside(policy, lr=1e-3).token_logprobs([PLAIN, FORKED])
    with torch.no_grad():
        torch.testing.assert_close(plain[0], logprob(policy.model, [5, 6, 7, 8, 9], 2))
        torch.testing.assert_close(plain[1], logprob(policy.model, [5, 6, 7, 8, 9, 10, 11, 12], 1))
        torch.testing.assert_close(forked[0], logprob(policy.model, [5, 6, 7, 20, 21, 22], 3))
        torch.testing.assert_close(forked[1], logprob(policy.model, [5, 6, 7, 30, 23, 24], 2))


def test_log_probabilities_are_at_the_policys_temperature(folder: Path):
    hot = AdapterModel.beside(Policy(folder, temperature=2.0), lr=1e-3)
    logits = hot.model(input_ids=torch.tensor([[5, 6, 7, 8]])).logits[0, 2].float()
    assert hot.temperature == 2.0
    torch.testing.assert_close(hot.token_logprobs([PLAIN])[0][0][0], (logits / 2).log_softmax(-1)[8])
    assert AdapterModel.beside(Policy(folder, temperature=0.0), lr=1e-3).temperature == 1.0


def test_a_turns_state_is_that_of_its_last_token_or_before_its_first(folder: Path):
    model = AdapterModel.beside(Policy(folder), lr=1e-3)
    base = model.model.get_base_model()
    hidden = base.model(input_ids=torch.tensor([[5, 6, 7, 8, 9, 10, 11, 12]])).last_hidden_state[0]
    logits = base.lm_head(hidden)
    close = torch.testing.assert_close
    close(model.turn_states([PLAIN])[0], hidden[[4, 7]])
    close(model.turn_states([PLAIN], before=True)[0], hidden[[2, 6]])
    close(model.turn_states([PLAIN], logits=True)[0], logits[[4, 7]])
    close(model.token_states([PLAIN])[0][0], hidden[[3, 4]])
    close(model.token_states([PLAIN], before=True)[0][0], hidden[[2, 3]])
    close(model.token_states([PLAIN], before=True, logits=True)[0][1], logits[[6]])
    assert (model.size, model.vocab) == (hidden.shape[1], logits.shape[1])


def test_what_comes_before_a_turn_has_not_seen_it(folder: Path):
    model = AdapterModel.beside(Policy(folder), lr=1e-3)
    other = played((0, [5, 6, 7], [40, 41]), id="other")
    before, after = model.turn_states([PLAIN, other], before=True), model.turn_states([PLAIN, other])
    torch.testing.assert_close(before[0][0], before[1][0])
    assert not torch.allclose(after[0][0], after[1][0])


@pytest.mark.parametrize("max_tokens", [1, 16, 4096])
def test_micro_batches_change_neither_numbers_nor_gradients(folder: Path, max_tokens: int):
    def run(size: int) -> tuple[torch.Tensor, list[torch.Tensor]]:
        model = AdapterModel.beside(Policy(folder), lr=1e-3, max_tokens=size)
        flat = torch.cat([t for row in model.token_logprobs([PLAIN, FORKED, PLAIN]) for t in row])
        flat.square().sum().backward()
        return flat.detach(), [p.grad for p in model._weights.values() if p.grad is not None]

    (a, grads), (b, others) = run(max_tokens), run(64)
    torch.testing.assert_close(a, b)
    assert any(g.any() for g in grads)
    torch.testing.assert_close(grads, others, rtol=1e-3, atol=1e-5)


def test_activations_are_not_kept_for_the_backward_pass(folder: Path):
    model = AdapterModel.beside(Policy(folder), lr=1e-3)
    sizes: list[int] = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        sizes.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        out = model.token_logprobs([PLAIN, FORKED])
    assert out[0][0].requires_grad
    assert sum(sizes) <= 8  # a tiny row of activations alone has thousands


def test_the_policys_weights_below_the_adapter_are_shared_and_untouched(folder: Path):
    policy = Policy(folder)
    trainer = Trainer(policy, lr=1e-3)
    before = {n: (p.detach().clone(), p.requires_grad) for n, p in policy.model.named_parameters()}
    for lora in (None, 2):
        model = AdapterModel.beside(policy, lora=lora, lr=1e-1)
        theirs = {p.untyped_storage().data_ptr() for n, p in policy.model.named_parameters() if "lora_" not in n}
        own = {n: p.untyped_storage().data_ptr() for n, p in model.model.named_parameters()}
        assert {x for n, x in own.items() if "lora_" not in n} == theirs
        assert not {x for n, x in own.items() if "lora_" in n} & {
            p.untyped_storage().data_ptr() for p in policy.model.parameters()
        }
        model.step(-torch.cat(model.token_logprobs([PLAIN])[0]).sum())
        assert all(p.grad is None or not p.grad.any() for p in policy.model.parameters())
        for name, p in policy.model.named_parameters():
            assert torch.equal(p, before[name][0]), name
            assert p.requires_grad == before[name][1], name
    assert trainer.n_updates == 0


def test_it_begins_as_the_policy_or_as_the_weights_below_it(folder: Path):
    policy = Policy(folder)
    row = [5, 6, 7, 8, 9]
    with torch.no_grad():
        now = logprob(policy.model, row, 2)
        with policy.model.disable_adapter():
            below = logprob(policy.model, row, 2)
    assert not torch.allclose(now, below)
    torch.testing.assert_close(AdapterModel.beside(policy, lr=1e-3).token_logprobs([PLAIN])[0][0], now)
    torch.testing.assert_close(AdapterModel.beside(policy, lora=2, lr=1e-3).token_logprobs([PLAIN])[0][0], below)


@pytest.mark.parametrize("lora", [0, 2])
def test_a_policy_without_adapter_is_copied(folder: Path, lora: int):
    policy = Policy(folder, lora=0)
    model = AdapterModel.beside(policy, lora=lora, lr=1e-1)
    old = policy.model.get_output_embeddings().weight.detach().clone()
    begin = model.token_logprobs([PLAIN])[0][0]
    torch.testing.assert_close(begin, logprob(policy.model, [5, 6, 7, 8, 9], 2))
    model.step(-begin.sum())
    assert model.token_logprobs([PLAIN])[0][0].sum() > begin.sum()
    assert torch.equal(policy.model.get_output_embeddings().weight, old)


def test_a_new_adapter_comes_from_its_seed_and_leaves_the_global_generator_alone(folder: Path):
    policy = Policy(folder)
    torch.manual_seed(11)
    before = torch.get_rng_state()
    a, b, c = (AdapterModel.beside(policy, lora=2, lr=1e-3, seed=seed).state_dict()["weights"] for seed in (0, 0, 1))
    AdapterModel.beside(policy, lr=1e-3)
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(a[n], b[n]) for n in a)
    assert any(not torch.equal(a[n], c[n]) for n in a)


def test_modes_are_left_as_they_were(folder: Path):
    policy = Policy(folder)
    policy.model.train()
    model = AdapterModel.beside(policy, lr=1e-3)
    model.step(torch.cat(model.token_logprobs([PLAIN])[0]).sum())
    assert policy.model.training
    assert not model.model.training


def test_saved_and_loaded_it_goes_on_bit_for_bit(folder: Path):
    def fresh() -> tuple[AdapterModel, Any]:
        model = AdapterModel.beside(Policy(folder), lr=1e-2)
        with torch.random.fork_rng():
            torch.manual_seed(5)
            return model, model.adopt(torch.nn.Linear(model.size, 1))

    def train(model: AdapterModel, head: Any) -> None:
        states = torch.cat(model.turn_states([PLAIN, FORKED]))
        model.step((head(states) - 1).square().sum() + torch.cat(model.token_logprobs([PLAIN])[0]).sum())

    whole = fresh()
    for _ in range(2):
        train(*whole)
    file = io.BytesIO()
    torch.save(whole[0].state_dict(), file)
    train(*whole)  # what was saved must not move with it
    file.seek(0)
    resumed = fresh()
    resumed[0].load_state_dict(torch.load(file, weights_only=True))
    train(*resumed)
    a, b = whole[0].state_dict(), resumed[0].state_dict()
    assert all(torch.equal(a["weights"][n], b["weights"][n]) for n in a["weights"])
    assert all(torch.equal(a["heads"][0][n], b["heads"][0][n]) for n in a["heads"][0])
    for state, other in zip(a["optimizer"]["state"].values(), b["optimizer"]["state"].values(), strict=True):
        assert all(torch.equal(state[k], other[k]) for k in state)


def test_a_state_that_was_handed_out_does_not_move(folder: Path):
    model = AdapterModel.beside(Policy(folder), lr=1e-2)
    model.step(torch.cat(model.token_logprobs([PLAIN])[0]).sum())
    state = model.state_dict()
    moments = [s["exp_avg"].clone() for s in state["optimizer"]["state"].values()]
    weights = {n: w.clone() for n, w in state["weights"].items()}
    model.step(torch.cat(model.token_logprobs([PLAIN])[0]).sum())
    assert all(torch.equal(weights[n], w) for n, w in state["weights"].items())
    kept = [s["exp_avg"] for s in state["optimizer"]["state"].values()]
    assert all(torch.equal(a, b) for a, b in zip(moments, kept, strict=True))


def test_reading_leaves_no_gradient_and_neither_does_a_step(folder: Path):
    model = AdapterModel.beside(Policy(folder), lr=1e-2)
    with torch.no_grad():
        assert not model.token_logprobs([PLAIN])[0][0].requires_grad
    model.step(torch.cat(model.token_logprobs([PLAIN])[0]).sum())
    assert all(p.grad is None for p in model.model.parameters())


def test_a_state_of_another_model_is_refused(folder: Path):
    model = AdapterModel.beside(Policy(folder), lr=1e-2)
    smaller = AdapterModel.beside(Policy(folder), lora=2, lr=1e-2).state_dict()
    with pytest.raises(ValueError, match=r"token model: the saved weights are of another model: .*expected \(4, 64\)"):
        model.load_state_dict(smaller)
    state = model.state_dict()
    model.adopt(torch.nn.Linear(model.size, 1))
    with pytest.raises(ValueError, match="expected 1 heads, got 0"):
        model.load_state_dict(state)


def test_a_gradient_that_is_not_finite_changes_no_weight(folder: Path):
    model = AdapterModel.beside(Policy(folder), lr=1e-2)
    before = model.state_dict()["weights"]
    with pytest.raises(ArithmeticError, match="token model: the gradient's norm is nan"):
        model.step(torch.cat(model.token_logprobs([PLAIN])[0]).sum() * float("nan"))
    assert all(torch.equal(w, before[n]) for n, w in model.state_dict()["weights"].items())


def test_a_rank_with_nothing_to_add_takes_the_step_too(folder: Path):
    assert AdapterModel.beside(Policy(folder), lr=1e-2).step(0.0) == {"grad_norm": 0.0}


def test_empty_and_broken_episodes(folder: Path):
    model = AdapterModel.beside(Policy(folder), lr=1e-2)
    assert model.token_logprobs([]) == []
    assert model.token_logprobs([Episode(id="none", stop=Stop.TERMINATED)]) == [[]]
    assert model.turn_states([Episode(id="none", stop=Stop.TERMINATED)])[0].shape == (0, model.size)
    silent = played((0, [5, 6], [7]), (3, [8], []), id="silent")
    assert [len(x) for x in model.token_logprobs([silent])[0]] == [1, 0]
    with pytest.raises(ContractError, match="episode silent, turn 1 has no sampled token, so it has no state"):
        model.turn_states([silent])
    with pytest.raises(ContractError, match="episode dead failed: it has no rows"):
        model.token_logprobs([played((0, [5], [6]), id="dead", stop=Stop.FAILED)])


def test_what_cannot_be_trained_is_refused(folder: Path):
    frozen = models.load(folder)[0].requires_grad_(False)
    with pytest.raises(ValueError, match="token model: nothing to train"):
        AdapterModel(frozen, lr=1e-3)
    with pytest.raises(ValueError, match=r"token model: expected float32 to train, got torch\.bfloat16"):
        AdapterModel(models.load(folder, dtype="bf16")[0], lr=1e-3)


def test_an_adapter_on_bf16_weights_is_trained_in_float32(folder: Path):
    model = AdapterModel(models.load(folder, dtype="bf16", lora=2)[0], lr=1e-2)
    out = model.turn_states([PLAIN])[0]
    assert out.dtype == torch.float32
    first = model.token_logprobs([PLAIN])[0][0].sum()
    for _ in range(3):
        model.step(-model.token_logprobs([PLAIN])[0][0].sum())
    assert model.token_logprobs([PLAIN])[0][0].sum() > first


METHODS: dict[str, Callable[[AdapterModel], Credit]] = {
    "spa": lambda m: SPA(token_model=m, beta=0.0),
    "oprl": lambda m: OPRL(token_model=m),
    "prime": lambda m: PRIME(token_model=m),
    "critic": lambda m: Critic(token_model=m),
    "turn_critic": lambda m: TurnCritic(token_model=m),
    "archer": lambda m: ArCHer(token_model=m),
    "agentprm": lambda m: AgentPRM(token_model=m),
    "sweet": lambda m: SWEET(token_model=m, privileged=lambda e: [40, 41]),
}


def attempts() -> list[Episode]:
    """A win and a loss of one group, in which somebody says where it is."""
    won = played((0, [5, 6, 7], [8, 9]), (5, [10, 11], [12]), id="won")
    lost = played((0, [5, 6, 7], [20, 21, 22]), (3, [30], [23, 24]), id="lost")
    lost.turns[-1].info["outcome"] = 0.0
    for e in (won, lost):
        e.info["state_key"] = "s"
        e.turns[0].info["state_key"] = e.id
    return [won, lost]


@pytest.mark.parametrize("name", METHODS)
def test_a_method_saved_loaded_and_fit_again_is_bit_for_bit_the_same_as_never_stopped(folder: Path, name: str):
    def method() -> tuple[Credit, AdapterModel]:
        model = AdapterModel.beside(Policy(folder), lr=1e-2)
        return METHODS[name](model), model

    def update(credit: Credit) -> None:
        groups = [attempts()]
        assign([credit], groups)
        credit.fit(groups)

    whole, model = method()
    before = model.state_dict()["weights"]
    update(whole)
    update(whole)
    file = io.BytesIO()
    torch.save(saved(whole), file)
    update(whole)
    file.seek(0)
    resumed, other = method()
    restore(resumed, torch.load(file, weights_only=True))
    update(resumed)
    assert str(saved(whole)) == str(saved(resumed))
    after, same = model.state_dict()["weights"], other.state_dict()["weights"]
    assert all(torch.equal(after[n], same[n]) for n in after)
    assert any(not torch.equal(after[n], before[n]) for n in after)


@pytest.mark.slow
def test_two_ranks_learn_what_one_learns_and_stay_equal(tmp_path: Path):
    script, path = str(Path(__file__).parent / "token_ranks.py"), tmp_path / "weights"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", script, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    weights, metrics = torch.load(path)
    alone, own = run()
    for name, w in alone.items():
        torch.testing.assert_close(weights[name], w, rtol=1e-3, atol=1e-5, msg=name)
    for one, other in zip(own, metrics, strict=True):
        assert one == pytest.approx(other, rel=1e-3)
