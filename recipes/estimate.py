"""From what turns earned to advantages, by the estimator's name."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

from milepost.agents import distributed
from milepost.credit import advantage, methods
from milepost.credit.cards import card_of
from milepost.credit.core import Advantages, Credit
from milepost.envs.core import Episode


def estimate(name: str, groups: Sequence[Sequence[Episode]], credits: Sequence[Credit], gamma: float) -> Advantages:
    """Return ``[N][G][T]`` advantages of a batch whose credit is assigned; with several ranks, of this rank's groups.

    An estimator takes by name what it looks at: ``rewards`` (credit and outcome of every turn), ``groups``, ``gamma``
    (per turn; 1 where its critic's values are per token, which nothing discounts by turn), ``label`` (the process
    credit that it normalises on its own), ``labels`` (all of them), ``values`` (what a critic expected). One whose
    statistics run over the batch gets the groups of all ranks.

    Raises:
        ValueError: There is no such estimator, or it needs a credit that is not there.
    """
    estimator, labels = methods.look_up(name), _labels(name, credits)
    levels = {credit.label: credit.level for credit in credits}
    ranks = distributed.gather(list(groups)) if card_of(estimator).batch else [list(groups)]
    batch = [group for part in ranks for group in part]
    if not batch:
        return []
    given: dict[str, Any] = {"groups": batch, "gamma": gamma, **labels}
    if levels.get(labels.get("values", "")) == "token":
        given["gamma"] = 1.0
    given["rewards"] = advantage.rewards(batch, credits)
    found: Advantages = estimator(**{key: given[key] for key in _takes(name) if key in given})
    first = sum(len(part) for part in ranks[: distributed.rank()]) if len(ranks) > 1 else 0
    return found[first : first + len(groups)]


def paired(name: str, names: Sequence[str]) -> tuple[str, list[str]]:
    """Return the estimator and the credit methods that ``--estimator`` and ``--credit`` ask for.

    An estimator among the methods (``--credit gigpo``) is the estimator. ``auto`` is the one that a method's paper
    pairs it with, of the first method whose paper has one of its own (one that needs a critic only where there is
    one), else ``turn``.

    Raises:
        ValueError: Two estimators, an unknown one, or one that needs a credit that is not there.
    """
    estimators = [n for n in names if card_of(methods.look_up(n)).kind == "estimator"]
    if len({*estimators, name} - {"auto"}) > 1:
        asked = [*estimators, *([] if name == "auto" else [f"--estimator {name}"])]
        raise ValueError(f"--credit {' '.join(names)}: expected one estimator, got {', '.join(asked)}")
    credits = [n for n in names if n not in estimators]
    classes = [methods.find(n) for n in credits]
    if name == "auto":
        critic = any(cls.channel == "value" for cls in classes)
        pairs = [cls.pair for cls in classes if cls.pair != "turn" and (critic or "values" not in _takes(cls.pair))]
        name = estimators[0] if estimators else pairs[0] if pairs else "turn"
    _labels(name, classes)
    return name, credits


def _labels(name: str, credits: Sequence[Credit | type[Credit]]) -> dict[str, Any]:
    """Return which credits an estimator reads: those that pair with it, else the first of their kind."""
    kind = card_of(methods.look_up(name)).kind
    if kind != "estimator":
        raise ValueError(f"--estimator {name}: expected an estimator, got a {kind}")
    takes = _takes(name)
    own = [credit.label for credit in credits if credit.pair == name]
    earned = [credit.label for credit in credits if credit.channel != "value"]
    expected = [credit.label for credit in credits if credit.channel == "value"]
    if "label" in takes and not own + earned:
        raise ValueError(f"--estimator {name} needs a method in --credit that says what turns earned")
    if "values" in takes and not expected:
        raise ValueError(f"--estimator {name} needs a critic in --credit")
    read = (own + earned)[:1]
    if "label" in takes and read[0] not in expected and (unread := [label for label in earned if label not in read]):
        raise ValueError(f"--estimator {name} reads {read[0]!r} alone, not {', '.join(unread)} (turn adds them up)")
    first = {"label": read, "values": [label for label in own + expected if label in expected][:1]}
    return {"labels": earned} | {what: label for what, labels in first.items() for label in labels}


def _takes(name: str) -> set[str]:
    return set(inspect.signature(methods.look_up(name)).parameters)
