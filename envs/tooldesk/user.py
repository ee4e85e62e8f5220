"""The customer: scripted, with facts that are told when asked for; or a language model that plays the same one."""

from __future__ import annotations

import re
from collections.abc import Callable

from milepost.envs.core import Action, Message
from milepost.envs.tooldesk.cases import Case, Wish

MAX_CHARS = 4000
"""What is beyond is not read."""
_FACTS = {
    "email": re.compile(r"e-?mail", re.I),
    "postcode": re.compile(r"post ?code|postal|\bzip", re.I),
    "name": re.compile(r"\b(your|full|first|last|account) name", re.I),
    "address": re.compile(r"(?<!mail )address(?!es? (was|is|has|have)\b)|where .*(send|deliver)", re.I),
    "order": re.compile(r"order (number|id)|which order|number of (the|your) order", re.I),
}
_WHO = re.compile(r"verify|identi|who (are you|you are)", re.I)
_ASKS = re.compile(r"\?|\b(please|provide|tell|give|confirm|share|need|may i)\b", re.I)
_NO = re.compile(
    r"\b(can ?not|can't|could ?n[o']t|unable|not (able|allowed|possible|permitted|eligible)|impossible|refused?"
    r"|declined?|won't|will not|unfortunately|no longer|against (our|the) policy|final sale|escalat\w+|supervisor"
    r"|(pass|hand)(ed)? (it|this|you) (on|over))\b",
    re.I,
)
_YES = re.compile(
    r"\b(done|cancell?ed|refunded|changed|exchanged|updated|opened|re-?shipped|re-?sent|credited|issued|completed?"
    r"|swapped|replaced|processed|all set|taken care|has been|have been|is on its way|given|granted)\b",
    re.I,
)
_ELSE = re.compile(r"anything else|any other|something else|else i can|further", re.I)
GOODBYE = "No, that is all. Thank you, goodbye."


class ScriptedUser:
    """Reads messages by their key words; a refusal is objected to once and then accepted.

    ``events`` says what came to pass: ``told FACT``, ``refused N``, ``answered N`` (the N-th wish got its answer).
    """

    def __init__(self, case: Case) -> None:
        self.case = case
        self.events: set[str] = set()
        self._stage = 0
        self._n_refused = 0

    def opening(self) -> str:
        """Greet and say the first wish."""
        return f"Hello. {self.case.wishes[0].text}"

    def answer(self, message: str) -> str:
        """Answer what is asked; else object, accept, go on to the next wish, or say the present one again."""
        message = message[:MAX_CHARS]
        asked = self._asked(message)
        untold = [fact for fact in asked if f"told {fact}" not in self.events]
        if untold:
            return self._tell(untold)
        if _NO.search(message) and self._wish is not None:
            self.events.add(f"refused {self._stage}")
            self._n_refused += 1
            return self._wish.insists if self._n_refused == 1 else self._next("That is a pity, but so be it.")
        if asked and not _ELSE.search(message):
            return self._tell(asked)
        if _YES.search(message) or _ELSE.search(message):
            return self._next("Thank you.")
        return f"I am not sure what you mean. {self._wish.text}" if self._wish else GOODBYE

    @property
    def _wish(self) -> Wish | None:
        wishes = self.case.wishes
        return wishes[self._stage] if self._stage < len(wishes) else None

    def _next(self, word: str) -> str:
        if self._wish is not None:
            self.events |= {f"refused {self._stage}", f"answered {self._stage}"}
            self._stage, self._n_refused = self._stage + 1, 0
        return f"{word} {self._wish.text}" if self._wish else f"{word} {GOODBYE}"

    def _asked(self, message: str) -> list[str]:
        if not _ASKS.search(message):
            return []
        asked = {fact for fact, words in _FACTS.items() if words.search(message)}
        if _WHO.search(message):
            asked |= {"name", "email", "postcode"}
        return [fact if fact != "address" else f"address {place}" for fact in _FACTS if fact in asked
                if (place := self._place()) is not None or fact != "address"]  # fmt: skip

    def _place(self) -> int | None:
        """Return the newest wish with an address."""
        wishes = enumerate(self.case.wishes[: self._stage + 1])
        return max((i for i, wish in wishes if wish.address is not None), default=None)

    def _tell(self, facts: list[str]) -> str:
        self.events |= {f"told {fact}" for fact in facts}
        return " ".join(map(self._fact, facts))

    def _fact(self, fact: str) -> str:
        me = self.case.customer
        if fact == "order":
            wish = self._wish or self.case.wishes[-1]
            text = f"It is {wish.order}." if wish.order else wish.text
            return text if wish.order is None or wish.order.known else f"I do not have the number. {text}"
        if fact.startswith("address"):
            return f"The new address is {self.case.wishes[int(fact.split()[1])].address}."
        value = {"name": me.name, "email": me.email, "postcode": self.case.postcode}[fact]
        return f"My {fact} is {value}."


