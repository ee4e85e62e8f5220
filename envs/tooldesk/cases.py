"""What a case is made of: who writes, what they want, and the steps that are right."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, NamedTuple


class Address(NamedTuple):
    """Where an order goes."""

    street: str
    city: str
    postcode: str

    def __str__(self) -> str:
        return ", ".join(self)


class Customer(NamedTuple):
    """Who has an account."""

    id: str
    name: str
    email: str
    tier: str
    address: Address


class Bought(NamedTuple):
    """An order, by the one of its items that the customer talks of."""

    id: str
    product: str
    option: str
    known: bool
    """Whether the customer has the order's number at hand."""

    @property
    def sku(self) -> str:
        """The item's."""
        return f"{self.product}-{self.option}"

    def __str__(self) -> str:
        return f"order {self.id}" if self.known else f"the order with the {self.option} {self.product}"


class Step(NamedTuple):
    """A call of the right conduct, and the events that show that it, or what is as good, was done."""

    name: str
    arguments: dict[str, Any]
    events: frozenset[str]

    @property
    def move(self) -> str:
        """The call as a plain text action."""
        return plain(self.name, self.arguments)

    @property
    def talk(self) -> bool:
        """Whether it only says something, and changes no database."""
        return self.name == "reply"

    @property
    def subgoal(self) -> str:
        """The step in words."""
        values = [str(value) for value in self.arguments.values()]
        return f"{self.name.replace('_', ' ')}: {', '.join(values)}"


def plain(name: str, arguments: dict[str, Any]) -> str:
    """Return a call as a plain text action."""
    return f"{name}({', '.join(f'{key}={json.dumps(value)}' for key, value in arguments.items())})"


def event(name: str, arguments: dict[str, Any]) -> str:
    """Return the mark of a call that was made, the same for arguments that mean the same."""
    loose = name in ("find_customer", "verify_customer")
    values = {k: (v.lower().split() if loose else v.split()) if isinstance(v, str) else v for k, v in arguments.items()}
    joined = {k: ("" if loose else " ").join(v) if isinstance(v, list) else v for k, v in values.items()}
    return f"{name} {json.dumps(joined, sort_keys=True)}"


def call(name: str, **arguments: Any) -> Step:
    """Return the step that is done when this call was."""
    return Step(name, arguments, frozenset([event(name, arguments)]))


def say(message: str, *events: str) -> Step:
    """Return the step of saying something until the customer's side shows these events."""
    return Step("reply", {"message": message}, frozenset(events))


@dataclass(frozen=True)
class Wish:
    """One thing that the customer wants, and what is right to do about it."""

    text: str
    order: Bought | None
    steps: tuple[Step, ...]
    refused: bool = False
    """Whether the right answer is no; the customer then insists once before they accept it."""
    insists: str = "That is not what I expected. Please look again."
    address: Address | None = None
    """Where something is to go, told when asked for."""


@dataclass(frozen=True)
class Case:
    """One task: the shop, the customer, and what they want, one thing after the other."""

    task: str
    customer: Customer
    postcode: str
    """What the customer says it is."""
    wishes: tuple[Wish, ...]
    steps: tuple[Step, ...]
    """The right conduct, to the end."""
    rows: dict[str, list[tuple[Any, ...]]] = field(repr=False)
