"""The desk's database: its tables, and what two databases have in common."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping
from typing import Any

Rows = Mapping[str, Iterable[tuple[Any, ...]]]
State = dict[str, list[tuple[Any, ...]]]
"""The rows of every table, in order."""

TABLES = {
    "customers": "customer_id PRIMARY KEY, name, email UNIQUE, postcode, tier, store_credit",
    "products": "sku PRIMARY KEY, product, option, price, stock",
    "orders": "order_id PRIMARY KEY, customer_id, status, placed, promised, shipped, delivered, payment, "
    "street, city, postcode",
    "items": "order_id, sku, quantity, price, final_sale, status, PRIMARY KEY (order_id, sku)",
    "verifications": "customer_id PRIMARY KEY",
    "refunds": "order_id, sku, amount, method, PRIMARY KEY (order_id, sku)",
    "exchanges": "order_id, sku, new_sku, PRIMARY KEY (order_id, sku)",
    "credits": "order_id, customer_id, amount",
    "tickets": "order_id, topic, PRIMARY KEY (order_id, topic)",
    "refusals": "order_id, topic, PRIMARY KEY (order_id, topic)",
    "escalations": "customer_id, topic, PRIMARY KEY (customer_id, topic)",
    "closings": "resolution",
}
_SCHEMA = "".join(f"CREATE TABLE {name} ({columns});" for name, columns in TABLES.items())


def fill(rows: Rows) -> sqlite3.Connection:
    """Return a new database in memory with these rows, for the thread that asks."""
    db = sqlite3.connect(":memory:", isolation_level=None)
    db.row_factory = sqlite3.Row
    db.executescript(_SCHEMA)
    db.execute("BEGIN")
    for table, values in rows.items():
        values = list(values)
        if values:
            db.executemany(f"INSERT INTO {table} VALUES ({','.join('?' * len(values[0]))})", values)
    db.execute("COMMIT")
    return db


def state(db: sqlite3.Connection) -> State:
    """Return all rows, sorted, so that equal databases are equal whatever the order of the changes."""
    return {name: sorted((tuple(row) for row in db.execute(f"SELECT * FROM {name}")), key=repr) for name in TABLES}
