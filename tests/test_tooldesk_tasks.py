"""The desk's tasks: each can be solved, by the right conduct alone."""

from __future__ import annotations

from collections import Counter, defaultdict
from functools import cache
from statistics import median

import pytest

from milepost.agents.driver import play
from milepost.agents.scripted import OraclePolicy, RandomPolicy, ScriptedPolicy
from milepost.envs.core import Episode, Task
from milepost.envs.tooldesk.careless import careless
from milepost.envs.tooldesk.env import ToolDeskEnv, goal
from milepost.envs.tooldesk.kinds import KINDS
from milepost.envs.tooldesk.store import fill, state
from milepost.envs.tooldesk.tasks import case, task_ids
from milepost.envs.tooldesk.user import persona

SPLITS = ("train", "valid", "test")
ALL = [task for split in SPLITS for task in task_ids(split)]
PUSHY = list(KINDS)[list(KINDS).index("refund-late") :]
BROKEN = {
    "refund-late": "window",
    "cancel-shipped": "cancel",
    "credit-unearned": "credit",
    "other-customer": "identity",
    "impostor": "identity",
    "large-refund": "limit",
    "final-sale": "final_sale",
    "item-out-of-stock": "item",
    "address-shipped": "address",
    "exchange-out-of-stock": "exchange",
    "gift-card": "method",
}
"""What pleases the customer of a kind, and which rule it breaks."""


@cache
def played(name: str) -> list[Episode]:
    policies = {
        "oracle": OraclePolicy(),
        "random": RandomPolicy(),
        "careless": ScriptedPolicy(lambda request: careless(request.messages)),
    }
    names = {"oracle": ALL, "random": task_ids("train"), "careless": task_ids("valid") + task_ids("test")}[name]
    tasks = [Task("milepost/ToolDesk-v0", task=task, group=task) for task in names]
    return play(tasks, policies[name], n_threads=2)


def kind(episode: Episode) -> str:
    assert episode.task is not None
    return episode.task.rpartition(" ")[0]


def rate(episodes: list[Episode]) -> float:
    return sum(bool(episode.success) for episode in episodes) / len(episodes)


def test_the_oracle_solves_every_task_and_breaks_no_rule():
    episodes = played("oracle")
    assert [episode.task for episode in episodes if episode.outcome != 1.0] == []
    assert all(turn.info["valid"] for episode in episodes for turn in episode.turns)
    assert all(turn.info["reward_components"]["rule"] == 0.0 for episode in episodes for turn in episode.turns)


def test_the_potential_of_the_oracle_rises_by_one_a_turn_to_zero():
    for episode in played("oracle"):
        n = len(episode.turns)
        assert [episode.info_before(t)["potential"] for t in range(n + 1)] == [float(t - n) for t in range(n + 1)]


def test_the_oracles_next_move_is_among_the_admissible_ones():
    for episode in played("oracle"):
        for t, turn in enumerate(episode.turns):
            actions = episode.info_before(t)["actions"]
            assert turn.action.move in actions
            assert len(set(actions)) == len(actions) <= 60


def test_a_case_takes_at_least_six_calls_as_a_rule():
    assert median(len(episode.turns) for episode in played("oracle")) >= 6
    assert max(len(episode.turns) for episode in played("oracle")) <= 20


@pytest.mark.slow
def test_luck_solves_less_than_one_in_fifty():
    assert rate(played("random")) < 0.02


def test_who_grants_every_wish_solves_the_honest_cases_alone():
    by_kind = defaultdict(list)
    for episode in played("careless"):
        by_kind[kind(episode)].append(episode)
    assert {name: rate(episodes) for name, episodes in by_kind.items() if name in PUSHY} == dict.fromkeys(PUSHY, 0.0)
    assert 0.2 < rate(played("careless")) < 0.6
    assert all(rate(episodes) == 1.0 for name, episodes in by_kind.items() if name not in (*PUSHY, "late"))


def test_what_pleases_breaks_the_rule_of_its_kind():
    for episode in played("careless"):
        captions = " ".join(turn.info["caption"] for turn in episode.turns)
        if kind(episode) in BROKEN:
            assert f"Rules broken: {BROKEN[kind(episode)]}." in captions, (episode.task, captions)


def test_more_than_a_third_of_the_kinds_push_for_something_forbidden():
    pushes = {task.rpartition(" ")[0] for task in ALL if any(wish.refused for wish in case(task).wishes)}
    assert pushes == set(PUSHY) == set(BROKEN)
    assert 3 * len(pushes) >= len(KINDS) >= 12


def test_every_task_has_a_goal_of_its_own_that_is_not_its_start():
    goals = set()
    for task in ALL:
        db = fill(case(task).rows)
        end = goal(case(task))
        assert state(db) != end
        db.close()
        goals.add(repr(end))
    assert len(goals) == len(ALL) == 378


def test_the_changes_of_a_kind_differ_between_its_tasks():
    """Nothing that is learnt by heart in training solves a test task: ids, names and addresses are others."""
    writes = Counter(step.move for task in ALL for step in case(task).steps if not step.talk)
    shared = {move for move, n in writes.items() if n > 3 and not move.startswith(("close_case", "get_product"))}
    assert shared == set()


def test_splits_share_no_task():
    splits = [set(task_ids(split)) for split in SPLITS]
    assert [len(split) for split in splits] == [252, 63, 63]
    assert len(set.union(*splits)) == 378
    for split in splits:
        assert {task.rpartition(" ")[0] for task in split} == set(KINDS)


def test_a_split_or_task_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="expected one of train, valid, test, got 'dev'"):
        ToolDeskEnv(split="dev")
    for name in ("cancel 18", "cancel", "haggle 1", "cancel 01", ""):
        with pytest.raises(ValueError, match=f"such as 'cancel 0', got '{name}'"):
            case(name)


def test_a_model_that_plays_the_customer_is_told_no_goal():
    for task in ALL:
        text = persona(case(task))
        moves = [step for step in case(task).steps if not step.talk]
        assert not any(step.name in text or step.move in text for step in moves)
        assert case(task).customer.id not in text
