"""What a case is made of: a shop with customers and orders, drawn from the task's name alone."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import timedelta
from random import Random
from typing import Any, NamedTuple

from milepost.envs.tooldesk.policy import TODAY

CHEAP = {
    "lamp": 45, "chair": 180, "rug": 120, "kettle": 60, "mug": 15, "shelf": 90, "pillow": 30, "blanket": 50,
    "clock": 35, "mirror": 110, "stool": 70, "basket": 25, "vase": 40, "tray": 20,
}  # fmt: skip
DEAR = {"desk": 420, "sofa": 780, "bed": 950, "wardrobe": 640}
OPTIONS = ("white", "black", "blue", "green")
FIRST = (
    "Ana",
    "Ben",
    "Carla",
    "Dev",
    "Emma",
    "Farid",
    "Greta",
    "Hugo",
    "Ines",
    "Jonas",
    "Kira",
    "Liam",
    "Mona",
    "Nils",
)
LAST = (
    "Abbott",
    "Brandt",
    "Costa",
    "Dahl",
    "Evans",
    "Fischer",
    "Garcia",
    "Hansen",
    "Ivanov",
    "Jensen",
    "Keller",
    "Lopez",
)
STREETS = ("Mill Lane", "Station Road", "High Street", "Park Avenue", "Church Street", "Garden Row", "Harbour View")
CITIES = ("Norwich", "Leeds", "Bristol", "York", "Exeter", "Derby")


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


class World:
    """Draws customers and orders; ``me`` is the customer who writes."""

    def __init__(self, rng: Random) -> None:
        self.rng = rng
        self.stock = {f"{name}-{option}": rng.randint(2, 9) for name in (*CHEAP, *DEAR) for option in OPTIONS}
        self._ids = iter(rng.sample(range(10_000, 99_999), 30))
        self._numbers = iter(rng.sample(range(1_000, 9_999), 7))
        self._orders: list[tuple[Any, ...]] = []
        self._items: list[tuple[Any, ...]] = []
        names = rng.sample([f"{first} {last}" for first in FIRST for last in LAST], 7)
        self._people = [self._person(name) for name in names]
        self.me, self.other = self._people[:2]
        self._cheap, self._dear = (rng.sample(sorted(names), len(names)) for names in (CHEAP, DEAR))
        for person in self._people[1:]:
            self.order(rng.choice(("pending", "shipped", "delivered")), owner=person, product=rng.choice(sorted(CHEAP)))

    def address(self) -> Address:
        """Return some address."""
        rng = self.rng
        code = f"{rng.choice('ABDEHLNSY')}{rng.choice('ABDEHLNRS')}{rng.randint(1, 9)} {rng.randint(1, 9)}"
        street = f"{rng.randint(1, 120)} {rng.choice(STREETS)}"
        return Address(street, rng.choice(CITIES), code + rng.choice("ABDEHL") + rng.choice("JLNPQ"))

    def _person(self, name: str) -> Customer:
        first, last = name.lower().split()
        email = f"{first}.{last}{self.rng.randint(1, 99)}@example.com"
        return Customer(
            f"C{next(self._numbers)}", name, email, self.rng.choice(("standard", "standard", "plus")), self.address()
        )

    def order(
        self,
        status: str,
        *,
        owner: Customer | None = None,
        product: str = "",
        dear: bool = False,
        age: int = 0,
        late: int = 0,
        final_sale: bool = False,
        payment: str = "card",
        known: bool | None = None,
    ) -> Bought:
        """Add an order of ``me``, or of ``owner``.

        ``age``: days since it was shipped or delivered (0: a few); ``late``: days after the promised date.
        """
        rng, owner = self.rng, owner or self.me
        mine = owner is self.me
        product = product or (self._dear if dear else self._cheap).pop()
        bought = Bought(
            f"W{next(self._ids)}", product, rng.choice(OPTIONS), rng.random() < 0.5 if known is None else known
        )
        age = age or rng.randint(2, 6)
        placed = age + rng.randint(4, 8) + late if status != "pending" else rng.randint(1, 3)
        shipped = None if status == "pending" else age if status == "shipped" else age + rng.randint(1, 3)
        delivered = age if status == "delivered" else None
        promised = age + late if status == "delivered" else placed - 9
        dates = [
            None if n is None else (TODAY - timedelta(n)).isoformat() for n in (placed, promised, shipped, delivered)
        ]
        self._orders.append((bought.id, owner.id, status, *dates, payment, *owner.address))
        price = (CHEAP | DEAR)[product]
        self._items.append((bought.id, bought.sku, 1, price, int(final_sale), "kept"))
        if mine and rng.random() < 0.5:
            extra = self._cheap.pop()
            self._items.append(
                (bought.id, f"{extra}-{rng.choice(OPTIONS)}", rng.randint(1, 2), CHEAP[extra], 0, "kept")
            )
        return bought

    def option(self, bought: Bought, in_stock: bool = True) -> str:
        """Return another option of the product, in stock or out of it."""
        option = self.rng.choice([option for option in OPTIONS if option != bought.option])
        if not in_stock:
            self.stock[f"{bought.product}-{option}"] = 0
        return option

    def rows(self) -> dict[str, list[tuple[Any, ...]]]:
        """Return the tables."""
        prices = CHEAP | DEAR
        people = [(p.id, p.name, p.email, p.address.postcode, p.tier, 0) for p in self._people]
        products = [(sku, *sku.split("-"), prices[sku.split("-")[0]], n) for sku, n in self.stock.items()]
        return {"customers": people, "products": products, "orders": self._orders, "items": self._items}
