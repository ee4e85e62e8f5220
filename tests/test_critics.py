"""What was expected of a state, and the advantages made of it: PPO, turn-PPO, bi-level GAE, ArCHer, AgentPRM, SWEET."""

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
from milepost.credit.peers.bilevel_gae import bilevel, bilevel_gae
from milepost.credit.peers.ppo import Critic, ppo, value_losses
from milepost.credit.peers.sweet import SWEET, prefixed
from milepost.credit.peers.turn_ppo import TurnCritic, turn_ppo
from milepost.credit.returns import gae, token_gae
from milepost.credit.tokens import placed, whitened
from milepost.envs.core import ContractError, Episode, Stop

NAN = float("nan")
LABELS = {"critic": Critic, "turn_critic": TurnCritic, "archer": ArCHer}


def valued(outcome: float, *values: list[float], stop: Stop = Stop.TERMINATED, **credit: Any) -> Episode:
    """An episode whose turns have a critic's value per token."""
    rows = {k: [np.array(x, "f") for x in v] for k, v in credit.items()}
    e = episode(
        outcome,
        n_tokens=[len(v) for v in values],
        credit={"critic": [np.array(v, "f") for v in values], **rows},
        stop=stop,
    )
    e.id = "e"
    return e


def flat(row: Any) -> list[float]:
    return [float(x) for a in row for x in a]


# per token


def test_a_turns_reward_lies_on_its_last_token_and_the_trace_runs_over_all_turns():
    # gamma 1, lambda 0.5; tokens: V = .2 .4 | .6, r = 0 0 1
    # delta = .2, .2, .4; A2 = .4, A1 = .2 + .5*.4 = .4, A0 = .2 + .5*.4 = .4
    e = valued(1.0, [0.2, 0.4], [0.6])
    (row,) = ppo([[e]], advantage.rewards([[e]]), lam=0.5, whiten=False)[0]
    assert [a.shape for a in row] == [(2,), (1,)]
    assert flat(row) == pytest.approx([0.4, 0.4, 0.4])


def test_process_rewards_lie_on_their_own_turns_last_token():
    e = valued(0.0, [0.0, 0.0], [0.0])
    (row,) = ppo([[e]], [[[1.0, 2.0]]], gamma_token=0.5, lam=1.0, whiten=False)[0]
    # r = 0 1 2: 0 + .5*1 + .25*2, 1 + .5*2, 2
    assert flat(row) == pytest.approx([1.0, 2.0, 2.0])


def test_a_turn_that_was_not_judged_adds_nothing_and_one_that_earned_zero_ends_all_the_same():
    e = valued(0.0, [0.5], [0.25])
    unjudged, zero = (ppo([[e]], [[[r, 1.0]]], whiten=False)[0][0] for r in (None, 0.0))
    assert flat(unjudged) == flat(zero)


def test_kl_is_charged_token_by_token_inside_the_reward():
    e = valued(1.0, [0.0, 0.0], [0.0], kl=[[0.1, -0.2], [0.3]])
    (row,) = ppo([[e]], advantage.rewards([[e]]), lam=1.0, kl=0.5, whiten=False)[0]
    # r = .05, -.1, .15 + 1
    assert flat(row) == pytest.approx([1.1, 1.05, 1.15])
    assert placed([1.0], [1], [1, 1, 0], [0.1, 0.1, 9.0], 1.0).tolist() == pytest.approx([0.1, 1.1, 0.0])


def test_it_is_token_gae_of_the_whole_row():
    rng = np.random.default_rng(0)
    values = [rng.normal(size=n).tolist() for n in (3, 1, 4)]
    e = valued(0.5, *values)
    (row,) = ppo([[e]], [[[0.1, -0.2, 0.5]]], gamma_token=0.9, lam=0.8, whiten=False)[0]
    reward = [0, 0, 0.1, -0.2, 0, 0, 0, 0.5]
    expected, _ = token_gae(
        reward, np.array([x for row in values for x in row], np.float32), np.ones(8, bool), gamma=0.9, lam=0.8
    )
    assert flat(row) == pytest.approx(expected.tolist())


