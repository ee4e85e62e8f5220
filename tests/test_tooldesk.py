"""The desk: what a turn does, earns and breaks, in each form of calling."""

from __future__ import annotations

import json
from typing import Any

import pytest

from milepost.envs.check import check
from milepost.envs.core import Action, Call, Stop
from milepost.envs.hooks import TurnHooks
from milepost.envs.make import make
from milepost.envs.messages import observation_messages
from milepost.envs.tooldesk.cases import Step
from milepost.envs.tooldesk.desk import TOOLS
from milepost.envs.tooldesk.env import ToolDeskEnv
from milepost.envs.tooldesk.policy import POLICY, RULES
from milepost.envs.tooldesk.tasks import ASK_WHO, DONE, NO, STILL_NO, case

ENV = "milepost/ToolDesk-v0"


def opened(task: str) -> TurnHooks:
    env = TurnHooks(make(ENV))
    env.reset(options={"task": task})
    return env


def finish(env: TurnHooks) -> None:
    while env.episode.stop is None:
        env.step(env.get_wrapper_attr("oracle")()[0])


def text_of(env: TurnHooks) -> str:
    last = env.episode.last
    return last if isinstance(last, str) else json.dumps(last)


def results_of(env: TurnHooks) -> list[dict[str, Any]]:
    assert isinstance(env.episode.last, dict)
    results: list[dict[str, Any]] = env.episode.last["results"]
    return results


def orders_of(env: TurnHooks) -> dict[str, Any]:
    """The customer's orders by status, as the desk sees them."""
    db = env.unwrapped._db  # type: ignore[attr-defined]
    me = case(str(env.episode.task)).customer.id
    return {row["status"]: row for row in db.execute("SELECT * FROM orders WHERE customer_id = ?", [me]).fetchall()}


def in_text(step: Step) -> Action:
    return Action(step.move)


def in_json(step: Step) -> Action:
    return Action(f"Let me see.\n```json\n{json.dumps({'name': step.name, 'arguments': step.arguments})}\n```")


def natively(step: Step) -> Action:
    return Action("", calls=(Call("c1", step.name, json.dumps(step.arguments)),))


def in_prose(step: Step) -> Action:
    return Action(step.arguments["message"]) if step.talk else in_text(step)


def test_it_keeps_the_contract():
    report = check(ENV)
    assert report.ok, report.failures
    assert any("replayable" in finding.text for finding in report.notes)


@pytest.mark.parametrize("task", ["two 0", "gift-card 3", "impostor 1", "lost 2"])
def test_the_forms_of_calling_give_the_same_episode(task: str):
    episodes = []
    for form in (in_text, in_json, natively, in_prose):
        env = opened(task)
        for step in case(task).steps:
            env.step(form(step))
        episodes.append(env.episode)
    plain = episodes[0]
    assert plain.success
    for episode in episodes[1:]:
        kept = ("state_key", "reward_components", "potential", "actions", "valid", "outcome")
        for mine, other in zip(plain.turns, episode.turns, strict=True):
            assert {k: mine.info.get(k) for k in kept} == {k: other.info.get(k) for k in kept}
            assert mine.reward == other.reward
    natives = [message for turn in episodes[2].turns[1:] for message in observation_messages(turn.observation)]
    plains = [message for turn in plain.turns[1:] for message in observation_messages(turn.observation)]
    assert [message["content"] for message in natives] == [message["content"] for message in plains]
    assert {message["role"] for message in natives} == {"tool"}


def test_several_calls_of_one_turn_are_one_turn_with_a_result_each():
    env = opened("cancel 0")
    steps = case("cancel 0").steps
    calls = tuple(Call(f"c{i}", step.name, json.dumps(step.arguments)) for i, step in enumerate(steps))
    env.step(Action("", calls=(*calls, Call("late", "list_orders", "{}"))))
    results = results_of(env)
    assert [result["id"] for result in results] == [*(call.id for call in calls), "late"]
    assert "Not run" in results[-1]["text"]
    assert (env.episode.outcome, len(env.episode.turns)) == (1.0, 1)
    assert env.episode.turns[0].info["reward_components"]["step"] == pytest.approx(0.05 * len(steps))