class LLMUsers:
    """The endpoint that plays customers: one environment's.

    It is asked in an event loop in a thread of its own, since ``step`` may be called where another loop is running.
    """

    def __init__(self, model: str, base_url: str | None) -> None:
        import asyncio
        from concurrent.futures import ThreadPoolExecutor

        from milepost.envs.endpoint import Endpoint

        self._model, self._endpoint = model, Endpoint(base_url)
        self._runner = asyncio.Runner()
        self._thread = ThreadPoolExecutor(1, "tooldesk-user")
        self._closed = False

    def take(self, case: Case, seed: int) -> LLMUser:
        """Return the customer of a case."""
        return LLMUser(case, self._ask, seed)

    def _ask(self, messages: list[Message], seed: int) -> str:
        chat = self._endpoint.chat(self._model, messages, seed=seed)
        answer: Action = self._thread.submit(self._runner.run, chat).result()
        return answer.text

    def close(self) -> None:
        """Close the connections, once."""
        if self._closed:
            return
        self._closed = True
        self._thread.submit(self._runner.run, self._endpoint.aclose()).result()
        self._thread.submit(self._runner.close).result()
        self._thread.shutdown()


class LLMUser(ScriptedUser):
    """A language model that plays the customer; it knows the wishes and the facts, and neither policy nor goal.

    The script goes on beside it, for which wish is the present one.
    """

    def __init__(self, case: Case, ask: Callable[[list[Message], int], str], seed: int) -> None:
        super().__init__(case)
        self._ask, self._seed = ask, seed
        self._messages: list[Message] = [
            {"role": "system", "content": persona(case)},
            {"role": "assistant", "content": self.opening()},
        ]

    def answer(self, message: str) -> str:
        """Ask the model for the customer's next words.

        Raises:
            EndpointError: The endpoint failed for good.
        """
        told = {event for event in self.events if event.startswith("told ")}
        super().answer(message)
        self._messages.append({"role": "user", "content": message[:MAX_CHARS] or "(nothing)"})
        text = self._ask(self._messages, self._seed + len(self._messages)).strip() or "..."
        self._messages.append({"role": "assistant", "content": text})
        self.events = {event for event in self.events if not event.startswith("told ")} | told | self._said(text)
        return text

    def _said(self, text: str) -> set[str]:
        case = self.case
        facts = {"name": case.customer.name, "email": case.customer.email, "postcode": case.postcode}
        facts |= {f"address {i}": wish.address.street for i, wish in enumerate(case.wishes) if wish.address}
        return {f"told {fact}" for fact, value in facts.items() if value.lower() in text.lower()}


def persona(case: Case) -> str:
    """Return what a model has to know to be this customer."""
    me = case.customer
    lines = [
        "You are a customer of a furniture shop and write to its service desk. Write one short message at a time, in",
        "plain words, as the customer only. Your first message is already sent. Tell what you know only when asked for",
        "it, and invent nothing. Come with one wish at a time, in this order; the next one after the answer to the one",
        "before. If a wish is refused, insist once; if it is refused again, accept that. When all wishes are answered,",
        "say that this is all, and goodbye.",
        f"Your name: {me.name}. Your email: {me.email}. Your postcode, as you give it: {case.postcode}.",
    ]
    for i, wish in enumerate(case.wishes, 1):
        lines.append(f"Wish {i}: {wish.text}")
        if wish.address:
            lines.append(f"The new address, when asked: {wish.address}.")
        lines.append(f"If it is refused, you may say: {wish.insists}")
    return "\n".join(lines)