def test_advantages_are_whitened_over_all_tokens_of_the_batch():
    groups = [[valued(1.0, [0.2, 0.4], [0.6]), valued(0.0, [0.3])], [valued(0.5, [0.1])]]
    table = ppo(groups, advantage.rewards(groups))
    pool = np.concatenate([a for g in table for row in g for a in row])
    assert pool.mean() == pytest.approx(0.0, abs=1e-12)
    assert pool.std(ddof=1) == pytest.approx(1.0, abs=1e-6)
    advantage.write(groups, table)
    assert groups[0][0].turns[0].advantage is not None
    # 1 and 3: deviation sqrt(2), so -+ 1 / sqrt(2)
    assert whitened([[[1.0, np.array([3.0])]]])[0][0][0] == pytest.approx(-(0.5**0.5))


def test_one_token_or_equal_ones_are_whitened_to_zero():
    assert whitened([[[3.0]]]) == [[[0.0]]]
    assert whitened([[[3.0, 3.0]], [[3.0]]]) == [[[0.0, 0.0]], [[0.0]]]
    assert whitened([]) == whitened([[]])[:0] == []


@pytest.mark.parametrize("stop", [Stop.MAX_TURNS, Stop.MAX_TOKENS, Stop.TIMEOUT])
def test_a_cut_episode_ends_with_its_score_or_is_told_to_expect_as_much_as_before(stop):
    # V = .5, .8, r = 0, 1. last: A1 = 1 + .8 - .8 = 1, A0 = .8 - .5 + 1 = 1.3; zero: A1 = .2, A0 = .5
    cut, ended = valued(1.0, [0.5], [0.8], stop=stop), valued(1.0, [0.5], [0.8])
    rewards = advantage.rewards([[cut]])
    options: Any = {"lam": 1.0, "whiten": False}
    assert flat(ppo([[cut]], rewards, **options)[0][0]) == pytest.approx([0.5, 0.2])
    assert flat(ppo([[cut]], rewards, bootstrap="last", **options)[0][0]) == pytest.approx([1.3, 1.0])
    assert flat(ppo([[ended]], rewards, bootstrap="last", **options)[0][0]) == pytest.approx([0.5, 0.2])
    with pytest.raises(ValueError, match="bootstrap: expected 'zero' or 'last', got 'mean'"):
        ppo([[cut]], rewards, bootstrap="mean")  # type: ignore[arg-type]


def test_empty_batches_groups_and_episodes_have_no_advantages():
    nothing = Episode(id="none", stop=Stop.TERMINATED)
    for estimator in (ppo, bilevel_gae, turn_ppo):
        assert estimator([], []) == []
        assert estimator([[]], [[]]) == [[]]
        assert estimator([[nothing]], [[[]]]) == [[[]]]


@pytest.mark.parametrize("reward", [NAN, float("inf")])
def test_rewards_that_are_not_finite_are_named(reward):
    for estimator in (ppo, bilevel_gae):
        with pytest.raises(ContractError, match="episode 'e': expected finite rewards"):
            estimator([[valued(0.0, [0.1])]], [[[reward]]])
    with pytest.raises(ContractError, match="turn_ppo: episode 'e': expected finite rewards"):
        turn_ppo([[episode(0.0, credit={"turn_critic": [0.1]})]], [[[reward]]])


def test_a_missing_value_is_named():
    with pytest.raises(
        ContractError, match=r"ppo needs credit 'critic' per token \(a Critic gives it, assign writes it\)"
    ):
        ppo([[episode(1.0, n_tokens=[2])]], [[[1.0]]])
    with pytest.raises(ContractError, match="turn 0 has a number"):
        ppo([[episode(1.0, n_tokens=[2], credit={"critic": [0.5]})]], [[[1.0]]])
    with pytest.raises(ContractError, match=r"ppo needs tokens: episode 'e', turn 0 has none"):
        ppo([[episode(1.0)]], [[[1.0]]])
    with pytest.raises(ContractError, match=r"needs credit 'kl' per token \(samples.kl_credit writes it\)"):
        ppo([[valued(1.0, [0.5])]], [[[1.0]]], kl=0.1)
    with pytest.raises(ContractError, match=r"turn_ppo needs credit 'turn_critic' per turn \(a TurnCritic gives it"):
        turn_ppo([[episode(1.0)]], [[[1.0]]])
    with pytest.raises(ValueError, match=r"ppo: rewards: expected a number for every turn, \[\[1\]\], got \[\[2\]\]"):
        ppo([[valued(1.0, [0.5])]], [[[1.0, 2.0]]])


