"""Models of what was expected of a state: PPO's critic, turn-PPO, ArCHer, AgentPRM, SWEET."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from token_models import Bigram, Features, spoken

from milepost.credit import advantage
from milepost.credit.core import Credit, assign, restore, saved
from milepost.credit.made import episode
from milepost.credit.peers.agentprm import AgentPRM
from milepost.credit.peers.archer import ArCHer, as_is, follow, q_targets
from milepost.credit.peers.ppo import Critic, value_losses
from milepost.credit.peers.sweet import SWEET, prefixed
from milepost.credit.peers.turn_ppo import TurnCritic
from milepost.envs.core import ContractError, Episode

NAN = float("nan")


# the critics


def batch() -> list[list[Episode]]:
    return [[spoken(1.0, [3, 4], [5]), spoken(0.0, [6, 7, 8])], [spoken(0.0, [9])]]


def make(kind: Any, seed: int = 0, **options: Any) -> Any:
    return kind(token_model=Bigram(seed=seed), **options)


def written(critic: Credit) -> list[list[Episode]]:
    groups = batch()
    assign([critic], groups)
    return groups


@pytest.mark.parametrize("kind", [Critic, TurnCritic])
def test_a_value_has_not_seen_the_token_or_turn_it_is_of(kind):
    critic = make(kind)
    torch.nn.init.normal_(critic.head.weight, generator=torch.Generator().manual_seed(0))
    rows: Any = critic.on_group([spoken(1.0, [3, 4]), spoken(1.0, [7, 5])])
    first = [np.atleast_1d(row[0])[0] for row in rows]
    assert first[0] == first[1] != 0.0


def test_values_come_one_a_token_or_one_a_turn():
    (row,) = make(Critic).on_group([spoken(1.0, [3, 4], [5])])
    assert [x.shape for x in row] == [(2,), (1,)]
    assert make(TurnCritic).on_group([spoken(1.0, [3, 4], [5])]) == [[0.0, 0.0]]


@pytest.mark.parametrize("kind", [Critic, TurnCritic, ArCHer])
def test_values_are_no_reward(kind):
    critic = make(kind)
    groups = written(critic)
    assert advantage.rewards(groups, [critic]) == advantage.rewards(groups)


@pytest.mark.parametrize("kind", [Critic, TurnCritic])
def test_a_critic_learns_what_to_expect(kind):
    critic = kind(token_model=Bigram(lr=0.1), lam=1.0)
    group = [spoken(1.0, [3, 4], [5], context=2), spoken(0.0, [6, 7, 8], context=10)]
    metrics = []
    for _ in range(40):
        for turn in (turn for e in group for turn in e.turns):
            turn.credit.clear()
        assign([critic], [group])
        metrics.append(critic.fit([group]))
    key = f"credit/{critic.name}"
    assert metrics[-1][f"{key}/loss"] < 0.1 * metrics[0][f"{key}/loss"]
    assert metrics[0][f"{key}/explained"] < 0.0 < 0.9 < metrics[-1][f"{key}/explained"]


def test_the_first_targets_are_the_returns_under_the_written_values():
    critic = make(Critic, lam=1.0, outcome=2.0)
    targets, old = critic._targets(written(critic))
    assert targets == pytest.approx([2.0] * 3 + [0.0] * 4)
    assert old == [0.0] * 7
    turns = make(TurnCritic, gamma=0.5, lam=1.0)
    assert turns._targets(written(turns))[0] == pytest.approx([0.5, 1.0, 0.0, 0.0])


def test_kl_is_part_of_what_a_critic_learns_to_expect():
    critic = make(Critic, lam=1.0, kl=0.5)
    groups = written(critic)
    for e in (e for g in groups for e in g):
        for turn in e.turns:
            assert turn.action.tokens is not None
            turn.put("kl", np.full(len(turn.action.tokens.ids), -0.1, "f"))
    assert critic._targets(groups)[0][:3] == pytest.approx([0.85, 0.9, 0.95])


def test_process_rewards_are_part_of_what_a_critic_learns_to_expect():
    critic = make(TurnCritic, rewards=["bonus"], lam=1.0)
    groups = written(critic)
    for turn in (turn for g in groups for e in g for turn in e.turns):
        turn.put("bonus", 0.25)
    assert critic._targets(groups)[0] == pytest.approx([1.5, 1.25, 0.25, 0.25])


def test_a_clipped_value_has_the_larger_loss_and_no_gradient_beyond():
    values = torch.tensor([0.5, 0.5], requires_grad=True)
    losses = value_losses(values, torch.tensor([1.0, 0.0]), torch.tensor([0.0, 0.0]), clip=0.2)
    # to 1: (.5 - 1)^2 = .25 against (.2 - 1)^2 = .64; to 0: .25 against .04
    assert losses.tolist() == pytest.approx([0.32, 0.125])
    losses.sum().backward()
    assert values.grad is not None
    assert values.grad.tolist() == pytest.approx([0.0, 0.5])
    assert value_losses(torch.tensor([0.5]), torch.tensor([1.0]), torch.tensor([0.0])).tolist() == [0.125]


@pytest.mark.parametrize("kind", [Critic, TurnCritic, ArCHer])
def test_the_loss_of_a_critic_has_the_gradient_of_finite_differences(kind):
    critic = make(ArCHer, polyak=0.0) if kind is ArCHer else make(kind)
    heads = list(critic.heads.values()) if kind is ArCHer else [critic.head]
    for i, head in enumerate(heads):
        torch.nn.init.normal_(head.weight, generator=torch.Generator().manual_seed(i))
    groups = written(critic)
    weight, kept = critic.model.body["embed"].weight, []
    critic.model.step = lambda loss: kept.append(loss) or {}
    critic.fit(groups)
    kept[0].backward()
    grad = weight.grad.clone()
    for at in ((1, 0), (3, 2), (6, 5)):
        losses = []
        for nudge in (1e-2, -1e-2):
            with torch.no_grad():
                weight[at] += nudge
            if kind is ArCHer:
                losses.append(_archer_loss(critic, groups, fixed=-nudge, at=at))
            else:
                critic.fit(groups)
                losses.append(float(kept[-1].detach()))
            with torch.no_grad():
                weight[at] -= nudge
        assert float(grad[at]) == pytest.approx((losses[0] - losses[1]) / 2e-2, abs=3e-3)


def _archer_loss(critic: ArCHer, groups: list[list[Episode]], fixed: float, at: tuple[int, int]) -> float:
    """The loss with targets from the weights before the nudge: targets carry no gradient."""
    episodes = [e for g in groups for e in g]
    weight = critic.model.body["embed"].weight  # type: ignore[attr-defined]
    with torch.no_grad():
        q1, q2, v = critic._read(critic.heads, *critic._states(episodes))
        weight[at] += fixed
        old1, old2, old_v = critic._read(critic.targets, *critic._states(episodes))
        weight[at] -= fixed
    done = torch.tensor([0.0, 1.0, 1.0, 1.0])
    target = q_targets(torch.tensor([0.0, 1.0, 0.0, 0.0]), old_v.roll(-1), done, critic.gamma)
    every = (q1 - target) ** 2 + (q2 - target) ** 2 + (v - torch.minimum(old1, old2)) ** 2
    return float(every.sum() / 4)


@pytest.mark.parametrize("kind", [Critic, TurnCritic, ArCHer])
def test_saved_loaded_and_fit_again_is_the_same_as_never_stopped(kind):
    whole = make(kind)
    for _ in range(2):
        whole.fit(written(whole))
    state = saved(whole)
    whole.fit(written(whole))
    resumed = make(kind, seed=5)
    restore(resumed, state)
    resumed.fit(written(resumed))
    assert all(torch.equal(a, b) for a, b in zip(whole.model.parameters(), resumed.model.parameters(), strict=True))
    one, other = (np.concatenate([np.atleast_1d(x) for x in c.on_group(batch()[0])[0]]) for c in (whole, resumed))
    assert np.array_equal(one, other)
    assert one.any()


@pytest.mark.parametrize("kind", [Critic, TurnCritic, ArCHer])
def test_reading_leaves_no_gradient_and_nothing_scored_takes_no_step(kind):
    critic = make(kind)
    critic.on_group(batch()[0])
    assert all(p.grad is None for p in critic.model.parameters())
    assert critic.fit([]) == critic.fit([[]]) == critic.fit([[spoken(None, [3])]]) == {}
    assert critic.model.steps == 0
    assert critic.on_group([]) == []
    assert critic.on_group([spoken(None)]) == [[]]


@pytest.mark.parametrize("kind", [Critic, TurnCritic, ArCHer])
def test_a_critic_without_model_says_who_gives_it(kind):
    with pytest.raises(ContractError, match=f"{kind.name} needs a token_model: the recipe gives it"):
        kind()


def test_a_critic_that_was_not_asked_first_says_so():
    with pytest.raises(ContractError, match="critic needs credit 'critic' per token"):
        make(Critic).fit(batch())
    with pytest.raises(ValueError, match="turn_critic: kl: expected 0"):
        make(TurnCritic, kl=0.1).fit(batch())


# ArCHer


def test_an_utterances_number_is_the_lesser_q_less_the_value():
    archer = make(ArCHer)
    with torch.no_grad():
        for head, bias in zip(archer.heads.values(), (0.5, 0.6, 0.45), strict=True):
            head.weight.zero_()
            head.bias.fill_(bias)
    assert archer.on_group([spoken(1.0, [3])])[0] == pytest.approx([0.05])


def test_the_last_turn_has_no_next_value():
    assert q_targets(1.0, 0.8, 1.0, 0.9) == 1.0
    assert q_targets(0.0, 0.8, 0.0, 0.9) == pytest.approx(0.72)


def test_the_twins_differ_and_v_begins_at_zero():
    archer = make(ArCHer)
    assert not torch.equal(archer.heads["q1"].weight, archer.heads["q2"].weight)
    assert not archer.heads["v"].weight.any()


def test_targets_follow_a_tenth_of_the_way():
    old, new = torch.nn.Linear(1, 1), torch.nn.Linear(1, 1)
    with torch.no_grad():
        old.weight.fill_(0.0)
        new.weight.fill_(1.0)
    follow(old, new, 0.1)
    assert old.weight.item() == pytest.approx(0.1)
    archer = make(ArCHer)
    before = archer.targets["q1"].weight.clone()
    archer.fit(batch())
    head = archer.heads["q1"].weight
    torch.testing.assert_close(archer.targets["q1"].weight, before + 0.1 * (head - before))


def test_archer_learns_which_utterance_wins():
    archer = ArCHer(token_model=Bigram(lr=0.05), polyak=0.5, n_steps=4)
    group = [spoken(1.0, [3, 4]), spoken(0.0, [6, 7])]
    for _ in range(60):
        archer.fit([group])
    (won,), (lost,) = archer.on_group(group)
    assert won > 0.2  # type: ignore[operator]
    assert lost < -0.2 or won - lost > 0.5  # type: ignore[operator]


def test_an_advantage_is_taken_as_it_is():
    e = episode(1.0, n_turns=2, credit={"archer": [0.25, 0.0]})
    assert as_is([[e]], [[[0.0, 1.0]]]) == [[[0.25, 0.0]]]
    with pytest.raises(ContractError, match="as_is needs credit 'sweet' per turn"):
        as_is([[e]], [[[0.0, 1.0]]], "sweet")


# AgentPRM


def walks(*walks: tuple[float | None, str, str]) -> list[Episode]:
    """Attempts (outcome, states, actions), a letter each."""
    return [episode(o, state_key=list(s), texts=list(a), id=f"e{i}") for i, (o, s, a) in enumerate(walks)]


def test_the_table_is_the_mean_discounted_outcome_of_who_took_the_action_there():
    # (x, a): attempt 0 at turn 0 of 2: .5 * 1; attempt 1 at turn 0 of 1: 0 -> .25. (y, b): 1. (x, c): 1.
    group = walks((1.0, "xyz", "ab"), (0.0, "xz", "a"), (1.0, "xz", "c"))
    assert AgentPRM(gamma=0.5).on_group(group) == [[0.25, 1.0], [0.25], [1.0]]


def test_the_same_action_in_another_state_is_another_entry():
    group = walks((1.0, "xz", "a"), (0.0, "yz", "a"))
    assert AgentPRM().on_group(group) == [[1.0], [0.0]]


def test_an_attempt_that_passes_twice_counts_twice():
    # gamma .5: (x, a) at turns 0 and 1 of a win: (.5 + 1) / 2
    assert AgentPRM(gamma=0.5).on_group(walks((1.0, "xxz", "aa"))) == [[0.75, 0.75]]


def test_a_scorer_learns_the_table_and_says_it_of_new_turns():
    features = {"a": [1.0, 0.0], "b": [0.0, 1.0]}
    model = Features(lambda e: [features[t.action.text] for t in e.turns], 2, lr=0.1)
    prm = AgentPRM(token_model=model)
    group = walks((1.0, "xz", "a"), (0.0, "xz", "b"))
    assert prm.on_group(group) == [[0.0], [0.0]]
    errors = [prm.fit([group])["credit/agentprm/mse"] for _ in range(100)]
    assert errors[-1] < 0.01 * errors[0]
    assert prm.on_group(walks((None, "xz", "a")))[0] == pytest.approx([1.0], abs=0.1)
    assert prm.fit([]) == {}


def test_without_model_there_is_nothing_to_train_or_save():
    prm = AgentPRM()
    assert prm.fit([walks((1.0, "xz", "a"))]) == prm.state_dict() == {}
    assert prm.on_group([]) == []


def test_what_the_table_needs_is_named():
    with pytest.raises(ContractError, match=r"agentprm needs info\['state_key'\] from reset; my/Env-v0 gave none"):
        AgentPRM().on_group([episode(1.0)])
    with pytest.raises(ContractError, match="agentprm needs an outcome; episode 'e0' has none"):
        AgentPRM().on_group(walks((None, "xz", "a")))


# SWEET


def test_a_turns_number_is_the_mean_over_its_tokens():
    model = Bigram()
    e = spoken(1.0, [3, 4], [5])
    with torch.no_grad():
        own = model.token_logprobs([e])[0]
    (row,) = SWEET(token_model=model, privileged=lambda e: []).on_group([e])
    log_v = np.log(Bigram.vocab)
    assert row == pytest.approx([own[0].mean().item() + log_v, own[1].mean().item() + log_v], abs=1e-6)


def test_the_critic_reads_the_hidden_text_before_the_first_row_and_the_episode_is_unchanged():
    from milepost.agents.samples import to_samples

    e = spoken(1.0, [3, 4], [5], context=2)
    seen = prefixed(e, [11, 12])
    assert to_samples(seen)[0].ids.tolist() == [11, 12, 2, 3, 4, 2, 5]
    assert to_samples(e)[0].ids.tolist() == [2, 3, 4, 2, 5]
    assert to_samples(seen)[0].turn.tolist() == [-1, -1, -1, 0, 0, -1, 1]


def test_a_fork_keeps_the_hidden_text():
    from milepost.agents.samples import to_samples

    e = spoken(1.0, [3, 4], [5], context=2)
    assert e.turns[1].action.tokens is not None
    e.turns[1].action.tokens.keep = 1
    assert [s.ids.tolist() for s in to_samples(prefixed(e, [11]))] == [[11, 2, 3, 4], [11, 2, 2, 5]]


def test_what_is_hidden_can_change_what_a_turn_is_worth():
    e = spoken(1.0, [3])
    assert e.turns[0].action.tokens is not None
    e.turns[0].action.tokens.context = e.turns[0].action.tokens.context[:0]
    numbers = [SWEET(token_model=Bigram(), privileged=lambda e, i=i: [i]).on_group([e])[0][0] for i in (4, 5)]
    assert numbers[0] != numbers[1]


def test_sweet_learns_from_pairs_and_takes_no_step_without():
    model = Bigram(lr=0.1)
    sweet = SWEET(token_model=model, privileged=lambda e: [7], beta=1.0)
    assert sweet.fit([[spoken(1.0, [3])], []]) == {"credit/sweet/pairs": 0.0}
    assert model.steps == 0
    group = [spoken(1.0, [3, 4]), spoken(0.0, [5, 6])]
    losses = [sweet.fit([[*group, spoken(None)]])["credit/sweet/loss"] for _ in range(10)]
    assert losses == sorted(losses, reverse=True)
    (won,), (lost,) = sweet.on_group(group)
    assert won > lost  # type: ignore[operator]
    assert sweet.on_group([]) == []


def test_sweet_says_what_it_needs():
    with pytest.raises(ContractError, match="sweet needs a token_model"):
        SWEET(privileged=lambda e: [])
    with pytest.raises(ContractError, match="sweet needs privileged: the recipe gives it"):
        SWEET(token_model=Bigram())
