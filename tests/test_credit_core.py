"""Asking methods, writing what they answer, and finding them by name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from milepost.credit.cards import NEEDS, card_of
from milepost.credit.core import Credit, Rewards, assign, overrides, restore
from milepost.credit.gra import GRA
from milepost.credit.made import episode
from milepost.credit.methods import TABLE, look_up, resolve
from milepost.credit.progress import Progress
from milepost.envs.core import ContractError, Episode, groups_of


class Fixed(Credit):
    """Answers with what it was given."""

    name: ClassVar[str] = "fixed"

    def __init__(self, rows: Rewards) -> None:
        self.rows = rows

    def on_group(self, group: Sequence[Episode]) -> Rewards:
        return self.rows


def written(groups: Sequence[Sequence[Episode]], label: str = "fixed") -> list[list[list[object]]]:
    return [[[turn.credit[label] for turn in e.turns] for e in group] for group in groups]


def test_zero_and_none_are_written_as_they_are_and_only_the_judged_are_measured():
    groups = [[episode(n_turns=3), episode(n_turns=1)]]
    metrics = assign([Fixed([[1.0, None, 0.0], [0.5]])], groups)
    assert written(groups) == [[[1.0, None, 0.0], [0.5]]]
    assert metrics == {"credit/fixed/mean": 0.5, "credit/fixed/judged": 3.0, "credit/fixed/not_finite": 0.0}


def test_what_is_not_finite_becomes_zero_and_is_counted():
    groups = [[episode(n_tokens=[2, 1, 1])]]
    each = np.array([1.0, np.inf], np.float32)
    metrics = assign([Fixed([[each, float("nan"), None]])], groups)
    assert groups[0][0].turns[0].credit["fixed"].tolist() == [1.0, 0.0]  # type: ignore[union-attr]
    assert written(groups)[0][0][1:] == [0.0, None]
    assert metrics["credit/fixed/not_finite"] == 2.0


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([[0.0, 0.0]], "fixed: group 'g': expected 2 rows, one an episode, got 1"),
        ([[0.0], [0.0]], "fixed: episode 'a': expected 2 values, one a turn, got 1"),
        ([[0.0, 0.0], [0.0, 0.0]], "fixed: episode 'b': expected 1 values, one a turn, got 2"),
        ([[0.0, 0.0], []], "fixed: episode 'b': expected 1 values, one a turn, got 0"),
    ],
)
def test_rows_of_the_wrong_length_are_refused_and_nothing_is_written(rows, message):
    group = [episode(n_turns=2, id="a"), episode(n_turns=1, id="b")]
    with pytest.raises(ContractError, match=message):
        assign([Fixed(rows)], [group])
    assert all(not turn.credit for e in group for turn in e.turns)


def test_a_token_credit_of_the_wrong_length_is_refused():
    with pytest.raises(ContractError, match=r"token credit 'fixed': expected shape \(2,\), got \(3,\)"):
        assign([Fixed([[np.zeros(3, np.float32)]])], [[episode(n_tokens=[2])]])


def test_a_label_is_written_once_and_a_second_run_needs_its_own():
    groups = [[episode()]]
    assign([Fixed([[1.0]])], groups)
    with pytest.raises(ContractError, match="credit 'fixed' of this turn is already written"):
        assign([Fixed([[2.0]])], groups)
    again = Fixed([[2.0]])
    again.label = "fixed#2"
    assign([again], groups)
    assert groups[0][0].turns[0].credit == {"fixed": 1.0, "fixed#2": 2.0}


def test_what_the_batch_left_out_is_counted_by_reason():
    metrics = assign([], groups_of([episode(1.0), episode(None), episode(float("nan"))]))
    assert metrics == {"skipped/unscored": 2.0}


def test_only_a_method_that_overrides_on_turn_is_live():
    assert (Progress().live, GRA().live) == (True, False)
    assert overrides(GRA(), "fit")
    assert not overrides(Progress(), "fit")


# -- methods by name


@pytest.mark.parametrize("name", TABLE)
def test_every_name_of_the_table_is_the_id_on_its_card(name: str):
    card = card_of(look_up(name))
    assert card.id == name
    assert card.needs <= NEEDS


def test_options_reach_the_method():
    gra = resolve("gra", gate=0.5, gate_negative=False)
    assert isinstance(gra, GRA)
    assert (gra.gates, gra.gate_negative) == ({"outcome": 0.5}, False)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("progres", "no credit method 'progres': did you mean 'progress'?"),
        ("xyzzy", "no credit method 'xyzzy': there is outcome, dense, progress, validity, gra, dra"),
        ("nowhere_mod:Mine", "there is no module 'nowhere_mod'"),
        ("json:Mine", "module 'json' has no class 'Mine'"),
        ("json:dumps", "expected a subclass of milepost.credit.core.Credit, got <function dumps"),
        ("milepost.credit.core:Credit", "the class sets no name"),
    ],
)
def test_a_name_that_leads_nowhere_gets_one_clear_line(name: str, message: str):
    with pytest.raises(ValueError, match=message) as raised:
        resolve(name)
    assert "\n" not in str(raised.value)


def test_an_unknown_option_of_a_method_is_named_with_those_that_there_are():
    with pytest.raises(
        ValueError, match="credit 'gra': got an unexpected keyword argument 'gat'; it takes gate, terms"
    ):
        resolve("gra", gat=1.0)


def test_an_import_that_fails_inside_a_users_module_is_not_hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "mine_broken.py").write_text("import package_that_is_not_there\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ValueError, match="'mine_broken' needs 'package_that_is_not_there'"):
        resolve("mine_broken:Mine")


@pytest.mark.parametrize("state", [None, {}, {"name": "gra", "version": 1}])
def test_a_saved_state_that_is_none_is_named(state: Any):
    with pytest.raises(ValueError, match="gra: expected a saved state with name, version and state, got"):
        restore(resolve("gra"), state)
