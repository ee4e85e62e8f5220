"""PRIME: token rewards of a model that predicts who won, and returns of two centred parts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from token_models import Bigram, spoken

from milepost.credit import advantage
from milepost.credit.core import assign, restore, saved
from milepost.credit.made import episode
from milepost.credit.peers.prime import PRIME, centred_tokens, prime_rloo
from milepost.envs.core import ContractError, Episode, Stop


def told(outcome: float, *rows: list[float] | None) -> Episode:
    """An episode whose tokens earned these; None: a turn of one token that was not judged."""
    values = [None if r is None else np.array(r, "f") for r in rows]
    return episode(outcome, n_tokens=[1 if r is None else len(r) for r in rows], credit={"prime": values})


def adv(groups: list[list[Episode]], **options: Any) -> Any:
    return prime_rloo(groups, advantage.rewards(groups), **{"whiten": False, "process": 1.0, "outcome": 1.0, **options})


def flat(row: Any) -> list[float]:
    return [float(x) for a in row for x in a]


def test_a_token_earns_beta_times_its_log_ratio():
    model, e = Bigram(), spoken(1.0, [3, 4], [5])
    with torch.no_grad():
        own = model.token_logprobs([e])[0]
    (row,) = PRIME(token_model=model, beta=0.5).on_group([e])
    for got, x in zip(row, own, strict=True):
        assert got == pytest.approx(0.5 * (x.numpy() + np.log(Bigram.vocab)), abs=1e-6)


def test_the_reference_can_be_another_than_the_sampler():
    model, e = Bigram(), spoken(1.0, [3, 4])
    (sampler,) = PRIME(token_model=model, beta=1.0).on_group([e])
    e.turns[0].put("kl", np.array([0.25, -0.5], "f"))  # log p_ref - log p_old
    (reference,) = PRIME(token_model=model, beta=1.0, reference="kl").on_group([e])
    assert np.asarray(sampler[0]) - np.asarray(reference[0]) == pytest.approx(np.array([0.25, -0.5]), abs=1e-6)
    with pytest.raises(ContractError, match=r"prime: no credit 'kl': samples\.kl_credit writes it"):
        PRIME(token_model=model, reference="kl").on_group([spoken(1.0, [3])])


def test_the_loss_has_the_gradient_of_finite_differences():
    model = Bigram()
    prime = PRIME(token_model=model, beta=1.0)
    group = [spoken(1.0, [3, 4], [5]), spoken(0.0, [6])]
    kept: list[Any] = []
    model.step = lambda loss: kept.append(loss) or {}  # type: ignore[assignment,func-returns-value,method-assign]
    prime.fit([group])
    kept[0].backward()
    weight = model.body["out"].weight
    grad = weight.grad.clone()
    for at in ((3, 0), (6, 3), (5, 7)):
        losses = []
        for nudge in (1e-2, -1e-2):
            with torch.no_grad():
                weight[at] += nudge
            losses.append(prime.fit([group])["credit/prime/loss"])
            with torch.no_grad():
                weight[at] -= nudge
        assert float(grad[at]) == pytest.approx((losses[0] - losses[1]) / 2e-2, abs=2e-3)


def test_it_learns_to_tell_won_from_lost():
    model = Bigram(lr=0.1)
    prime = PRIME(token_model=model, beta=1.0)
    group = [spoken(1.0, [3, 4]), spoken(0.0, [5, 6])]
    metrics = [prime.fit([group]) for _ in range(15)]
    assert metrics[-1]["credit/prime/loss"] < 0.5 * metrics[0]["credit/prime/loss"]
    assert metrics[-1]["credit/prime/right"] == 1.0
    won, lost = prime.on_group(group)
    assert np.sum(won[0]) > 0 > np.sum(lost[0])  # type: ignore[operator,arg-type]


def test_scores_are_from_before_the_step_and_scoring_leaves_no_gradient():
    model = Bigram()
    prime = PRIME(token_model=model)
    groups = [[spoken(1.0, [3]), spoken(0.0, [4])]]
    assign([prime], groups)
    before = np.copy(groups[0][0].turns[0].credit["prime"])  # type: ignore[arg-type]
    assert all(p.grad is None for p in model.parameters())
    prime.fit(groups)
    assert np.array_equal(groups[0][0].turns[0].credit["prime"], before)  # type: ignore[arg-type]
    assert not np.array_equal(prime.on_group(groups[0])[0][0], before)  # type: ignore[arg-type]


def test_saved_loaded_and_fit_again_is_the_same_as_never_stopped():
    group = [spoken(1.0, [3, 4]), spoken(0.0, [5])]
    whole = PRIME(token_model=Bigram())
    whole.fit([group])
    state = saved(whole)
    whole.fit([group])
    resumed = PRIME(token_model=Bigram(seed=4))
    restore(resumed, state)
    resumed.fit([group])
    assert np.array_equal(whole.on_group(group)[0][0], resumed.on_group(group)[0][0])  # type: ignore[arg-type]


def test_centring_by_hand():
    # n = 2, means 0.5 and 0: 2 r - (0.5 + 0) / 1
    rows = centred_tokens([np.array([1.0, 0.0]), np.array([0.0])])
    assert [row.tolist() for row in rows] == [[1.5, -0.5], [-0.5]]


def test_process_and_outcome_are_summed_to_the_end_over_turns():
    # process 1.5 -0.5 | (second turn) 1.5 ... rows: [1, 0 | 1] mean 2/3 and [0] mean 0: 2 r - 2/3
    groups = [[told(1.0, [1.0, 0.0], [1.0]), told(0.0, [0.0])]]
    won, lost = adv(groups)[0]
    assert [a.shape for a in won] == [(2,), (1,)]
    # 4/3 -2/3 4/3, outcome +1 on the last: from the end 7/3, 5/3, 3
    assert flat(won) == pytest.approx([3.0, 5 / 3, 7 / 3])
    assert flat(lost) == pytest.approx([-2 / 3 - 1])


def test_the_two_parts_have_their_own_weights():
    groups = [[told(1.0, [1.0]), told(0.0, [0.0])]]
    assert flat(adv(groups, process=0.0, outcome=2.0)[0][0]) == [2.0]
    # means 1 and 0: 2 - 1 and 0 - 1
    assert flat(adv(groups, process=3.0, outcome=0.0)[0][0]) == [3.0]


def test_returns_are_discounted_by_token():
    groups = [[told(1.0, [0.0, 0.0]), told(0.0, [0.0])]]
    assert flat(adv(groups, gamma_token=0.5)[0][0]) == [0.5, 1.0]


def test_equal_outcomes_leave_the_process_and_a_group_of_one_has_nothing():
    groups = [[told(1.0, [1.0]), told(1.0, [0.0])]]
    assert [flat(row) for row in adv(groups)[0]] == [[1.0], [-1.0]]
    assert [flat(row) for row in adv([[told(1.0, [1.0, 2.0])]])[0]] == [[0.0, 0.0]]


def test_a_turn_that_was_not_judged_enters_no_mean_and_one_that_earned_zero_does():
    unjudged = adv([[told(0.0, [1.0], None), told(0.0, [0.0])]])[0]
    assert flat(unjudged[0]) == [1.0, 0.0]  # mean 1: 2 - 1, then nothing
    judged = adv([[told(0.0, [1.0], [0.0]), told(0.0, [0.0])]])[0]
    assert flat(judged[0]) == [1.0, -0.5]  # mean 1/2: 3/2 and -1/2, summed to the end


def test_whitened_over_the_batch():
    groups = [[told(1.0, [1.0, 0.5]), told(0.0, [0.0])], [told(1.0, [0.2]), told(1.0, [0.1])]]
    table = adv(groups, whiten=True)
    pool = np.array([x for g in table for row in g for x in flat(row)])
    assert pool.mean() == pytest.approx(0.0, abs=1e-12)
    assert pool.std(ddof=1) == pytest.approx(1.0, abs=1e-6)
    advantage.write(groups, table)


def test_empty_batches_and_episodes_have_no_advantages_and_take_no_step():
    model = Bigram()
    assert PRIME(token_model=model).fit([]) == PRIME(token_model=model).fit([[spoken(None, [3])]]) == {}
    assert model.steps == 0
    assert PRIME(token_model=model).on_group([]) == []
    assert prime_rloo([], []) == []
    assert prime_rloo([[]], [[]]) == [[]]


def test_what_is_missing_is_named():
    with pytest.raises(ContractError, match=r"prime needs outcomes of 0 or 1: episode 'e' has 0\.5; oprl takes graded"):
        PRIME(token_model=Bigram()).fit([[spoken(0.5, [3])]])
    with pytest.raises(ContractError, match="prime needs a token_model: the recipe gives it"):
        PRIME()
    with pytest.raises(ContractError, match="prime_rloo: no turn has credit 'prime': PRIME gives it"):
        prime_rloo([[episode(1.0, n_tokens=[1])]], [[[1.0]]])
    with pytest.raises(ContractError, match="prime_rloo needs credit 'prime' per token: episode 'e', turn 0 has one"):
        prime_rloo([[episode(1.0, n_tokens=[2], credit={"prime": [0.5]})]], [[[1.0]]])
    with pytest.raises(ContractError, match="prime_rloo needs an outcome; episode 'e' has none"):
        prime_rloo([[told(1.0, [1.0]), episode(None, n_tokens=[1], stop=Stop.MAX_TURNS)]], [[[1.0], [0.0]]])