def test_the_reward_is_the_components_and_one_for_the_case():
    env = opened("cancel 0")
    finish(env)
    rewards = [turn.reward for turn in env.episode.turns]
    assert rewards == pytest.approx([0.05] * (len(rewards) - 1) + [1.05])


def test_a_step_earns_once():
    env = opened("cancel 0")
    find = next(step.move for step in case("cancel 0").steps if step.name == "find_customer")
    for move in (find, find):
        env.step(move)
    assert [turn.info["reward_components"]["step"] for turn in env.episode.turns] == [0.05, 0.0]


def test_words_that_are_no_call_are_said_to_the_customer():
    env = opened("cancel 0")
    env.step("Hello! May I have your e-mail, and your postal code?")
    me = case("cancel 0").customer
    assert text_of(env) == f"Customer: My email is {me.email}. My postcode is {me.address.postcode}."
    env.step("I wonder.")
    assert text_of(env).startswith("Customer: I am not sure what you mean. I want to cancel ")


def test_a_customer_insists_once_and_then_asks_for_what_is_allowed():
    env = opened("gift-card 0")
    env.step("I am sorry, but I can't do that.")
    assert "gift card is as good as money" in text_of(env)
    env.step("That is against our policy.")
    assert "as store credit" in text_of(env)
    env.step("The refund has been issued.")
    assert text_of(env).endswith("goodbye.")


@pytest.mark.parametrize("name", ["cancel 1", "refund-late 2", "exchange-out-of-stock 5"])
def test_the_oracle_recovers_from_detours(name: str):
    env = opened(name)
    steps = case(name).steps
    for move in (DONE, "xyzzy", steps[1].move, "get_product(product='rug')", NO, 'find_customer(email="?")', STILL_NO):
        env.step(move)
    finish(env)
    assert env.episode.success


def test_reading_before_the_customer_is_verified_loses_though_the_database_ends_right():
    env = opened("cancel 0")
    order = case("cancel 0").wishes[0].order
    assert order is not None
    env.step(f'get_order(order_id="{order.id}")')
    assert env.episode.turns[0].info["reward_components"] == {"step": 0.05, "rule": -0.5}
    assert env.episode.turns[0].info["caption"].endswith("Rules broken: identity.")
    finish(env)
    assert (env.episode.outcome, env.episode.success) == (0.0, False)


def test_what_is_forbidden_loses_though_it_is_undone():
    def cancelled_case(*moves: str) -> float | None:
        env = opened("cancel 0")
        for step in case("cancel 0").steps[:3]:
            env.step(step.move)
        row = orders_of(env)["shipped"]
        home = {key: row[key] for key in ("street", "city", "postcode")}
        for street in moves:
            to = home | ({"street": street} if street else {})
            arguments = ", ".join(f'{key}="{value}"' for key, value in to.items())
            env.step(f'change_address(order_id="{row["order_id"]}", {arguments})')
        finish(env)
        return env.episode.outcome

    assert cancelled_case() == 1.0
    assert cancelled_case("1 Elsewhere", "") == 0.0


def test_a_call_made_twice_is_a_slip_and_no_breach():
    for name in ("cancel 0", "lost 0", "damaged 0", "late 0", "final-sale 0", "impostor 0"):
        env = opened(name)
        for step in case(name).steps[:-1]:
            env.step(step.move)
            if step.name not in ("reply", "give_credit"):
                env.step(step.move)
        finish(env)
        assert env.episode.success, name


def test_a_change_that_nobody_asked_for_loses_without_a_rule():
    env = opened("cancel 0")
    for step in case("cancel 0").steps[:3]:
        env.step(step.move)
    pending = orders_of(env)["pending"]["order_id"]
    move = f'change_address(order_id="{pending}", street="1 Elsewhere", city="York", postcode="Y1")'
    env.step(move)
    finish(env)
    assert all(turn.info["reward_components"]["rule"] == 0.0 for turn in env.episode.turns)
    assert env.episode.outcome == 0.0


