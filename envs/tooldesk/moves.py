"""The moves that make sense now: every tool with the ids and facts that the agent has seen."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Sequence

from milepost.envs.tooldesk.cases import Case, plain
from milepost.envs.tooldesk.tasks import ASK_WHERE, ASK_WHO, DONE, NO

MAX_MOVES = 60
_TOPICS = ("cancel", "address", "item", "refund", "exchange", "credit")


def admissible(
    db: sqlite3.Connection, case: Case, seen: Collection[str], told: Collection[str], right: Sequence[str]
) -> list[str]:
    """Return at most 60 plain text calls; where there are more, every so manieth, and always those of ``right``."""
    moves = [plain("reply", {"message": text}) for text in (ASK_WHO, ASK_WHERE, NO, DONE)]
    moves += [plain("close_case", {"resolution": word}) for word in ("done", "refused", "escalated")]
    email = case.customer.email
    if "email" in told:
        moves.append(plain("find_customer", {"email": email}))
    for customer in sorted(name for name in seen if name[0] == "C"):
        one = {"customer_id": customer}
        if "postcode" in told:
            moves.append(plain("verify_customer", one | {"email": email, "postcode": case.postcode}))
        moves.append(plain("list_orders", one))
        moves += [plain("escalate", one | {"topic": topic}) for topic in ("identity", "large_refund")]
    for order in sorted(name for name in seen if name[0] == "W"):
        moves += _about(db, case, order, seen, told)
    moves = list(dict.fromkeys(moves))
    if len(moves) > MAX_MOVES - len(right):
        n = MAX_MOVES - len(right)
        moves = [moves[i * len(moves) // n] for i in range(n)]
    return [*moves, *(move for move in right if move not in moves)]


def _about(db: sqlite3.Connection, case: Case, order: str, seen: Collection[str], told: Collection[str]) -> list[str]:
    one = {"order_id": order}
    moves = [plain(name, one) for name in ("get_order", "cancel_order", "reship_order")]
    moves += [plain("give_credit", {**one, "amount": dollars}) for dollars in (10, 20)]
    moves += [plain("open_ticket", one | {"topic": topic}) for topic in ("lost", "damaged")]
    moves += [plain("record_refusal", one | {"topic": topic}) for topic in _TOPICS]
    if "address" in told:
        moves += [
            plain("change_address", one | to._asdict()) for wish in case.wishes if (to := wish.address) is not None
        ]
    for (sku,) in db.execute("SELECT sku FROM items WHERE order_id = ? ORDER BY sku", [order]).fetchall():
        if sku not in seen:
            continue
        product = sku.partition("-")[0]
        moves.append(plain("get_product", {"product": product}))
        moves += [plain("refund_item", {**one, "sku": sku, "method": method}) for method in ("card", "store_credit")]
        for new in sorted(name for name in seen if name.startswith(f"{product}-")):
            for name in ("exchange_item", *(("change_item",) if new != sku else ())):
                moves.append(plain(name, {**one, "sku": sku, "new_sku": new}))
    return moves
