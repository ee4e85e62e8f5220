"""The metrics of a batch, by hand."""

from __future__ import annotations

import pytest

from milepost.credit import advantage
from milepost.credit.core import assign
from milepost.credit.diagnostics import metrics
from milepost.credit.gra import GRA
from milepost.credit.made import episode
from milepost.envs.core import Groups


def test_a_batch_by_hand():
    groups = [
        [
            episode(1.0, step=[0.5, 0.5], n_tokens=[3, 5], valid=[True, False]),
            episode(0.0, step=[0.25, 0.25, 0.25, 0.25]),
        ],
        [episode(0.0, step=[0.5]), episode(0.0, step=[0.0])],
    ]
    gra = GRA()
    assign([gra], groups)
    advantage.write(groups, advantage.rloo(advantage.rewards(groups, "gra", outcome=0.0)))
    assert metrics(groups, [gra]) == {
        "group/count": 2.0,
        "group/constant_outcome": 0.5,
        "outcome/mean": 0.25,
        "episode/turns": 2.0,
        "episode/tokens_per_turn": 4.0,
        "turn/invalid": 0.5,
        "advantage/zero": 0.25,
        "advantage/process_share": pytest.approx(0.0, abs=1e-12),
        "credit/gra/total": 0.5,
        "credit/gra/outcome_correlation": pytest.approx(1.0),
        "credit/gra/gate_open": 0.25,
    }


def test_credit_that_goes_up_where_the_outcome_goes_down_is_negatively_correlated():
    groups = [[episode(1.0, credit={"farm": [0.0]}), episode(0.0, credit={"farm": [3.0]})]]
    found = metrics(groups, ["farm"])
    assert found["credit/farm/outcome_correlation"] == pytest.approx(-1.0)
    assert found["credit/farm/total"] == 1.5


def test_a_difference_between_groups_is_no_correlation_within_them():
    easy = [episode(1.0, credit={"a": [1.0]}) for _ in range(2)]
    hard = [episode(0.0, credit={"a": [0.0]}) for _ in range(2)]
    assert "credit/a/outcome_correlation" not in metrics([easy, hard], ["a"])


def test_where_all_failed_the_whole_gradient_is_the_process():
    groups = [[episode(0.0, credit={"a": [0.02]}), episode(0.0, credit={"a": [0.0]})]]
    advantage.write(groups, advantage.grpo(advantage.rewards(groups, "a")))
    assert metrics(groups)["advantage/process_share"] == pytest.approx(1.0)


@pytest.mark.parametrize("estimator", [advantage.rloo, advantage.grpo])
def test_outcome_alone_has_no_share_of_the_process(estimator):
    groups = [[episode(1.0), episode(0.0), episode(0.5)], [episode(0.0), episode(2.0)]]
    advantage.write(groups, estimator(advantage.rewards(groups)))
    assert metrics(groups)["advantage/process_share"] == pytest.approx(0.0, abs=1e-12)


def test_what_is_unknown_has_no_key_and_what_was_skipped_is_counted():
    assert metrics(Groups([], {"failed": 2})) == {"skipped/failed": 2.0, "group/count": 0.0}
    found = metrics([[episode(0.5)]])
    assert set(found) == {"group/count", "group/constant_outcome", "outcome/mean", "episode/turns"}


def test_an_episode_that_was_not_scored_is_refused():
    with pytest.raises(ValueError, match="expected scored episodes"):
        metrics([[episode(None)]])
