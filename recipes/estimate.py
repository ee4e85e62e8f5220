"""From what turns earned to advantages, by the estimator's name."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

from milepost.credit import advantage, methods
from milepost.credit.cards import card_of
from milepost.credit.core import Advantages, Credit
from milepost.envs.core import Episode


def estimate(name: str, groups: Sequence[Sequence[Episode]], credits: Sequence[Credit], gamma: float) -> Advantages:
    """Return ``[N][G][T]`` advantages of a batch whose credit is assigned.

    An estimator takes by name what it looks at: ``rewards`` (credit and outcome of every turn), ``groups``, ``gamma``
    (per turn), ``label`` (the process credit that it normalises on its own), ``labels`` (all of them), ``values`` (what
    a critic expected).

    Raises:
        ValueError: There is no such estimator, or it needs a credit that is not there.
    """
    if not groups:
        return []
    estimator = methods.look_up(name)
    if card_of(estimator).kind != "estimator":
        raise ValueError(f"--estimator {name}: expected an estimator, got a {card_of(estimator).kind}")
    earned = [credit.label for credit in credits if credit.channel != "value"]
    expected = [credit.label for credit in credits if credit.channel == "value"]
    takes = inspect.signature(estimator).parameters
    given: dict[str, Any] = {"groups": groups, "gamma": gamma}
    if "rewards" in takes:
        given["rewards"] = advantage.rewards(groups, credits)
    own = [credit for credit in credits if credit.pair == name]
    earned = [credit.label for credit in credits if credit.channel != "value"]
    expected = [credit.label for credit in credits if credit.channel == "value"]
    given["labels"] = earned
    for what, labels, kind in (("label", earned, "method that says what turns earned"), ("values", expected, "critic")):
        labels = [credit.label for credit in own if what == "label" or credit.channel == "value"] or labels
        if what in takes and not labels:
            raise ValueError(f"--estimator {name} needs a {kind} in --credit")
        if labels:
            given[what] = labels[0]
    found: Advantages = estimator(**{key: value for key, value in given.items() if key in takes})
    return found


def paired(name: str, names: Sequence[str]) -> tuple[str, list[str]]:
    """Return the estimator and the credit methods that ``--estimator`` and ``--credit`` ask for.

    An estimator among the methods (``--credit gigpo``) is the estimator. ``auto`` is the one that a method's paper
    pairs it with, of the first method whose paper has one of its own (one that needs a critic only where there is
    one), else ``turn``.
    """
    kinds = {n: card_of(methods.look_up(n)).kind for n in names}
    estimators = [n for n in names if kinds[n] == "estimator"]
    if len(estimators) > 1 or (estimators and name not in ("auto", *estimators)):
        asked = [*estimators, *([] if name == "auto" else [f"--estimator {name}"])]
        raise ValueError(f"--credit {' '.join(names)}: expected one estimator, got {', '.join(asked)}")
    credits = [n for n in names if n not in estimators]
    if name == "auto":
        classes = [methods.find(n) for n in credits]
        critic = any(cls.channel == "value" for cls in classes)
        pairs = [cls.pair for cls in classes if cls.pair != "turn" and (critic or not _needs_critic(cls.pair))]
        name = estimators[0] if estimators else pairs[0] if pairs else "turn"
    return name, credits


def _needs_critic(estimator: str) -> bool:
    return "values" in card_of(methods.look_up(estimator)).needs
