"""SPA: who earns which share of the outcome, and that the estimator finds true shares."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from token_models import Bigram, Features, spoken

from milepost.credit import advantage
from milepost.credit.core import assign, restore, saved
from milepost.credit.made import episode
from milepost.credit.spa import SPA, fused, spread
from milepost.envs.core import ContractError, Episode

NAN = float("nan")


def shares(*rows: list[float]) -> Features:
    """A model whose only feature of a turn is its share."""
    table = {f"e{i}": row for i, row in enumerate(rows)}
    return Features(lambda e: np.array(table[e.id])[:, None], 1)


def reads(method: SPA) -> SPA:
    """Let the head pass its one feature."""
    torch.nn.init.ones_(method.head.weight)
    return method


def group(*outcomes: float | None, valid: list[list[bool]] | None = None, n: int = 3) -> list[Episode]:
    rows = valid or [[True] * n for _ in outcomes]
    return [episode(o, valid=v, id=f"e{i}") for i, (o, v) in enumerate(zip(outcomes, rows, strict=True))]


def test_a_turn_earns_its_share_and_half_for_a_move_that_was_executed():
    spa = reads(SPA(token_model=shares([0.1, 0.25, 0.45])))
    # 0.1 + 0.5, 0.25 + 0, 0.45 + 0.5: the last turn counts as executed
    (row,) = spa.on_group(group(1.0, valid=[[True, False, False]]))
    assert row == pytest.approx([0.6, 0.25, 0.95])


def test_the_weights_are_of_share_and_bonus():
    spa = reads(SPA(token_model=shares([0.5, -0.25]), alpha=2.0, beta=0.1))
    assert spa.on_group(group(1.0, valid=[[True, True]]))[0] == pytest.approx([1.1, -0.4])


def test_turns_of_one_episode_do_not_all_earn_the_outcome_less_the_others_mean():
    spa = reads(SPA(token_model=shares([0.1, 0.7], [0.2, 0.3]), beta=0.0))
    rows: Any = spa.on_group(group(1.0, 0.0, n=2))
    assert rows[0] == pytest.approx([0.1, 0.7])
    assert rows[1] == pytest.approx([0.2, 0.3])


def test_the_last_turn_has_full_weight():
    spa = reads(SPA(token_model=shares([0.25] * 5), beta=0.0))
    assert spa.on_group(group(1.0, n=5))[0] == pytest.approx([0.25] * 5)


def test_spread_lets_shares_sum_to_the_outcome():
    spa = reads(SPA(token_model=shares([0.1, 0.25, 0.45]), beta=0.0, residual="spread"))
    assert spa.on_group(group(1.0))[0] == pytest.approx([0.1 + 0.2 / 3, 0.25 + 0.2 / 3, 0.45 + 0.2 / 3])
    assert sum(spread([3.0, -7.0], 0.5)) == pytest.approx(0.5)
    assert spread([], 1.0).tolist() == []


def test_shares_are_cut_only_where_told_and_before_the_residual():
    features = [[2.0, -3.0, 0.5]]
    assert reads(SPA(token_model=shares(*features), beta=0.0)).on_group(group(1.0))[0] == [2.0, -3.0, 0.5]
    assert reads(SPA(token_model=shares(*features), beta=0.0, clip=1.0)).on_group(group(1.0))[0] == [1.0, -1.0, 0.5]
    both = reads(SPA(token_model=shares(*features), beta=0.0, clip=1.0, residual="spread"))
    assert sum(both.on_group(group(1.0))[0]) == pytest.approx(1.0)  # type: ignore[arg-type]


def test_at_first_shares_are_zero_and_executed_moves_earn_their_bonus():
    assert SPA(token_model=shares([0.1, 0.2])).on_group(group(1.0, valid=[[False, True]]))[0] == [0.0, 0.5]


def test_every_share_of_an_episode_has_the_gradient_of_the_sums_error():
    # R_hat = 0.8, R = 1, two episodes: d/dc (R_hat - R)^2 / 2 = -0.2; the other has R_hat = R
    model = shares([0.1, 0.25, 0.45], [1.0])
    spa = reads(SPA(token_model=model))
    kept: list[Any] = []
    model.step = lambda loss: kept.append(loss) or {}  # type: ignore[assignment,func-returns-value,method-assign]
    states = [torch.tensor([[0.1], [0.25], [0.45]], requires_grad=True), torch.tensor([[1.0]], requires_grad=True)]
    model.turn_states = lambda *_, **__: states  # type: ignore[method-assign]
    metrics = spa.fit([group(1.0), [episode(1.0, id="e1")]])
    assert metrics["credit/spa/mse"] == pytest.approx(0.02)
    kept[0].backward()
    assert states[0].grad is not None
    assert states[0].grad[:, 0].tolist() == pytest.approx([-0.2, -0.2, -0.2])
    assert states[1].grad is not None
    assert states[1].grad.item() == pytest.approx(0.0, abs=1e-7)


def test_the_loss_has_the_gradient_of_finite_differences():
    model = Bigram()
    spa = SPA(token_model=model)
    torch.nn.init.normal_(spa.head.weight, generator=torch.Generator().manual_seed(0))
    batch = [[spoken(1.0, [3, 4], [5]), spoken(0.0, [6])]]

    def loss() -> Any:
        rows = [spa.head(s)[:, 0].sum() for s in model.turn_states(batch[0])]
        return ((rows[0] - 1.0) ** 2 + rows[1] ** 2) / 2

    kept: list[Any] = []
    model.step = lambda loss: kept.append(loss) or {}  # type: ignore[assignment,func-returns-value,method-assign]
    spa.fit(batch)
    kept[0].backward()
    weight = model.body["embed"].weight
    with torch.no_grad():
        for at in ((4, 0), (5, 3), (6, 7)):
            weight[at] += 1e-2
            up = float(loss())
            weight[at] -= 2e-2
            down = float(loss())
            weight[at] += 1e-2
            assert float(weight.grad[at]) == pytest.approx((up - down) / 2e-2, abs=2e-3)


@pytest.mark.slow
def test_the_estimator_recovers_additive_shares():
    rng = np.random.default_rng(0)
    w = rng.normal(size=8)
    features = {f"e{i}": rng.normal(size=(rng.integers(2, 6), 8)) for i in range(2000)}
    truth = {k: x @ w / 8 for k, x in features.items()}
    episodes = [
        episode(float(truth[k].sum() + 0.1 * rng.normal()), valid=[True] * len(x), id=k) for k, x in features.items()
    ]
    spa = SPA(token_model=Features(lambda e: features[e.id], 8), n_steps=60)
    first = spa.fit([episodes])
    last = spa.fit([episodes])
    found = np.concatenate(spa.contributions(episodes))
    assert np.corrcoef(found, np.concatenate(list(truth.values())))[0, 1] > 0.9
    assert last["credit/spa/mse"] < 0.2 * first["credit/spa/mse"]
    assert last["credit/spa/within_0.1"] > first["credit/spa/within_0.1"]


def test_what_a_turn_earned_was_said_before_the_estimator_learned_from_it():
    model = Bigram()
    spa = SPA(token_model=model, beta=0.0)
    batch = [[spoken(1.0, [3, 4], [5]), spoken(0.0, [6])]]
    assign([spa], batch)
    assert [t.credit["spa"] for t in batch[0][0].turns] == [0.0, 0.0]
    spa.fit(batch)
    assert [t.credit["spa"] for t in batch[0][0].turns] == [0.0, 0.0]
    assert all(x != 0.0 for x in spa.on_group(batch[0])[0])


def test_scoring_leaves_no_gradient():
    model = Bigram()
    SPA(token_model=model, beta=0.0).on_group([spoken(1.0, [3, 4])])
    assert all(p.grad is None for p in model.parameters())


def test_more_steps_a_batch_are_more_steps():
    one, three = Bigram(), Bigram()
    SPA(token_model=one).fit([[spoken(1.0, [3])]])
    SPA(token_model=three, n_steps=3).fit([[spoken(1.0, [3])]])
    assert (one.steps, three.steps) == (1, 3)


def test_saved_loaded_and_fit_again_is_the_same_as_never_stopped():
    batch = [[spoken(1.0, [3, 4], [5]), spoken(0.0, [6])]]
    whole = SPA(token_model=Bigram())
    whole.fit(batch)
    state = saved(whole)
    whole.fit(batch)
    resumed = SPA(token_model=Bigram(seed=9))
    restore(resumed, state)
    resumed.fit(batch)
    for a, b in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):  # type: ignore[attr-defined]
        assert torch.equal(a, b)
    assert whole.contributions(batch[0])[0].tolist() == resumed.contributions(batch[0])[0].tolist()


def test_the_outcome_is_not_added_again():
    batch = [group(1.0)]
    spa = reads(SPA(token_model=shares([0.1, 0.25, 0.45]), beta=0.0))
    assign([spa], batch)
    assert advantage.rewards(batch, [spa])[0][0] == pytest.approx([0.1, 0.25, 0.45])


def test_unscored_episodes_are_not_learned_from_and_an_empty_batch_takes_no_step():
    model = Bigram()
    spa = SPA(token_model=model)
    assert spa.fit([]) == spa.fit([[]]) == spa.fit([[spoken(None, [3])], [spoken(NAN, [3])]]) == {}
    assert model.steps == 0
    assert spa.on_group([]) == []
    assert spa.on_group([Episode(id="e0")]) == [[]]


def test_groups_of_one_and_equal_outcomes_still_learn():
    spa = SPA(token_model=Bigram(), beta=0.0)
    errors = [spa.fit([[spoken(1.0, [3])]])["credit/spa/mse"] for _ in range(21)]
    assert errors[0] == 1.0
    assert errors[-1] < 0.1


def test_the_head_can_read_logits():
    assert SPA(token_model=Bigram(), logits=True).head.weight.shape == (1, Bigram.vocab)
    spa = SPA(token_model=Bigram(), logits=True, beta=0.0)
    spa.fit([[spoken(1.0, [3, 4])]])
    assert spa.on_group([spoken(1.0, [3, 4])])[0][0] != 0.0


def test_what_is_missing_is_named():
    with pytest.raises(ContractError, match=r"spa needs a token_model: the recipe gives it \(an AdapterModel"):
        SPA()
    with pytest.raises(ContractError, match=r"spa needs info\['valid'\] at steps; my/Env-v0 gave none in turn 0"):
        SPA(token_model=shares([0.1, 0.1])).on_group([episode(1.0, n_turns=2, id="e0")])
    with pytest.raises(ContractError, match="spa: residual='spread' needs an outcome; episode 'e0' has none"):
        SPA(token_model=shares([0.1]), residual="spread").on_group(group(None, n=1))
    with pytest.raises(ValueError, match="spa: residual: expected 'none' or 'spread', got 'all'"):
        SPA(token_model=shares(), residual="all")  # type: ignore[arg-type]


def test_without_bonus_no_environment_has_to_say_what_was_executed():
    assert SPA(token_model=shares([0.1, 0.1]), beta=0.0).on_group([episode(1.0, n_turns=2, id="e0")]) == [[0.0, 0.0]]


def test_the_parts_add_up():
    assert fused([1.0, -1.0], [1, 0]).tolist() == [1.5, -1.0]
