"""The shop of a case, with customers and orders, drawn from the task's name alone."""

from __future__ import annotations

from datetime import timedelta
from random import Random
from typing import Any

from milepost.envs.tooldesk.cases import Address, Bought, Customer
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
