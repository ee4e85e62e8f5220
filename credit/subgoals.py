"""What achieved sub-goals pay, and how well a judge sees that they were."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from milepost.credit.shaping import shaped

Mode = Literal["first_only", "every_termination", "pbrs"]
Verdict = Mapping[str, bool]
"""Which sub-goals a transition achieved."""


def bonus(
    verdicts: Sequence[Verdict | None],
    weights: Mapping[str, float],
    mode: Mode = "first_only",
    *,
    gamma: float = 1.0,
    terminated: bool = True,
) -> list[float | None]:
    """[T] what the sub-goals that each transition achieved pay; None where there is no verdict.

    ``first_only``: each once. ``every_termination``: each time. ``pbrs``: ``gamma * Phi(s') - Phi(s)``, Phi being the
    weights achieved so far and 0 in a terminal state; all None where one verdict is missing, for the sum would not
    telescope.
    """
    if mode == "every_termination":
        return [None if v is None else sum(w for k, w in weights.items() if v.get(k)) for v in verdicts]
    achieved: set[str] = set()
    row: list[float | None] = []
    phi = [0.0]
    for verdict in verdicts:
        new = {} if verdict is None else {k: w for k, w in weights.items() if verdict.get(k) and k not in achieved}
        achieved |= new.keys()
        row.append(None if verdict is None else sum(new.values()))
        phi.append(sum(w for k, w in weights.items() if k in achieved))
    if mode == "first_only" or None in verdicts:
        return row if mode == "first_only" else [None] * len(verdicts)
    return [*shaped(phi, gamma=gamma, terminal="zero", terminated=terminated)]


def confusion(gold: Sequence[bool | None], predicted: Sequence[bool | None]) -> dict[str, float]:
    """Return tp, fp, fn, tn, precision, recall, f1 and accuracy; pairs with a None are left out, x / 0 is 0."""
    pairs = [(bool(g), bool(p)) for g, p in zip(gold, predicted, strict=True) if g is not None and p is not None]
    tp, fp, fn, tn = (pairs.count(pair) for pair in ((True, True), (False, True), (True, False), (False, False)))

    def share(part: float, whole: float) -> float:
        return part / whole if whole else 0.0

    precision, recall = share(tp, tp + fp), share(tp, tp + fn)
    f1, accuracy = share(2 * precision * recall, precision + recall), share(tp + tn, len(pairs))
    counts = {"tp": float(tp), "fp": float(fp), "fn": float(fn), "tn": float(tn)}
    return {**counts, "precision": precision, "recall": recall, "f1": f1, "accuracy": accuracy}
