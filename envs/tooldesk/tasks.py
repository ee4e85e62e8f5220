"""The tasks of each split, and the right conduct in each from the first question to the end."""

from __future__ import annotations

from functools import lru_cache
from random import Random

from milepost.envs.tooldesk.cases import Case, Step, Wish, call, say
from milepost.envs.tooldesk.kinds import KINDS
from milepost.envs.tooldesk.world import World

ASK_WHO = "May I have your email address and your postcode, please?"
ASK_WHERE = "What is the new address, please?"
DONE = "That is done. Is there anything else?"
NO = "I am sorry, our policy does not allow that: I cannot do it."
STILL_NO = "I understand, but I cannot make an exception."
HANDED_ON = "I cannot decide this myself; I have passed it on to a supervisor."
SPLITS = {"train": range(12), "valid": range(12, 15), "test": range(15, 18)}


def task_ids(split: str) -> list[str]:
    """Return the tasks of a split: every kind, each with cases of its own.

    Raises:
        ValueError: There is no such split.
    """
    if split not in SPLITS:
        raise ValueError(f"split: expected one of {', '.join(SPLITS)}, got {split!r}")
    return [f"{kind} {n}" for kind in KINDS for n in SPLITS[split]]


@lru_cache(maxsize=512)
def case(task: str) -> Case:
    """Return a task's case, a function of its name.

    Raises:
        ValueError: There is no such task.
    """
    kind, _, n = task.rpartition(" ")
    if kind not in KINDS or n not in map(str, range(18)):
        raise ValueError(f"task: expected one of tasks(split), such as 'cancel 0', got {task!r}")
    world = World(Random(f"tooldesk {task}"))
    wishes = tuple(KINDS[kind](world))
    for status in ("pending", "shipped", "delivered"):
        world.order(status)
    me = world.me
    postcode = world.other.address.postcode if kind == "impostor" else me.address.postcode
    steps = [
        say(ASK_WHO, "told email", "told postcode"),
        call("find_customer", email=me.email),
        call("verify_customer", customer_id=me.id, email=me.email, postcode=postcode),
    ]
    for i, wish in enumerate(wishes):
        steps += _conduct(i, wish, me.id)
    names = {step.name for step in steps}
    resolution = "escalated" if "escalate" in names else "refused" if "record_refusal" in names else "done"
    steps.append(call("close_case", resolution=resolution))
    once = {step.move if step.name != "reply" else str(sorted(step.events)): step for step in steps}
    return Case(task, me, postcode, wishes, tuple(once.values()), world.rows())


def _conduct(i: int, wish: Wish, customer_id: str) -> list[Step]:
    """Return the steps that are right for the i-th wish."""
    steps: list[Step] = []
    if wish.order is not None:
        steps += [] if wish.order.known else [call("list_orders", customer_id=customer_id)]
        steps.append(call("get_order", order_id=wish.order.id))
    if wish.address is not None and not wish.refused:
        steps.append(say(ASK_WHERE, f"told address {i}"))
    steps += wish.steps
    if wish.refused:
        handed_on = any(step.name == "escalate" for step in wish.steps)
        return [*steps, say(HANDED_ON if handed_on else NO, f"refused {i}"), say(STILL_NO, f"answered {i}")]
    return [*steps, say(DONE, f"answered {i}")]
