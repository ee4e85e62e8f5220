"""The auditor of credit methods passes what keeps the contract and names what does not."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from broken_credits import BROKEN, Good, Learns

from milepost.credit.audit.standins import standin
from milepost.credit.audit.subject import Subject
from milepost.credit.cards import card_of
from milepost.credit.check import check
from milepost.credit.core import Credit, Rewards, overrides
from milepost.credit.made import episode
from milepost.credit.methods import TABLE, look_up
from milepost.envs.core import Episode

METHODS = [name for name in TABLE if card_of(look_up(name)).kind == "reward"]


def test_a_method_that_keeps_the_contract_passes():
    assert check(Good).failures == []


@pytest.mark.parametrize(("method", "rule"), BROKEN.items())
def test_a_broken_method_fails_for_its_own_reason_alone(method, rule):
    failures = check(method).failures
    assert [finding.rule for finding in failures] == [rule], failures
    pattern = r"^\w.*\.$" if rule == "card" else r"\w.*\d.*\.$"
    assert re.search(pattern, failures[0].text), "a sentence, with numbers where it was measured"


@pytest.mark.parametrize("name", METHODS)
def test_every_method_of_ours_keeps_the_contract(name: str):
    report = check(name)
    assert report.failures == []
    assert [note for note in report.notes if note.text.startswith("not measured")] == []


@pytest.mark.parametrize("name", [n for n in METHODS if overrides(Subject(n, {}).credit, "on_group")])
def test_a_group_without_attempts_is_no_error(name: str):
    assert Subject(name, {}).fresh().on_group([]) == []


@pytest.mark.parametrize(
    "name", [n for n in METHODS if {"scorer", "token_model", "replay"} & card_of(look_up(n)).needs]
)
def test_a_method_that_is_not_given_its_part_names_it(name: str):
    (part,) = {"scorer", "token_model", "replay"} & card_of(look_up(name)).needs
    others = {p: standin(p) for p in Subject(name, {}).parts if p != part}
    with pytest.raises(ValueError, match=rf"^{name}.* needs a {part}"):
        look_up(name)(**others).on_group([episode(1.0, state_key=["a", "b"], n_tokens=[1])])


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("import nowhere_at_all", "'my_broken' needs 'nowhere_at_all', which is not there"),
        ("def (", "'my_broken' cannot be imported: SyntaxError"),
        ("1 / 0", "'my_broken' cannot be imported: ZeroDivisionError"),
    ],
)
def test_a_module_that_cannot_be_imported_is_one_line(
    code: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "my_broken.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match=told):
        check("my_broken:Mine")


class OwnComponent(Credit):
    """Pays what an environment of its own calls tests_passed."""

    name = "own_component"
    needs = frozenset({"reward_components"})

    def on_group(self, group: Sequence[Episode]) -> Rewards:
        return [[turn.info["reward_components"]["tests_passed"] for turn in episode.turns] for episode in group]


def test_a_method_that_reads_a_component_of_its_own_environment_passes():
    assert check(OwnComponent).failures == []


class Fussy(Good):
    def __init__(self) -> None:
        raise RuntimeError("not today")


def test_a_method_that_cannot_be_made_is_one_line():
    with pytest.raises(ValueError, match="credit 'Fussy' cannot be made: RuntimeError: not today"):
        check(Fussy)


class OwnKey(Good):
    """Looks at a key that its own environment alone gives."""

    def row(self, episode: Episode) -> list[float]:
        return [float(turn.info["n_tests_passed"]) for turn in episode.turns]


class NeedsAPlanner(Good):
    """Cannot be made without a planner."""

    needs = frozenset({"planner"})

    def __init__(self, *, planner: object) -> None:
        self.planner = planner


@pytest.mark.parametrize(("method", "told"), [(OwnKey, "info['n_tests_passed']"), (NeedsAPlanner, "planner")])
def test_what_there_is_no_stand_in_for_is_a_note_and_no_failure(method: type[Credit], told: str):
    failures, notes = check(method)
    assert failures == []
    assert [note.text for note in notes] == [f"not measured: it needs {told}, which the check has no stand-in for."]


class ByIdWithoutReset(Credit):
    """Counts turns by episode, and says whether the count is odd as numpy does."""

    name = "by_id"

    def __init__(self) -> None:
        self.n: dict[str, int] = {}

    def on_turn(self, episode: Episode) -> float:
        self.n[episode.id] = self.n.get(episode.id, 0) + 1
        return np.bool_(self.n[episode.id] % 2)  # type: ignore[return-value]


def test_a_live_method_that_counts_by_episode_and_hears_no_reset_passes():
    assert check(ByIdWithoutReset).failures == []


def test_a_method_that_saves_what_fit_learned_passes():
    assert check(Learns).failures == []


class PaysNothingTwice(Good):
    """Pays nothing for a text that was said before."""

    def row(self, episode: Episode) -> list[float]:
        texts, row = [turn.action.text for turn in episode.turns], super().row(episode)
        return [0.0 if texts[t] in texts[:t] else value for t, value in enumerate(row)]


class PaysAllOfWhatIsNew(PaysNothingTwice):
    """Pays every turn what all turns earned that said something new."""

    def row(self, episode: Episode) -> list[float]:
        return [sum(super().row(episode))] * len(episode.turns)


@pytest.mark.parametrize("method", [PaysNothingTwice, PaysAllOfWhatIsNew])
def test_a_method_that_judges_repeated_texts_passes(method: type[Credit]):
    assert check(method).failures == []
