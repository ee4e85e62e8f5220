"""The records of the present case, and which rules were broken in them."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from datetime import date

from milepost.envs.tool_schema import ToolError
from milepost.envs.tooldesk.policy import RULES, TODAY, WINDOW_DAYS

Row = sqlite3.Row


class Ledger:
    """What the desk's tools look up and write."""

    db: sqlite3.Connection
    talk: Callable[[str], str]
    """The customer."""
    broken: list[str]
    """The rules that were broken, each time, in order."""
    closed: bool

    def open(self, db: sqlite3.Connection, talk: Callable[[str], str]) -> None:
        """Begin a case."""
        self.db, self.talk, self.broken, self.closed = db, talk, [], False

    def _forbid(self, wrong: bool, rule: str) -> None:
        if wrong:
            assert rule in RULES
            self.broken.append(rule)

    def _customer(self, customer_id: str) -> Row:
        return self._one("customers", "customer_id", customer_id, "C1234, from find_customer")

    def _order(self, order_id: str) -> Row:
        return self._one("orders", "order_id", order_id, "W12345")

    def _product(self, sku: str) -> Row:
        return self._one("products", "sku", sku, "lamp-blue, from get_product")

    def _one(self, table: str, column: str, value: str, such_as: str) -> Row:
        row: Row | None = self.db.execute(f"SELECT * FROM {table} WHERE {column} = ?", [value]).fetchone()
        if row is None:
            raise ToolError(f"There is no such {column}: {value[:40]!a}. Expected one such as {such_as}.")
        return row

    def _mine(self, order_id: str, status: str = "", rule: str = "") -> Row:
        """Return an order that is about to be changed."""
        order = self._order(order_id)
        self._forbid(not self._verified(order["customer_id"]), "identity")
        self._forbid(bool(rule) and order["status"] != status, rule)
        return order

    def _item(self, order_id: str, sku: str) -> Row:
        order = self._order(order_id)
        row: Row | None = self.db.execute(
            "SELECT * FROM items WHERE order_id = ? AND sku = ?", [order_id, sku]
        ).fetchone()
        if row is None:
            raise ToolError(f"Order {order_id} has no {sku[:40]!a}; it has {', '.join(self._skus(order))}.")
        if row["status"] != "kept":
            raise ToolError(f"{sku} of order {order_id} is {row['status']} already.")
        return row

    def _taken_back(self, order_id: str, item: Row, damaged: bool) -> Row:
        order = self._mine(order_id)
        tier = self._customer(order["customer_id"])["tier"]
        delivered = order["status"] == "delivered"
        inside = delivered and days(order["delivered"], TODAY.isoformat()) <= WINDOW_DAYS[tier]
        self._forbid(not inside, "window")
        self._forbid(bool(item["final_sale"]) and not damaged, "final_sale")
        return order

    def _skus(self, order: Row) -> list[str]:
        rows = self.db.execute("SELECT sku FROM items WHERE order_id = ? ORDER BY sku", [order["order_id"]])
        return [row["sku"] for row in rows]

    def _verified(self, customer_id: str) -> bool:
        return (
            self.db.execute("SELECT 1 FROM verifications WHERE customer_id = ?", [customer_id]).fetchone() is not None
        )

    def _ticket(self, order_id: str, topic: str) -> bool:
        row = self.db.execute("SELECT 1 FROM tickets WHERE order_id = ? AND topic = ?", [order_id, topic]).fetchone()
        return row is not None

    def _mark(self, item: Row, status: str) -> None:
        values = [status, item["order_id"], item["sku"]]
        self.db.execute("UPDATE items SET status = ? WHERE order_id = ? AND sku = ?", values)

    def _take(self, sku: str, n: int) -> None:
        self.db.execute("UPDATE products SET stock = stock - ? WHERE sku = ?", [n, sku])

    def _once(self, table: str, key: str, topic: str, text: str) -> str:
        try:
            self.db.execute(f"INSERT INTO {table} VALUES (?, ?)", [key, topic])
        except sqlite3.IntegrityError:
            raise ToolError(f"That is recorded already: {topic}.") from None
        return text


def days(start: str, end: str) -> int:
    """Return the days from one ISO date to another."""
    return (date.fromisoformat(end) - date.fromisoformat(start)).days
