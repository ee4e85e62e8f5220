"""What a method is, on a card: read by ``milepost credit list``, by the docs and by whoever chooses one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeVar, get_args

from milepost.credit.core import Channel, Credit, Level

Kind = Literal["reward", "estimator", "combiner", "loss", "sampler", "schedule", "metric"]
"""What goes in and comes out: turns -> what they earned; all groups -> advantages; signals -> one signal; tokens -> a
loss; states or groups -> which to play or train on; progress -> a coefficient; a batch -> a number to watch."""
NEEDS = frozenset(
    {"outcome", "answer", "aliases", "state_key", "potential", "valid", "caption", "subgoals", "reward_components"}
    | {"process", "entropies", "logprobs", "values"}
    | {"scorer", "token_model", "annotator", "replay", "planner", "privileged", "belief"}
)
"""What a method may need: keys of ``info``, something of the turns, or a part that the recipe gives it."""
F = TypeVar("F", bound=Callable[..., Any])


class Card(NamedTuple):
    """A method at a glance."""

    id: str
    kind: Kind
    level: Level
    needs: frozenset[str]
    channel: Channel | None
    """Where its signal enters (docs/credit.md); None for what is no signal."""
    paper: str
    """``arXiv 2505.10978``, or what else names the source."""
    trains: bool = False
    """Whether it trains a model of its own, in ``fit``."""
    batch: bool = False
    """Whether an estimator's statistics run over the whole batch: the groups of all ranks must be there."""


_CARDS: dict[Callable[..., Any], Card] = {}


def method(
    id: str,
    kind: Kind,
    *,
    paper: str,
    level: Level = "turn",
    needs: str = "",
    channel: Channel | None = None,
    batch: bool = False,
) -> Callable[[F], F]:
    """Give a function its card; ``needs`` are words separated by spaces."""
    words = frozenset(needs.split())
    if unknown := words - NEEDS:
        raise ValueError(
            f"method {id!r}: needs: expected some of {', '.join(sorted(NEEDS))}, got {', '.join(sorted(unknown))}"
        )
    if kind not in get_args(Kind):
        raise ValueError(f"method {id!r}: kind: expected one of {', '.join(get_args(Kind))}, got {kind!r}")

    def give(function: F) -> F:
        _CARDS[function] = Card(id, kind, level, words, channel, paper, batch=batch)
        return function

    return give


def card_of(found: Callable[..., Any]) -> Card:
    """Return the card of a credit method's class, or of a function that ``method`` gave one.

    Raises:
        ValueError: It has none.
    """
    if isinstance(found, type) and issubclass(found, Credit):
        return Card(found.name, "reward", found.level, found.needs, found.channel, found.paper, found.trains)
    if found not in _CARDS:
        raise ValueError(f"{found!r} has no card: give it one with @method(...)")
    return _CARDS[found]
