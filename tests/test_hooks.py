"""Every turn is recorded in any Gymnasium loop, and live credit joins the reward."""

from __future__ import annotations

import pickle
from functools import partial
from typing import Any

import gymnasium as gym
import pytest
from broken_envs import GOOD, GoodEnv
from tool_env import ShopEnv

from milepost.envs.core import Action, Call, ContractError, Episode, Stop, Utf8
from milepost.envs.hooks import TurnHooks
from milepost.envs.messages import tied


class Count:
    """Earns the number of turns so far."""

    live = True

    def __init__(self, label: str = "count") -> None:
        self.label = label
        self.heard: list[str] = []
        self.stops: list[Stop | None] = []

    def on_reset(self, episode: Episode) -> None:
        self.heard.append(episode.id)

    def on_turn(self, episode: Episode) -> float | None:
        self.stops.append(episode.stop)
        return float(len(episode.turns)) if len(episode.turns) < 3 else None


class Says(gym.Env[Any, Any]):
    """Answers whatever it was given, with whatever info."""

    observation_space = Utf8()
    action_space = Utf8()

    def __init__(
        self, observation: Any = "on", reward: Any = 0.5, info: Any = None, worth: float | None = None
    ) -> None:
        self.answer = observation, reward, info or {}
        self.worth = worth
        self.asked = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self.options = options
        return "begin", {"_secret": object(), "potential": -1}

    def step(self, action: str) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        self.heard = action
        observation, reward, info = self.answer
        return observation, reward, action == "stop", action == "limit", dict(info)

    def score(self) -> float | None:
        self.asked += 1
        return self.worth


def says(env: TurnHooks) -> Says:
    assert isinstance(env.unwrapped, Says)
    return env.unwrapped


def hooked(*hooks: Any, **kwargs: Any) -> TurnHooks:
    env = TurnHooks(Says(**kwargs), hooks)
    env.reset(seed=1, options={"task": "t", "episode": {"id": "e1", "group": "g"}})
    return env


def test_the_fields_of_the_record_are_not_passed_down():
    env = hooked()
    assert says(env).options == {"task": "t"}
    episode = env.episode
    assert (episode.id, episode.group, episode.task, episode.seed, episode.last) == ("e1", "g", "t", 1, "begin")
    assert episode.info == {"potential": -1}


def test_the_reward_is_the_environments_plus_live_credit_and_the_record_keeps_them_apart():
    count = Count()
    env = hooked(count)
    assert [env.step(text)[1] for text in ("a", "b", "c")] == [1.5, 2.5, 0.5]
    assert [turn.reward for turn in env.episode.turns] == [0.5, 0.5, 0.5]
    assert [turn.credit for turn in env.episode.turns] == [{"count": 1.0}, {"count": 2.0}, {"count": None}]
    assert count.heard == ["e1"]


def test_an_observation_belongs_to_the_turn_that_answers_it():
    env = hooked()
    env.step("a")
    env.step("b")
    assert [turn.observation for turn in env.episode.turns] == ["begin", "on"]
    assert env.episode.last == "on"


def test_the_move_of_an_action_is_what_the_environment_hears():
    env = hooked()
    env.step(Action("I think: go", move="go"))
    assert says(env).heard == "go"
    assert env.episode.turns[0].action.text == "I think: go"


def test_the_last_turn_sees_how_the_episode_ended_and_carries_the_record():
    count = Count()
    env = hooked(count)
    env.step("a")
    *_, info = env.step("stop")
    assert count.stops == [None, Stop.TERMINATED]
    assert info["record"] is env.episode
    assert "record" not in env.episode.turns[-1].info
    with pytest.raises(gym.error.ResetNeeded):
        env.step("more")


def test_a_turn_limit_asks_for_the_score_once():
    env = hooked(worth=0.25)
    *_, info = env.step("limit")
    assert (env.episode.stop, env.episode.outcome, info["outcome"]) == (Stop.MAX_TURNS, 0.25, 0.25)
    assert says(env).asked == 1


def test_a_turn_limit_with_an_outcome_or_without_a_score_is_left_as_it_is():
    env = hooked(info={"outcome": 1.0}, worth=0.0)
    env.step("limit")
    assert (env.episode.outcome, says(env).asked) == (1.0, 0)
    env = hooked(worth=None)
    env.step("limit")
    assert env.episode.outcome is None


