"""The desk's tools: the system lets an agent do what the policy forbids, and remembers it."""

from __future__ import annotations

import sqlite3
from typing import Any, Literal

from milepost.envs.tool_schema import ToolError
from milepost.envs.tooldesk.ledger import Ledger, days
from milepost.envs.tooldesk.policy import LATE_CREDIT, LATE_DAYS, LOST_DAYS, REFUND_LIMIT, TODAY


class Desk(Ledger):
    """Tools over the database of the present case."""

    def reply(self, message: str) -> str:
        """Say something to the customer, and get their answer.

        Args:
            message: What the customer is to read.
        """
        if not message.strip():
            raise ToolError("Nothing was said: expected a message with words in it.")
        return f"Customer: {self.talk(message)}"

    def find_customer(self, email: str) -> dict[str, Any]:
        """Find the account with an email address."""
        row = self.db.execute("SELECT * FROM customers WHERE lower(email) = ?", [email.strip().lower()]).fetchone()
        if row is None:
            raise ToolError("No customer has this email.")
        return {"customer_id": row["customer_id"], "name": row["name"]}

    def verify_customer(self, customer_id: str, email: str, postcode: str) -> dict[str, Any]:
        """Compare email and postcode with the account's; where both match, the customer is verified for this case."""
        row = self._customer(customer_id)
        given, known = (email, postcode), (row["email"], row["postcode"])
        if [_plain(text) for text in given] != [_plain(text) for text in known]:
            return {"customer_id": customer_id, "verified": False}
        self.db.execute("INSERT OR IGNORE INTO verifications VALUES (?)", [customer_id])
        return {
            "customer_id": customer_id,
            "verified": True,
            "tier": row["tier"],
            "store_credit": row["store_credit"],
        }

    def list_orders(self, customer_id: str) -> list[dict[str, Any]]:
        """List a customer's orders, with what was bought."""
        self._customer(customer_id)
        self._forbid(not self._verified(customer_id), "identity")
        rows = self.db.execute("SELECT * FROM orders WHERE customer_id = ? ORDER BY placed, order_id", [customer_id])
        return [
            {"order_id": row["order_id"], "status": row["status"], "placed": row["placed"], "items": self._skus(row)}
            for row in rows.fetchall()
        ]

    def get_order(self, order_id: str) -> dict[str, Any]:
        """Open an order: its dates, address, payment and items."""
        order = self._order(order_id)
        if not self._verified(order["customer_id"]):
            if self.db.execute("SELECT 1 FROM verifications").fetchone():
                return {"order_id": order_id, "note": "This order belongs to another customer than the verified one."}
            self._forbid(True, "identity")
        items = self.db.execute("SELECT * FROM items WHERE order_id = ? ORDER BY sku", [order_id]).fetchall()
        shown = [
            {key: row[key] for key in ("sku", "quantity", "price", "status")} | {"final_sale": bool(row["final_sale"])}
            for row in items
        ]
        return {**dict(order), "items": shown}

    def get_product(self, product: str) -> list[dict[str, Any]]:
        """List the options of a product (the word before the dash of an sku), with price and stock."""
        rows = self.db.execute("SELECT * FROM products WHERE product = ? ORDER BY sku", [product]).fetchall()
        if not rows:
            raise ToolError("No such product; expected the word before the dash of an sku, such as lamp.")
        return [{key: row[key] for key in ("sku", "option", "price", "stock")} for row in rows]

    def cancel_order(self, order_id: str) -> str:
        """Cancel an order; what was paid goes back as it was paid."""
        if self._order(order_id)["status"] == "cancelled":
            raise ToolError("This order is cancelled already.")
        self._mine(order_id, "pending", "cancel")
        self.db.execute("UPDATE orders SET status = 'cancelled' WHERE order_id = ?", [order_id])
        return f"Order {order_id} is cancelled."

    def change_address(self, order_id: str, street: str, city: str, postcode: str) -> str:
        """Change where an order goes.

        Args:
            street: Number and street.
        """
        self._mine(order_id, "pending", "address")
        values = [*(" ".join(text.split()) for text in (street, city, postcode)), order_id]
        self.db.execute("UPDATE orders SET street = ?, city = ?, postcode = ? WHERE order_id = ?", values)
        return f"Order {order_id} goes to {', '.join(values[:3])}."

    def change_item(self, order_id: str, sku: str, new_sku: str) -> str:
        """Put another item in the place of one of a pending order."""
        item, new = self._item(order_id, sku), self._product(new_sku)
        self._mine(order_id, "pending", "item")
        self._forbid(new["product"] != sku.partition("-")[0] or new["stock"] < item["quantity"], "item")
        try:
            values = [new_sku, new["price"], order_id, sku]
            self.db.execute("UPDATE items SET sku = ?, price = ? WHERE order_id = ? AND sku = ?", values)
        except sqlite3.IntegrityError:
            raise ToolError(f"The order has {new_sku} already.") from None
        self._take(new_sku, item["quantity"])
        self._take(sku, -item["quantity"])
        return f"In order {order_id}, {sku} is now {new_sku}."

    def refund_item(self, order_id: str, sku: str, method: Literal["card", "store_credit"]) -> str:
        """Take an item of an order back and refund its price.

        Args:
            method: Where the money goes.
        """
        item = self._item(order_id, sku)
        order, amount = self._taken_back(order_id, item, damaged=False), item["price"] * item["quantity"]
        self._forbid(amount > REFUND_LIMIT, "limit")
        self._forbid(order["payment"] == "gift_card" and method == "card", "method")
        self.db.execute("INSERT INTO refunds VALUES (?, ?, ?, ?)", [order_id, sku, amount, method])
        self._mark(item, "refunded")
        if method == "store_credit":
            values = [amount, order["customer_id"]]
            self.db.execute("UPDATE customers SET store_credit = store_credit + ? WHERE customer_id = ?", values)
        return f"${amount} for {sku} go to {method}."

    def exchange_item(self, order_id: str, sku: str, new_sku: str) -> str:
        """Take a delivered item back and send another one for it."""
        item, new = self._item(order_id, sku), self._product(new_sku)
        damaged = self._ticket(order_id, "damaged")
        self._taken_back(order_id, item, damaged)
        self._forbid(new["product"] != sku.partition("-")[0] or new["stock"] < item["quantity"], "exchange")
        self._forbid(new_sku == sku and not damaged, "exchange")
        self.db.execute("INSERT INTO exchanges VALUES (?, ?, ?)", [order_id, sku, new_sku])
        self._mark(item, "exchanged")
        self._take(new_sku, item["quantity"])
        return f"{sku} of order {order_id} is exchanged for {new_sku}."

    def give_credit(self, order_id: str, amount: int) -> str:
        """Give the order's customer goodwill as store credit.

        Args:
            amount: In whole dollars.
        """
        if not 0 < amount <= 10_000:
            raise ToolError("amount: expected 1 to 10000 dollars.")
        order = self._mine(order_id)
        customer = self._customer(order["customer_id"])
        late = order["delivered"] and days(order["promised"], order["delivered"]) >= LATE_DAYS
        again = self.db.execute("SELECT 1 FROM credits WHERE order_id = ?", [order_id]).fetchone()
        self._forbid(not late or again is not None or amount != LATE_CREDIT[customer["tier"]], "credit")
        self.db.execute("INSERT INTO credits VALUES (?, ?, ?)", [order_id, customer["customer_id"], amount])
        values = [amount, customer["customer_id"]]
        self.db.execute("UPDATE customers SET store_credit = store_credit + ? WHERE customer_id = ?", values)
        return f"${amount} are given as store credit."

    def open_ticket(self, order_id: str, topic: Literal["lost", "damaged"]) -> str:
        """Open a ticket with the warehouse about an order."""
        self._mine(order_id)
        return self._once("tickets", order_id, topic, f"A ticket about order {order_id} is open: {topic}.")

    def reship_order(self, order_id: str) -> str:
        """Send everything of an order once more."""
        order = self._mine(order_id)
        if order["status"] == "reshipped":
            raise ToolError("This order is sent again already.")
        lost = order["status"] == "shipped" and days(order["shipped"], TODAY.isoformat()) > LOST_DAYS
        self._forbid(not (lost and self._ticket(order_id, "lost")), "reship")
        self.db.execute("UPDATE orders SET status = 'reshipped' WHERE order_id = ?", [order_id])
        return f"Order {order_id} is sent again."

    def record_refusal(
        self, order_id: str, topic: Literal["cancel", "address", "item", "refund", "exchange", "credit"]
    ) -> str:
        """Record that a request about an order was refused.

        Args:
            topic: What was asked for.
        """
        self._order(order_id)
        return self._once("refusals", order_id, topic, f"Recorded: {topic} refused for order {order_id}.")

    def escalate(self, customer_id: str, topic: Literal["identity", "large_refund"]) -> str:
        """Hand the request over to a supervisor."""
        self._customer(customer_id)
        return self._once("escalations", customer_id, topic, f"A supervisor will look at it: {topic}.")

    def close_case(self, resolution: Literal["done", "refused", "escalated"]) -> str:
        """Close the case; nothing can be done after it.

        Args:
            resolution: escalated if anything was, else refused if anything was, else done.
        """
        self.db.execute("INSERT INTO closings VALUES (?)", [resolution])
        self.closed = True
        return "The case is closed."


TOOLS = (
    "reply", "find_customer", "verify_customer", "list_orders", "get_order", "get_product", "cancel_order",
    "change_address", "change_item", "refund_item", "exchange_item", "give_credit", "open_ticket", "reship_order",
    "record_refusal", "escalate", "close_case",
)  # fmt: skip
"""The methods that are tools."""


def _plain(text: str) -> str:
    return "".join(text.split()).lower()
