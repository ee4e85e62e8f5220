"""An agent that is helpful and careless: it grants every wish at once and reads no policy.

A function of the messages alone: what a desk's numbers have to be compared with.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from milepost.envs.messages import Message
from milepost.envs.tooldesk.cases import plain
from milepost.envs.tooldesk.tasks import ASK_WHERE, ASK_WHO, DONE

_ORDER = re.compile(r"order (W\d{5})|order with the (\w+) (\w+)")


def careless(messages: Sequence[Message]) -> str:
    """Return the next call or words: identify the customer as is the custom, then do whatever they ask."""
    said = [message["content"] for message in messages if message["role"] == "assistant"]
    heard = [message["content"] for message in messages if message["role"] == "user"]
    text = "\n".join(heard)
    email, postcode = re.search(r"My email is (\S+)\.", text), re.search(r"My postcode is ([^.]+)\.", text)
    if not email or not postcode:
        return ASK_WHO
    customer = re.search(r'"customer_id":"(C\d{4})"', text)
    if not customer:
        return plain("find_customer", {"email": email[1]})
    who = {"customer_id": customer[1]}
    verify = plain("verify_customer", who | {"email": email[1], "postcode": postcode[1]})
    if verify not in said:
        return verify
    if "goodbye" in heard[-1]:
        return plain("close_case", {"resolution": "done"})
    wish = next(words for words in reversed(heard) if words.startswith("Customer:") and _ORDER.search(words))
    found = _ORDER.search(wish)
    assert found is not None
    listed = next((words for words in heard if words.startswith('[{"order_id"')), "")
    if not found[1] and not listed:
        return plain("list_orders", who)
    order = found[1] or next(o["order_id"] for o in json.loads(listed) if f"{found[3]}-{found[2]}" in o["items"])
    look = plain("get_order", {"order_id": order})
    if look not in said:
        return look
    if "new address" in wish and "The new address is" not in text:
        return ASK_WHERE
    bought = next(w for w in heard if w.startswith(f'{{"order_id":"{order}"'))
    return next((call for call in _granted(wish, order, bought, text) if call not in said), DONE)


def _granted(wish: str, order: str, bought: str, text: str) -> list[str]:
    """Return the calls that please the customer."""
    one = {"order_id": order}
    skus = {sku.partition("-")[0]: sku for sku in re.findall(r'"sku":"([^"]+)"', bought)}

    def item(words: str) -> dict[str, Any]:
        found = re.search(words, wish)
        assert found is not None, wish
        to = {"new_sku": f"{found[1]}-{found[2]}"} if found.lastindex == 2 else {}
        return {**one, "sku": skus[found[1]], **to}

    if "cancel" in wish:
        return [plain("cancel_order", one)]
    if "new address" in wish:
        street, city, postcode = text.partition("The new address is ")[2].partition(".")[0].split(", ")
        return [plain("change_address", {**one, "street": street, "city": city, "postcode": postcode})]
    if "lost" in wish:
        return [plain("open_ticket", one | {"topic": "lost"}), plain("reship_order", one)]
    if "damaged" in wish:
        broken = item(r"the (\w+) arrived")
        ticket = plain("open_ticket", one | {"topic": "damaged"})
        return [ticket, plain("exchange_item", {**broken, "new_sku": broken["sku"]})]
    if "goodwill" in wish:
        return [plain("give_credit", {**one, "amount": 10})]
    if "refund" in wish:
        method = "store_credit" if "store credit" in wish.lower() else "card"
        return [plain("refund_item", item(r"refund for the (\w+)") | {"method": method})]
    if "change the" in wish and "exchange" not in wish:
        return [plain("change_item", item(r"change the (\w+) to (\w+)"))]
    return [plain("exchange_item", item(r"exchange the (\w+) for (\w+)"))]
