"""VinePPO and SPO: values from fresh attempts, on the ladder, where they are known by enumeration."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from milepost.agents.driver import play
from milepost.agents.scripted import RandomPolicy, ScriptedPolicy
from milepost.credit import advantage
from milepost.credit.core import assign
from milepost.credit.made import episode
from milepost.credit.peers.spo import SPO, unsure
from milepost.credit.peers.vineppo import VinePPO, monte_carlo
from milepost.envs.core import ContractError, Episode, Stop, Task, groups_of
from milepost.envs.ladder import MOVES, N_TURNS, State, advantages

LADDER = "milepost/Ladder-v0"
MOVES_PLAYED = (["climb"] * 5, ["dust", "climb", "climb", "rest", "climb", "rest", "rest", "rest"])


class Again:
    """Plays on from recorded states with the driver; remembers what it was asked."""

    def __init__(self, policy: ScriptedPolicy | RandomPolicy) -> None:
        self.policy = policy
        self.asked: list[list[tuple[str, int]]] = []

    def branches(self, starts: Sequence[tuple[Episode, int]], n: int) -> list[list[Episode]]:
        self.asked.append([(e.id, t) for e, t in starts])
        call = len(self.asked)
        tasks = [
            Task(e.env_id, group=f"{call} {s}", attempt=i, start=(e, t))
            for s, (e, t) in enumerate(starts)
            for i in range(n)
        ]
        played = play(tasks, self.policy, seed=7)
        return [[e for e in played[s * n : s * n + n] if e.outcome is not None] for s in range(len(starts))]


class Told:
    """Answers with outcomes by turn instead of playing."""

    def __init__(self, *outcomes: Sequence[float]) -> None:
        self.outcomes = outcomes
        self.asked: list[int] = []

    def branches(self, starts: Sequence[tuple[Episode, int]], n: int) -> list[list[Episode]]:
        self.asked += [t for _, t in starts]
        return [
            [episode(o, n_turns=t + 2, credit={"live": [9.0] * t + [0.5, 0.25]}) for o in self.outcomes[t]]
            for _, t in starts
        ]


@pytest.fixture(scope="module")
def group() -> list[Episode]:
    moves = {f"0:oak:{i}": row for i, row in enumerate(MOVES_PLAYED)}
    tasks = [Task(LADDER, task="oak 5", group="oak", attempt=i) for i in range(2)]
    return play(tasks, ScriptedPolicy(lambda r: moves[r.episode][sum(m["role"] == "assistant" for m in r.messages)]))


def exact(rung: int, turn: int) -> float:
    """What uniform play wins from here: at least ``5 - rung`` climbs in the turns that are left, 1 / 3 each."""
    left = N_TURNS - turn
    return sum(math.comb(left, n) * 2 ** (left - n) / 3**left for n in range(5 - rung, left + 1))


def rungs(played: Episode) -> list[int]:
    climbed = [0]
    for turn in played.turns:
        climbed.append(climbed[-1] + (turn.action.text == "climb"))
    return climbed[:-1]


def test_fresh_attempts_come_to_the_enumerated_values(group: list[Episode]):
    k = 300
    again = Again(RandomPolicy())
    values = VinePPO(replay=again, k=k).on_group(group)
    assert len(again.asked) == 1, "one call for all states of a group"
    assert len(again.asked[0]) == 5 + 8 - 1, "the state before turn 0 is everybody's"
    for played, row in zip(group, values, strict=True):
        for t, (rung, value) in enumerate(zip(rungs(played), row, strict=True)):
            p = exact(rung, t)
            assert isinstance(value, float)
            assert abs(value - p) <= 4 * math.sqrt(p * (1 - p) / k) + 1e-9


def test_with_the_exact_values_an_advantage_is_that_of_the_move(group: list[Episode]):
    known = advantages(lambda state: dict.fromkeys(MOVES, 1 / 3), gated=False, dust=0.0)
    copies = [replace(e, turns=[replace(t, credit={}) for t in e.turns]) for e in group]
    for played in copies:
        for t, rung in enumerate(rungs(played)):
            played.turns[t].put("vineppo", exact(rung, t))
    table = monte_carlo([copies], advantage.rewards([copies]), cut="zero")[0]
    for played, row in zip(copies, table, strict=True):
        dusted = 0
        for t, (rung, value) in enumerate(zip(rungs(played), row, strict=True)):
            move = played.turns[t].action.text
            assert value == pytest.approx(known[State(rung, t, dusted)][move], abs=1e-12)
            dusted += move == "dust"


def test_what_an_attempt_earned_is_split_over_its_turns(group: list[Episode]):
    copies = [replace(e, turns=[replace(t, credit={}) for t in e.turns]) for e in group]
    vine = VinePPO(replay=Again(RandomPolicy()), k=3)
    metrics = assign([vine], groups_of(copies))
    assert metrics["credit/vineppo/judged"] == 13
    rewards = advantage.rewards([copies], [vine])
    assert [sum(filter(None, row)) for row in rewards[0]] == [1.0, 0.0], "what was expected is no reward"
    for played, row in zip(copies, monte_carlo([copies], rewards, cut="zero")[0], strict=True):
        first = played.turns[0].credit["vineppo"]
        assert isinstance(first, float)
        assert sum(a or 0.0 for a in row) == pytest.approx((played.outcome or 0.0) - first)


def test_a_policy_that_always_climbs_is_sure_of_every_state_that_still_leads_up(group: list[Episode]):
    values = VinePPO(replay=Again(ScriptedPolicy(["climb"])), k=1).on_group(group)
    assert values == [[1.0] * 5, [1.0] * 7 + [0.0]], "two rungs in the last turn are too many"


def test_a_return_is_counted_from_the_state_on_and_discounted():
    # Before turn 1: 0.5 now, 0.25 + outcome a turn later, halved; what the replayed turn earned does not count.
    told = Told([1.0], [1.0, 0.0])
    vine = VinePPO(replay=told, gamma=0.5, labels="live")
    assert vine.on_group([episode(0.0, n_turns=2)]) == [[1.125, (1.125 + 0.625) / 2]]
    assert VinePPO(replay=told).on_group([episode(0.0, n_turns=2)]) == [[1.0, 0.5]], "without labels outcomes alone"


def test_reused_attempts_are_valued_by_the_others():
    told = Told([0.0], [0.5])
    group = [episode(o, n_turns=2, id=str(i)) for i, o in enumerate((1.0, 0.0, 0.5))]
    values = VinePPO(replay=told, reuse=True).on_group(group)
    assert values == [[0.25, 0.5], [0.75, 0.5], [0.5, 0.5]]
    assert told.asked == [1, 1, 1]
    assert VinePPO(replay=told, reuse=True).on_group(group[:1]) == [[0.0, 0.5]], "alone, fresh attempts are needed"


def test_a_state_from_which_nobody_was_scored_has_no_value():
    assert VinePPO(replay=Told([1.0], [])).on_group([episode(0.0, n_turns=2)]) == [[1.0, None]]


def test_no_group_and_no_turn_ask_for_nothing():
    told = Told()
    assert VinePPO(replay=told).on_group([]) == []
    assert VinePPO(replay=told).on_group([Episode(id="e")]) == [[]]
    assert told.asked == []


def test_one_agents_part_branches_the_whole_episode():
    whole = episode(n_turns=3)
    for turn, agent in zip(whole.turns, ("ann", "bob", "ann"), strict=True):
        turn.agent = agent
    whole.turns[-1].info["outcome"] = {"ann": 1.0, "bob": -1.0}

    class Twice:
        def branches(self, starts: Sequence[tuple[Episode, int]], n: int) -> list[list[Episode]]:
            self.starts = list(starts)
            return [[whole] for _ in starts]

    for agent, value, at in (("ann", 1.0, [0, 2]), ("bob", -1.0, [1])):
        replay = Twice()
        assert VinePPO(replay=replay).on_group([whole.part(agent)]) == [[value] * len(at)]
        assert [(e is whole, t) for e, t in replay.starts] == [(True, t) for t in at]


@pytest.mark.parametrize("method", [VinePPO, SPO])
def test_a_missing_replay_and_a_wrong_number_of_attempts_are_named(method: type[VinePPO]):
    with pytest.raises(ContractError, match=rf"{method.name} needs a replay: the recipe gives it"):
        method()
    with pytest.raises(ValueError, match="k: expected 1 or more, got 0"):
        method(replay=Told(), k=0)

    class Short:
        def branches(self, starts: Sequence[tuple[Episode, int]], n: int) -> list[list[Episode]]:
            return []

    with pytest.raises(ContractError, match=rf"{method.name}: replay: expected 1 lists of episodes, got 0"):
        method(replay=Short()).on_group([episode(1.0, logprobs=[[-0.1]])])


def test_a_fresh_attempt_that_was_not_scored_is_refused():
    class Failing:
        def branches(self, starts: Sequence[tuple[Episode, int]], n: int) -> list[list[Episode]]:
            return [[episode(None, id="broken")] for _ in starts]

    with pytest.raises(ContractError, match="vineppo: replay: episode 'broken' was not scored"):
        VinePPO(replay=Failing()).on_group([episode(1.0)])


# ---- the estimator ----


def test_a_cut_episode_keeps_its_last_known_value():
    values = {"vineppo": [0.4, 0.6]}
    for stop, cut, last in (
        (Stop.MAX_TURNS, "last", 0.0),
        (Stop.MAX_TURNS, "zero", -0.6),
        (Stop.TERMINATED, "last", -0.6),
    ):
        played = episode(0.0, credit=values, stop=stop)
        rewards = [[[0.0, 0.0]]]
        assert monte_carlo([[played]], rewards, cut=cut) == [[[pytest.approx(0.2), pytest.approx(last)]]]  # type: ignore[arg-type]


def test_between_known_values_all_turns_share_the_gain():
    played = episode(1.0, credit={"spo": [None, 0.5, None, 0.8]})
    # 0.5: earned 1 + 0.5 * 2, then 0.25 * 0.8: 1.7. The last: 4 - 0.8. Before the first known value nobody knows.
    (row,) = monte_carlo([[played]], [[[3.0, 1.0, 2.0, 4.0]]], values="spo", gamma=0.5)[0]
    assert row == [None, pytest.approx(1.7), pytest.approx(1.7), pytest.approx(3.2)]


def test_an_unjudged_reward_adds_nothing_and_a_value_of_zero_is_known():
    played = episode(1.0, credit={"vineppo": [0.0, 0.5]})
    assert monte_carlo([[played]], [[[None, 1.0]]]) == [[[0.5, 0.5]]]
    assert monte_carlo([[]], [[]]) == [[]]
    assert monte_carlo([], []) == []


def test_values_that_nobody_wrote_are_named():
    with pytest.raises(ContractError, match=r"monte_carlo needs turn.credit\['vineppo'\].*episode 'e' has none"):
        monte_carlo([[episode(1.0)]], [[[1.0]]])
    with pytest.raises(ValueError, match="expected a finite number"):
        monte_carlo([[episode(1.0, credit={"vineppo": [0.5]})]], [[[math.nan]]])
    with pytest.raises(ValueError, match="cut: expected 'last' or 'zero'"):
        monte_carlo([], [], cut="none")  # type: ignore[arg-type]


# ---- SPO ----

P = [[0.99, 0.95], [0.99, 0.5], [0.99], [0.1, 0.99]]


def hesitant() -> Episode:
    return episode(1.0, logprobs=[np.log(row).tolist() for row in P])


def test_a_segment_begins_before_a_turn_that_holds_an_improbable_token():
    told = Told([0.2], [0.4], [0.0], [0.7])
    assert SPO(replay=told).on_group([hesitant()]) == [[0.2, 0.4, None, 0.7]]
    assert told.asked == [0, 1, 3]
    assert SPO(replay=told, threshold=0.3).on_group([hesitant()]) == [[0.2, None, None, 0.7]]


def test_only_improbable_tokens_are_trained_on_their_segments_gain():
    played = hesitant()
    assign([SPO(replay=Told([0.25], [0.5], [0.0], [0.75]))], [[played]])
    table = monte_carlo([[played]], advantage.rewards([[played]]), values="spo")
    assert table == [[[0.25, 0.25, 0.25, 0.25]]]
    masked = unsure([[played]], table)
    assert [row.tolist() for row in masked[0][0]] == [[0, 0], [0, 0.25], [0], [0.25, 0]]
    advantage.write([[played]], masked)
    assert unsure([[played]], [[[None] * 4]]) == [[[None] * 4]]


@pytest.mark.parametrize("bad", [episode(1.0, n_turns=2), episode(1.0, logprobs=[[-0.1], [math.nan]])])
def test_spo_names_a_turn_without_log_probabilities(bad: Episode):
    with pytest.raises(ContractError, match=r"spo needs tokens.logprobs; episode 'e', turn 1 has none"):
        SPO(replay=Told([1.0])).on_group([bad])