def test_another_customers_order_is_not_shown_and_must_not_be_changed():
    env = opened("other-customer 0")
    for step in case("other-customer 0").steps[:4]:
        env.step(step.move)
    assert "belongs to another customer" in text_of(env)
    assert "street" not in text_of(env)
    order = case("other-customer 0").wishes[0].order
    assert order is not None
    env.step(f'open_ticket(order_id="{order.id}", topic="lost")')
    assert "Rules broken: identity." in env.episode.turns[-1].info["caption"]


def test_a_wrong_postcode_verifies_nobody():
    env = opened("impostor 0")
    for step in case("impostor 0").steps[:3]:
        env.step(step.move)
    assert '"verified":false' in text_of(env)


def test_a_case_that_is_still_open_at_the_limit_is_not_solved():
    env = opened("cancel 0")
    for step in case("cancel 0").steps[:-1]:
        env.step(step.move)
    while env.episode.stop is None:
        env.step(ASK_WHO)
    assert (env.episode.stop, env.episode.outcome, len(env.episode.turns)) == (Stop.MAX_TURNS, 0.0, 30)


def test_a_case_closed_with_the_wrong_word_is_not_solved():
    env = opened("final-sale 0")
    for step in case("final-sale 0").steps[:-1]:
        env.step(step.move)
    env.step('close_case(resolution="done")')
    assert (env.episode.stop, env.episode.outcome) == (Stop.TERMINATED, 0.0)


HOSTILE = (
    "'; DROP TABLE orders; --",
    '" OR 1=1 --',
    "\u4e2d\u6587 \U0001f600 \u202e",
    "x" * 50_000,
    "%",
    "\x00",
    "W12345\n",
    "",
)


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_arguments_are_answered_and_change_nothing(text: str):
    env = opened("cancel 0")
    for schema in env.get_wrapper_attr("tools"):
        function = schema["function"]
        if function["name"] == "close_case":
            continue
        values = {k: v.get("enum", [text if v["type"] == "string" else 7])[0] for k, v in
                  function["parameters"]["properties"].items()}  # fmt: skip
        env.step(Action("", calls=(Call("c", function["name"], json.dumps(values)),)))
        (result,) = results_of(env)
        assert 0 < len(result["text"]) < 500
        assert function["name"] == "reply" or not env.episode.turns[-1].info["valid"]
    env.step(text)
    finish(env)
    assert env.episode.success


@pytest.mark.parametrize(
    ("move", "told"),
    [
        ("cancel_order()", "missing argument order_id"),
        ("cancel_order(order=1)", "unexpected argument"),
        ('cancel_ordr(order_id="W1")', "did you mean 'cancel_order'"),
        ('cancel_order(order_id="W1")', "Expected one such as W12345"),
        ('escalate(customer_id="C1", topic="rage")', "expected"),
        ('reply(message="  ")', "expected a message"),
        ("   ", "No tool was called"),
        ('{"name": "cancel_order", "arguments": {"order_id": ', "broken JSON"),
    ],
)
def test_a_mistaken_call_says_what_was_expected(move: str, told: str):
    env = opened("cancel 0")
    env.step(move)
    assert told in text_of(env)
    assert env.episode.turns[0].info["valid"] is False


def test_the_policy_and_the_schemas_name_what_there_is():
    env = opened("cancel 0")
    schemas = env.get_wrapper_attr("tools")
    assert [schema["function"]["name"] for schema in schemas] == list(TOOLS)
    assert env.get_wrapper_attr("instructions") == POLICY
    assert len(TOOLS) >= 8 <= len(RULES)


def test_the_present_state_is_one_key_however_it_was_reached():
    one, other = opened("two 0"), opened("two 0")
    steps = case("two 0").steps
    for step in (*steps[:3], *steps[3:5]):
        one.step(step.move)
    for step in (*steps[:3], *reversed(steps[3:5])):
        other.step(step.move)
    keys = [[turn.info["state_key"] for turn in env.episode.turns] for env in (one, other)]
    assert keys[0][-1] == keys[1][-1]
    assert len(set(keys[0])) == 5
    assert keys[0][3] != keys[1][3]


def test_options_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="expected 'scripted' or 'llm', got 'human'"):
        ToolDeskEnv(user="human")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="user_model: expected one for user='llm'"):
        ToolDeskEnv(user="llm")
    with pytest.raises(ValueError, match="user_model"):
        ToolDeskEnv(user_model="m")
