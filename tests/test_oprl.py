"""OPRL: log-ratios of a model that learns from pairs, and the sum of two pools."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from token_models import Bigram, Features, spoken

from milepost.credit import advantage, normalise
from milepost.credit.core import assign, restore, saved
from milepost.credit.made import episode
from milepost.credit.oprl import OPRL, istar, pairs, penalised, preference_losses, rescaled
from milepost.envs.core import ContractError, Episode

LOG_V = np.log(Bigram.vocab)


def trained(prm: OPRL, group: list[Episode], n: int = 10) -> list[float]:
    return [prm.fit([group])["credit/oprl/loss"] for _ in range(n)]


def test_a_turn_earns_beta_times_the_sum_of_its_tokens_log_ratios():
    # recorded at log-probability -log 16 each; the model's own are read with a plain softmax
    model = Bigram()
    e = spoken(1.0, [3, 4], [5])
    with torch.no_grad():
        own = [row.sum().item() for row in model.token_logprobs([e])[0]]
    (row,) = OPRL(token_model=model, beta=0.5).on_group([e])
    assert row == pytest.approx([0.5 * (own[0] + 2 * LOG_V), 0.5 * (own[1] + LOG_V)], abs=1e-6)


def test_tokens_earn_parts_that_sum_to_the_turns():
    model, e = Bigram(), spoken(1.0, [3, 4, 5], [6])
    (tokens,) = OPRL(token_model=model, unit="token").on_group([e])
    (turns,) = OPRL(token_model=model).on_group([e])
    assert [x.shape for x in tokens] == [(3,), (1,)]  # type: ignore[union-attr]
    assert [float(np.sum(x)) for x in tokens] == pytest.approx(turns)  # type: ignore[arg-type]


def test_a_model_that_is_the_policy_gives_zero():
    model = Bigram()
    assert OPRL(token_model=model).on_group([spoken(1.0, [3, 4], [5], model=model)]) == [[0.0, 0.0]]


def test_every_success_is_paired_with_every_failure_and_nothing_else():
    assert pairs([1.0, 0.0, 0.5, -1.0]) == [(0, 1), (0, 3), (2, 1), (2, 3)]
    assert pairs([1.0, 0.0, 0.5], threshold=0.5) == [(0, 1), (0, 2)]
    assert pairs([1.0, None, 0.0]) == [(0, 2)]
    assert pairs([1.0]) == pairs([0.0, 0.0]) == pairs([2.0, 1.0]) == pairs([]) == []


def test_graded_outcomes_are_paired_where_they_differ_by_more_than_the_margin():
    assert pairs([0.5, 0.75, 1.0], margin=0.25) == [(2, 0)]
    assert pairs([0.5, 0.75, 1.0], margin=0.0) == [(1, 0), (2, 0), (2, 1)]


def test_the_loss_and_its_gradient_are_those_of_bradley_and_terry():
    scores = torch.tensor([0.15, -0.045], dtype=torch.float64, requires_grad=True)
    (loss,) = preference_losses(scores, [(0, 1)])
    assert loss.item() == pytest.approx(0.600393, abs=1e-6)  # log(1 + exp(-0.195))
    loss.backward()
    # d/dQ+ -log sigmoid(d) = -sigmoid(-d) = -1 / (1 + exp(0.195))
    assert scores.grad is not None
    assert scores.grad.tolist() == pytest.approx([-1 / (1 + np.exp(0.195)), 1 / (1 + np.exp(0.195))])


def test_one_pair_moves_the_process_model():
    metrics = OPRL(token_model=Bigram()).fit([[spoken(1.0, [3, 4]), spoken(0.0, [5]), spoken(None)]])
    assert metrics["credit/oprl/grad_norm"] > 1e-4
    assert metrics["credit/oprl/pairs"] == 1.0


def test_the_loss_has_the_gradient_of_finite_differences():
    model = Bigram()
    prm = OPRL(token_model=model, beta=1.0)
    group = [spoken(1.0, [3, 4], [5]), spoken(0.0, [6]), spoken(0.0, [4, 4])]
    kept: list[Any] = []
    model.step = lambda loss: kept.append(loss) or {}  # type: ignore[assignment,func-returns-value,method-assign]
    prm.fit([group])
    kept[0].backward()
    weight = model.body["out"].weight
    for at in ((3, 0), (6, 3), (4, 7)):
        with torch.no_grad():
            losses = []
            for nudge in (1e-2, -2e-2, 1e-2):
                weight[at] += nudge
                losses.append(float(preference_losses(prm.scores(group), [(0, 1), (0, 2)]).mean()))
        assert float(weight.grad[at]) == pytest.approx((losses[0] - losses[1]) / 2e-2, abs=2e-3)


def test_ten_steps_on_a_pair_lower_its_loss_and_raise_the_winner():
    model = Bigram(lr=0.1)
    prm = OPRL(token_model=model, beta=0.5)
    group = [spoken(1.0, [3, 4], [5], model=model), spoken(0.0, [6], [7], model=model)]
    losses = trained(prm, group)
    assert losses[0] == pytest.approx(np.log(2), abs=1e-6)
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.5 * losses[0]
    won, lost = prm.on_group(group)
    assert min(won) > 0 > max(lost)  # type: ignore[type-var]


def test_without_a_pair_there_is_no_step():
    model = Bigram()
    prm = OPRL(token_model=model)
    for batch in ([], [[]], [[spoken(1.0, [3])]], [[spoken(1.0, [3]), spoken(1.0, [4])], [spoken(0.0, [5])]]):
        assert prm.fit(batch) == {"credit/oprl/pairs": 0.0}
    assert model.steps == 0


def test_a_rank_without_pairs_takes_the_step_that_others_take():
    model = Bigram()
    model.total = lambda number: number + 1.0  # type: ignore[method-assign]
    assert OPRL(token_model=model).fit([[spoken(1.0, [3])]])["credit/oprl/pairs"] == 1.0
    assert model.steps == 1


def test_the_loss_is_a_mean_over_pairs_of_the_batch_and_not_over_groups():
    model = Bigram()
    a = [spoken(1.0, [3]), spoken(0.0, [4]), spoken(0.0, [5])]
    b = [spoken(1.0, [6]), spoken(0.0, [7])]
    prm = OPRL(token_model=model, beta=1.0)
    with torch.no_grad():
        every = [*preference_losses(prm.scores(a), [(0, 1), (0, 2)]), *preference_losses(prm.scores(b), [(0, 1)])]
    assert prm.fit([a, b])["credit/oprl/loss"] == pytest.approx(float(sum(every)) / 3, abs=1e-6)


def test_a_mean_over_turns_is_the_sum_over_their_number():
    group = [spoken(1.0, [3], [4], [5])]
    total, mean = (OPRL(token_model=Bigram(), traj_score=how).scores(group) for how in ("sum", "mean"))  # type: ignore[arg-type]
    assert total[0].item() == pytest.approx(3 * mean[0].item())
    assert float(OPRL(token_model=Bigram(), traj_score="mean").scores([spoken(1.0)])[0]) == 0.0


def test_scores_are_from_before_the_step_and_scoring_leaves_no_gradient():
    model = Bigram()
    prm = OPRL(token_model=model)
    batch = [[spoken(1.0, [3]), spoken(0.0, [4])]]
    assign([prm], batch)
    before = [e.turns[0].credit["oprl"] for e in batch[0]]
    assert all(p.grad is None for p in model.parameters())
    prm.fit(batch)
    assert [e.turns[0].credit["oprl"] for e in batch[0]] == before
    assert prm.on_group(batch[0])[0][0] != before[0]


def test_saved_loaded_and_fit_again_is_the_same_as_never_stopped():
    group = [spoken(1.0, [3, 4]), spoken(0.0, [5])]
    whole = OPRL(token_model=Bigram())
    trained(whole, group, 2)
    state = saved(whole)
    trained(whole, group, 1)
    resumed = OPRL(token_model=Bigram(seed=4))
    restore(resumed, state)
    trained(resumed, group, 1)
    assert whole.on_group(group) == resumed.on_group(group)


def batch_of(outcomes: list[float], process: list[list[float | None]]) -> list[list[Episode]]:
    return [[episode(o, credit={"oprl": p}) for o, p in zip(outcomes, process, strict=True)]]


def adv(groups: list[list[Episode]], **options: Any) -> Any:
    return istar(groups, advantage.rewards(groups), **options)


def test_the_step_baseline_is_the_mean_of_all_turns_and_not_of_the_first_ones():
    # all turns: mean of 1, 5, 2, 4 is 3; first turns alone: 1.5
    groups = batch_of([1.0, 1.0], [[1.0, 5.0], [2.0, 4.0]])
    assert adv(groups, normaliser=normalise.center)[0] == [[-2.0, 2.0], [-1.0, 1.0]]


def test_outcomes_count_once_an_attempt_however_many_turns_it_has():
    # rloo of 1 and 0 is +1 and -1; of the five turn rows it would be otherwise
    groups = batch_of([1.0, 0.0], [[0.0], [0.0, 0.0, 0.0, 0.0]])
    assert adv(groups, normaliser=normalise.rloo)[0] == [[1.0], [-1.0] * 4]


def test_alpha_weighs_the_process_alone():
    groups = batch_of([1.0, 0.0], [[1.0], [0.0]])
    assert adv(groups, normaliser=normalise.center, alpha=3.0)[0] == [[2.0], [-2.0]]


def test_where_all_failed_the_process_still_acts():
    groups = batch_of([0.0, 0.0], [[1.0], [3.0]])
    assert adv(groups, normaliser=normalise.center)[0] == [[-1.0], [1.0]]


def test_merged_normalises_the_sum_once():
    # 1 + 2 * (0.5 + 0.5) = 3 and 0 + 2 * 0.5 = 1
    groups = batch_of([1.0, 0.0], [[0.5, 0.5], [0.5]])
    assert adv(groups, normaliser=normalise.center, alpha=2.0, merged=True)[0] == [[1.0, 1.0], [-1.0]]


def test_a_group_of_one_and_equal_turns_get_exactly_zero():
    assert adv(batch_of([1.0], [[0.3]])) == [[[0.0]]]
    assert adv(batch_of([1.0, 1.0], [[0.3, 0.3], [0.3]]))[0] == [[0.0, 0.0], [0.0]]


def test_a_turn_that_was_not_judged_enters_no_pool_and_one_that_earned_zero_does():
    unjudged = adv(batch_of([0.0, 0.0], [[None, 3.0], [1.0]]), normaliser=normalise.center)[0]
    assert unjudged == [[0.0, 1.0], [-1.0]]
    judged = adv(batch_of([0.0, 0.0], [[0.0, 3.0], [0.0]]), normaliser=normalise.center)[0]
    assert judged == [[-1.0, 2.0], [-1.0]]


def test_rewards_per_token_are_pooled_by_their_sum_over_the_turn():
    groups = [
        [episode(0.0, n_tokens=[2], credit={"oprl": [np.array([1.0, 2.0], "f")]}), episode(0.0, credit={"oprl": [1.0]})]
    ]
    assert adv(groups, normaliser=normalise.center)[0] == [[1.0], [-1.0]]


def test_the_token_variant_pools_tokens_and_gives_each_its_own():
    def told(outcome: float, *rows: list[float]) -> Episode:
        return episode(outcome, n_tokens=[len(r) for r in rows], credit={"oprl": [np.array(r, "f") for r in rows]})

    # tokens 1 3 | 2 and 2: mean 2; outcomes 1 and 0: +-1/2
    groups = [[told(1.0, [1.0, 3.0], [2.0]), told(0.0, [2.0])]]
    won, lost = adv(groups, normaliser=normalise.center, unit="token")[0]
    assert [x.tolist() for x in won] == [[-0.5, 1.5], [0.5]]
    assert [x.tolist() for x in lost] == [[-0.5]]
    # the largest sum to a turn's end is 1 + 3
    scaled, _ = adv(groups, normaliser=normalise.center, unit="token", rescale=True)[0]
    assert scaled[0] == pytest.approx([0.25, 0.75], abs=1e-5)
    with pytest.raises(ContractError, match="istar needs credit 'oprl' per token"):
        adv([[episode(1.0, n_tokens=[1], credit={"oprl": [0.5]})]], unit="token")
    assert adv([], unit="token") == []
    assert istar([[]], [[]], unit="token") == [[]]


def test_rescaling_divides_by_the_largest_of_the_whole_batch():
    table = rescaled([[[1.0, None]], [[-4.0]]])
    assert table[0][0][0] == pytest.approx(0.25, abs=1e-6)
    assert table[0][0][1] is None
    assert table[1][0][0] == pytest.approx(-1.0, abs=1e-6)
    groups = [*batch_of([0.0, 0.0], [[1.0], [3.0]]), *batch_of([0.0], [[6.0]])]
    assert adv(groups, normaliser=normalise.center, rescale=True)[0][1][0] == pytest.approx(1 / 6, abs=1e-6)


def test_an_invalid_move_costs_its_own_turn():
    groups = [[episode(1.0, valid=[True, False]), episode(0.0, valid=[False])]]
    assert penalised(groups, 0.25) == [[[1.0, 0.75], [-0.25]]]


def test_the_advantage_can_be_written():
    groups = batch_of([1.0, 0.0], [[0.5, 0.5], [0.5]])
    advantage.write(groups, adv(groups))
    assert groups[0][0].turns[0].advantage == pytest.approx(2**-0.5, abs=1e-5)
    assert adv([]) == []


def test_what_is_missing_is_named():
    with pytest.raises(ContractError, match="oprl needs a token_model: the recipe gives it"):
        OPRL()
    with pytest.raises(ContractError, match=r"oprl needs tokens: episode 'e', turn 0 has none"):
        OPRL(token_model=Bigram()).on_group([episode(1.0)])
    cloned = spoken(1.0, [3])
    assert cloned.turns[0].action.tokens is not None
    cloned.turns[0].action.tokens.logprobs[:] = np.nan
    with pytest.raises(ContractError, match="oprl needs the sampler's logprobs: episode 'e', turn 0 has nan"):
        OPRL(token_model=Bigram()).on_group([cloned])
    with pytest.raises(ContractError, match="no turn has credit 'oprl'"):
        adv([[episode(1.0)]])
    with pytest.raises(ContractError, match=r"oprl's penalty needs info\['valid'\] at steps; my/Env-v0 gave none"):
        penalised([[episode(1.0)]])
    with pytest.raises(ContractError, match="istar needs an outcome; episode 'e' has none"):
        istar([[episode(None, credit={"oprl": [1.0]})]], [[[1.0]]])
    with pytest.raises(ValueError, match=r"istar: rewards: expected a number for every turn, \[\[1\]\], got \[\]"):
        istar(batch_of([1.0], [[0.5]]), [])
    with pytest.raises(ValueError, match="oprl: unit: expected 'turn' or 'token', got 'word'"):
        OPRL(token_model=Bigram(), unit="word")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="oprl: traj_score: expected 'sum' or 'mean', got 'max'"):
        OPRL(token_model=Bigram(), traj_score="max")  # type: ignore[arg-type]


def test_an_empty_group_and_an_episode_without_turns_have_nothing_to_earn():
    assert OPRL(token_model=Bigram()).on_group([]) == []
    assert OPRL(token_model=Bigram()).on_group([spoken(None)]) == [[]]
    assert Features(lambda e: [], 1).turn_states([spoken(None)])[0].shape == (0, 1)
