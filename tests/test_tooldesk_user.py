"""The customer, scripted and played by a model behind an endpoint."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from milepost.agents.driver import play
from milepost.agents.scripted import OraclePolicy, ScriptedPolicy
from milepost.envs.core import Episode, Stop, Task
from milepost.envs.hooks import TurnHooks
from milepost.envs.make import make
from milepost.envs.scripted_endpoint import Fault, ScriptedEndpoint
from milepost.envs.tooldesk.tasks import ASK_WHERE, ASK_WHO, DONE, HANDED_ON, NO, case
from milepost.envs.tooldesk.user import GOODBYE, ScriptedUser
from milepost.sandbox.core import EndpointError

ENV = "milepost/ToolDesk-v0"


def user(task: str = "address 0") -> ScriptedUser:
    return ScriptedUser(case(task))


@pytest.mark.parametrize(
    ("message", "fact"),
    [
        ("Could you give me your e-mail address?", "email"),
        ("Please tell me your post code.", "postcode"),
        ("What is your ZIP?", "postcode"),
        ("Sorry to hear that. I can't find you: under which email did you order?", "email"),
        ("Where should I send it?", "address 0"),
        ("Please provide the new delivery address", "address 0"),
        ("Your full name, please", "name"),
    ],
)
def test_a_fact_is_told_when_it_is_asked_for(message: str, fact: str):
    customer = user()
    customer.answer(message)
    assert customer.events == {f"told {fact}"}


def test_who_has_no_number_says_what_was_in_the_order():
    tasks = [f"cancel {n}" for n in range(12)]
    answers = {bool(wish.order and wish.order.known): user(task).answer("Which order number is it?")
               for task in tasks for wish in case(task).wishes}  # fmt: skip
    assert answers[False].startswith("I do not have the number. It is the order with the ")
    assert answers[True].startswith("It is order W")


@pytest.mark.parametrize(
    "message",
    [
        "Unfortunately this is not possible.",
        "I can't change it: the order has left us. Is there anything else?",
        "I'm sorry, we won't be able to do that.",
        HANDED_ON,
        NO,
    ],
)
def test_a_refusal_is_objected_to_once(message: str):
    customer = user("address-shipped 0")
    assert customer.answer(message) == "The driver can surely go there instead. Change it, please."
    assert customer.events == {"refused 0"}
    assert customer.answer(message).endswith(GOODBYE)
    assert "answered 0" in customer.events


@pytest.mark.parametrize("message", [DONE, "I have cancelled it.", "All set!", "Can I help you with anything else?"])
def test_a_result_leads_to_the_next_wish(message: str):
    customer = user("two 0")
    assert customer.answer(message).startswith("Thank you. I want a refund for")
    assert customer.answer(message).endswith(GOODBYE)
    assert customer.answer(message).endswith(GOODBYE)


def test_a_fact_is_told_again_and_odd_words_are_not_understood():
    customer = user()
    assert customer.answer(ASK_WHO) == customer.answer(ASK_WHO)
    assert customer.answer(ASK_WHERE).startswith("The new address is ")
    for odd in ("", "\ud800", "?" * 100_000, "a?" * 50_000, "\u4e2d\u6587"):
        assert customer.answer(odd).startswith("I am not sure what you mean.")


def model_of_the_customer(request: dict[str, Any]) -> str:
    """Play by the persona alone, as a language model would."""
    persona, newest = (request["messages"][place]["content"] for place in (0, -1))
    assert request["messages"][1]["role"] == "assistant", "the customer's own words"
    if "postcode" in newest:
        email, postcode = (persona.partition(f"Your {word}")[2].partition(": ")[2] for word in ("email", "postcode"))
        return f"Sure: {email.partition('. ')[0]}, {postcode.splitlines()[0].rstrip('.')}."
    if "new address" in newest:
        return f"To {persona.partition('when asked: ')[2].splitlines()[0]}"
    return "No, goodbye."


def played(base_url: str, policy: Any, task: str = "address 0") -> Episode:
    options = {"user": "llm", "user_model": "scripted", "user_base_url": base_url}
    (episode,) = play([Task(ENV, options, task=task, group="g")], policy)
    return episode


def test_a_model_can_play_the_customer():
    with ScriptedEndpoint(model_of_the_customer) as base_url:
        episode = played(base_url, OraclePolicy())
    assert episode.success, episode.failure
    words = [turn.observation for turn in episode.turns if str(turn.observation).startswith("Customer: Sure: ")]
    assert len(words) == 1


def test_a_model_that_tells_nothing_is_asked_until_the_limit():
    with ScriptedEndpoint("Why do you ask?") as base_url:
        episode = played(base_url, OraclePolicy())
    assert (episode.stop, episode.outcome) == (Stop.MAX_TURNS, 0.0)
    assert {turn.action.move for turn in episode.turns} == {episode.turns[0].action.move}


def test_an_empty_word_of_the_model_is_the_customers_silence():
    with ScriptedEndpoint("  ") as base_url:
        episode = played(base_url, ScriptedPolicy(["Hello?", 'close_case(resolution="done")']))
    assert episode.turns[1].observation == "Customer: ..."


def test_a_model_can_be_asked_where_an_event_loop_is_running():
    async def ask(base_url: str) -> Any:
        env = make(ENV, user="llm", user_model="scripted", user_base_url=base_url)
        env.reset(options={"task": "address 0"})
        observation, *_ = env.step("Hello?")
        env.close()
        env.close()
        return observation

    with ScriptedEndpoint("hello") as base_url:
        assert asyncio.run(ask(base_url)) == "Customer: hello"


def test_an_endpoint_that_fails_fails_the_episode_and_is_no_score():
    # One try and no waiting: this is about the lane, not about patience.
    with ScriptedEndpoint("hello", faults=[Fault("status", 500)]) as base_url:
        env = TurnHooks(make(ENV, user="llm", user_model="scripted", user_base_url=base_url))
        env.unwrapped._users._endpoint.tries = 1  # type: ignore[attr-defined]
        env.reset(options={"task": "address 0"})
        with pytest.raises(EndpointError):
            env.step(ASK_WHO)
        env.close()