# per turn


def test_turn_advantages_by_hand():
    # r = 0, 1; V = .4, .6; gamma .9, lam .5: A1 = .4; A0 = .9*.6 - .4 + .45*.4 = .32
    e = episode(1.0, n_turns=2, credit={"turn_critic": [0.4, 0.6]})
    (row,) = turn_ppo([[e]], advantage.rewards([[e]]), gamma=0.9, lam=0.5, whiten=False)[0]
    assert row == pytest.approx([0.32, 0.4])
    assert all(isinstance(x, float) for x in row)


def test_turn_advantages_do_not_depend_on_how_many_tokens_a_turn_has():
    short, long = (episode(1.0, n_tokens=n, credit={"turn_critic": [0.4, 0.6]}) for n in ([1, 1], [50, 3]))
    groups = [[short], [long]]
    table = turn_ppo(groups, advantage.rewards(groups), whiten=False)
    assert table[0] == table[1]


def test_values_that_are_exactly_what_follows_leave_no_advantage():
    e = episode(1.0, n_turns=3, credit={"turn_critic": [1.0, 1.0, 1.0]})
    assert turn_ppo([[e]], advantage.rewards([[e]]), whiten=False) == [[[0.0, 0.0, 0.0]]]


# bi-level


def test_bilevel_by_hand_and_with_a_turn_that_earned_exactly_zero():
    # ends V = .3, .6, r = 0, 1, gamma .95: A = .95*.6 - .3 + .95*.4 = .65 and .4: turn returns .95, 1
    # inside turn 0: end .95 - .3 = .65; first token .3 - .1 + .65 = .85
    e = valued(1.0, [0.1, 0.3], [0.4, 0.6])
    (row,) = bilevel_gae([[e]], advantage.rewards([[e]]), whiten=False)[0]
    assert flat(row) == pytest.approx([0.85, 0.65, 0.6, 0.4])


def test_within_a_turn_nothing_of_the_next_turns_tokens_is_seen():
    a, b = valued(1.0, [0.1, 0.3], [0.4, 0.6]), valued(1.0, [0.1, 0.3], [-9.0, 0.6])
    table = bilevel_gae([[a], [b]], [[[0.0, 1.0]]] * 2, whiten=False)
    assert flat(table[0][0])[:2] == flat(table[1][0])[:2]


def test_turns_of_one_token_are_turn_level_gae():
    values, rewards = [0.3, 0.1, 0.5], [0.2, 0.0, 1.0]
    advantages, returns = bilevel(rewards, values, [1, 1, 1], [0, 1, 2], gamma_turn=0.9, lam=0.7)
    expected = gae(rewards, values, gamma=0.9, lam=0.7)
    assert advantages.tolist() == pytest.approx(expected.tolist())
    assert returns.tolist() == pytest.approx((expected + values).tolist())


def test_bilevel_expects_something_after_a_cut_episode_only_where_told():
    cut = valued(0.0, [0.5], stop=Stop.MAX_TURNS)
    assert flat(bilevel_gae([[cut]], [[[0.0]]], whiten=False)[0][0]) == [-0.5]
    assert flat(bilevel_gae([[cut]], [[[0.0]]], bootstrap="last", whiten=False)[0][0]) == pytest.approx([-0.025])


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
    with pytest.raises(
        ContractError, match=r"agentprm needs info\['state_key'\] at reset and steps; my/Env-v0 gave none"
    ):
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
