"""The auditor of credit methods passes what keeps the contract and names what does not."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from broken_credits import BROKEN, CentresTheOutcome, Good, Learns, Misspelt, MisspeltAndNotMissed

from milepost.credit.audit.centring import centres
from milepost.credit.audit.standins import standin
from milepost.credit.audit.subject import Subject
from milepost.credit.cards import card_of
from milepost.credit.check import check
from milepost.credit.core import Credit, Rewards, overrides
from milepost.credit.made import episode
from milepost.credit.methods import TABLE, look_up
from milepost.envs.core import ContractError, Episode

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


class OwnKeyThatIsSaid(Good):
    """Says which key of its own environment it lacks."""

    def row(self, episode: Episode) -> list[float]:
        if "n_tests_passed" not in episode.turns[0].info:
            raise ContractError(f"{self.name} needs info['n_tests_passed']; {episode.env_id} gave none")
        return [float(turn.info["n_tests_passed"]) for turn in episode.turns]


class SharedKey(Good):
    """Looks at a key that environments share and the check's groups do not have."""

    def row(self, episode: Episode) -> list[float]:
        return [float(turn.info["n_env_steps"]) for turn in episode.turns]


class NeedsAPlanner(Good):
    """Cannot be made without a planner."""

    needs = frozenset({"planner"})

    def __init__(self, *, planner: object) -> None:
        self.planner = planner


@pytest.mark.parametrize(
    ("method", "told"),
    [
        (OwnKey, "info['n_tests_passed'] (no key of INFO_KEYS)"),
        (OwnKeyThatIsSaid, "info['n_tests_passed'] (no key of INFO_KEYS)"),
        (SharedKey, "info['n_env_steps'] (one of the keys that environments share)"),
        (NeedsAPlanner, "planner"),
    ],
)
def test_what_there_is_no_stand_in_for_is_a_note_and_no_failure(method: type[Credit], told: str):
    failures, notes = check(method)
    assert failures == []
    assert [note.text for note in notes] == [f"not measured: it needs {told}, which the check has no stand-in for."]


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("reward_component", "reward_components"),
        ("stateKey", "state_key"),
        ("anwser", "answer"),
        ("vaild", "valid"),
        ("action", "actions"),
    ],
)
def test_a_misspelt_key_is_a_failure_that_says_what_was_meant(key: str, meant: str):
    for method in (Misspelt, MisspeltAndNotMissed):
        (failure,) = check(method, key=key).failures
        assert failure.rule == "info"
        assert re.search(rf"^it looked \d+ times for info\['{key}'\].*: did you mean '{meant}'\?", failure.text)


@pytest.mark.parametrize("key", ["n_valid", "env_state_key", "captions_read", "score"])
def test_a_key_of_its_own_that_is_no_slip_of_the_pen_is_a_note(key: str):
    failures, notes = check(Misspelt, key=key)
    assert failures == []
    assert len(notes) == 1


class OwnTable(Good):
    """Misses a key in a table of its own."""

    def row(self, episode: Episode) -> list[float]:
        return [{"tea": 1.0}["coffee"] for _ in episode.turns]


def test_a_key_that_a_method_misses_in_a_table_of_its_own_is_a_failure():
    (failure,) = check(OwnTable).failures
    assert failure.rule == "raises"
    assert "KeyError: 'coffee'" in failure.text


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


class OutcomeAdvantage(CentresTheOutcome):
    """Has the outcome's advantage in its equation, and an estimator that takes its numbers as they are."""

    pair = "trace_sum"


class RanksOutcomes(Good):
    """Pays the turns of the best attempts of a group."""

    needs = frozenset({"outcome"})

    def on_group(self, group: Sequence[Episode]) -> Rewards:
        best = max((episode.outcome or 0.0 for episode in group), default=0.0)
        return [[float(episode.outcome == best) for _ in episode.turns] for episode in group]


@pytest.mark.parametrize("method", [OutcomeAdvantage, RanksOutcomes])
def test_what_no_mean_is_taken_of_twice_is_not_called_centred(method: type[Credit]):
    assert check(method).failures == []


@pytest.mark.parametrize(
    ("pair", "takes_a_mean"), [("turn", True), ("grpo", True), ("rloo", True), ("trace_sum", False), ("as_is", False)]
)
def test_an_estimator_that_takes_a_mean_is_known_by_its_numbers(pair: str, takes_a_mean: bool):
    assert centres(pair) is takes_a_mean


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