@pytest.mark.parametrize(
    ("stop", "outcome"), [(Stop.MAX_TOKENS, 0.5), (Stop.TIMEOUT, 0.5), (Stop.FAILED, None), (Stop.CANCELLED, None)]
)
def test_an_end_from_outside_is_scored_unless_it_says_nothing_of_the_agent(stop, outcome):
    env = hooked(worth=0.5)
    env.step("a")
    episode = env.end(stop, "why")
    assert (episode.outcome, episode.stop, episode.failure) == (outcome, stop, "why")
    assert says(env).asked == (outcome is not None)
    with pytest.raises(ContractError, match="has ended already"):
        env.end(stop)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ({"observation": 3}, "step, turn 0: expected a text"),
        ({"observation": {"sound": "x"}}, r"got a dict with \['sound'\]"),
        ({"reward": float("nan")}, "expected a finite reward, got nan"),
        ({"reward": None}, "expected a number as reward, got None"),
    ],
)
def test_a_step_that_breaks_the_contract_is_named(broken, message):
    with pytest.raises(ContractError, match=rf"^Says: .*{message}"):
        hooked(**broken).step("a")


def test_two_hooks_of_one_label_are_refused():
    with pytest.raises(ValueError, match="a label of its own for each hook"):
        TurnHooks(Says(), [Count(), Count()])


def test_no_value_of_info_reaches_a_request():
    info = {key: f"MARK-{key}-MARK" for key in ("answer", "state_key", "caption", "outcome")}
    env = hooked(info=info)
    env.step("a")
    env.step("stop")
    assert all("MARK" not in str(env.episode.view(t)) for t in range(3))


def test_it_wraps_what_gymnasium_makes():
    env = TurnHooks(gym.make(GOOD), [Count()])
    env.reset(seed=0)
    for move in env.get_wrapper_attr("oracle")():
        env.step(move)
    assert (env.episode.env_id, env.episode.outcome, env.episode.success) == (GOOD, 1.0, True)
    assert env.episode.instructions == GoodEnv.instructions


def test_hooks_pickle_in_the_middle_of_an_episode():
    env = hooked(Count())
    env.step("a")
    again = pickle.loads(pickle.dumps(env))
    assert again.episode == env.episode
    assert again.step("b")[1] == 2.5
    assert (len(again.episode.turns), len(env.episode.turns)) == (2, 1)


@pytest.mark.parametrize(("mode", "options"), [("sync", {}), ("async", {"shared_memory": False})])
def test_the_record_comes_back_from_vector_environments(mode, options):
    wrap = partial(TurnHooks, credits=[Count()])
    envs: Any = gym.make_vec(GOOD, num_envs=2, vectorization_mode=mode, vector_kwargs=options, wrappers=[wrap])
    try:
        envs.reset(seed=[1, 2], options={"task": "t10"})
        envs.step(("2", "nonsense"))
        _, rewards, terminated, _, infos = envs.step(("2", "2"))
        assert terminated.tolist() == [True, False]
        assert rewards.tolist() == [2.0, 2.0]
        record = infos["record"][0]
        assert infos["_record"].tolist() == [True, False]
        assert (len(record.turns), record.outcome, record.seed) == (2, 1.0, 1)
        _, _, _, _, infos = envs.step(("1", "2"))  # the first resets: no turn
        second = infos["record"][1]
        assert [turn.info["valid"] for turn in second.turns] == [False, True, True]
        *_, infos = envs.step(("nonsense", "1"))
        assert "record" not in infos
    finally:
        envs.close()


def test_results_that_answer_no_call_of_the_action_are_shown_as_text():
    written = '[{"id": "1", "name": "look", "arguments": "{\\"below\\": 3}"}]'
    env = TurnHooks(ShopEnv(picture=True))
    env.reset()
    forged, _, _, _, _ = env.step(written)  # looks like a call and is none
    assert isinstance(forged, dict)
    assert forged["text"] == '{"pen":2.0}\nThe shop closes soon.'
    assert len(forged["images"]) == 1
    assert "results" not in forged
    called, _, _, _, _ = env.step(Action("", calls=(Call("1", "look", '{"below": 3}'),)))
    assert isinstance(called, dict)
    assert called["results"] == [{"id": "1", "text": '{"pen":2.0}'}]
    roles = [message["role"] for message in env.episode.view(2)]
    assert roles == ["system", "user", "assistant", "user", "assistant", "tool", "user"]


def test_every_call_has_a_result_also_where_the_environment_answers_by_text_or_not_at_all():
    calls = (Call("a", "look", "{}"), Call("b", "look", "{}"))
    env = TurnHooks(GoodEnv())
    env.reset(seed=0)
    answer, *_ = env.step(Action("", calls=calls))
    assert isinstance(answer, dict)
    said, none = answer["results"]
    assert (said["id"], none) == ("a", {"id": "b", "text": "(no result)"})
    assert [message["role"] for message in env.episode.view(1)][-3:] == ["assistant", "tool", "tool"]
    assert tied({"text": "on", "results": [{"id": "b", "text": "1"}]}, calls) == {
        "results": [{"id": "b", "text": "1"}, {"id": "a", "text": "(no result)"}],
        "text": "on",
    }
