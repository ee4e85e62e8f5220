"""Advantages: pure functions from what turns earned to how much better than expected each turn was.

Everything is ``[N][G][T]``: groups of a batch, attempts of a group, turns of an attempt, lists of unequal length.
``rewards`` reads them from the episodes, an estimator makes advantages of them, ``write`` puts these down:

    advantage.write(groups, advantage.turn_rtg(advantage.rewards(groups, "progress"), gamma=0.9))

A reward of None was never judged: it enters no pool and adds nothing to a return, and its turn stays. A reward of 0 is
a judgement. Which estimator is unbiased stands in docs/credit.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from functools import partial
from itertools import repeat
from typing import Any, Literal, get_args

import numpy as np

from milepost.credit import normalise
from milepost.credit.cards import method
from milepost.credit.core import Credit
from milepost.credit.normalise import Floats, Normaliser, Singleton
from milepost.credit.returns import return_to_go
from milepost.envs.core import ContractError, Episode

Numbers = Sequence[Sequence[Sequence[float | None]]]
"""``[N][G][T]`` in."""
Table = list[list[list[float | None]]]
"""``[N][G][T]`` out, where a turn may not be judged."""
Returns = list[list[list[float]]]
"""``[N][G][T]`` out, a number for every turn."""
Order = Literal["accumulate_then_normalise", "normalise_then_accumulate"]
Scale = Literal["none", "group", "batch"]
"""What deviations are divided by: nothing, the standard deviation of the group, or that of the whole batch."""
Batch = Sequence[Sequence[Episode]]
Credits = str | Credit | Iterable[str | Credit] | Mapping[str | Credit, float]


def rewards(groups: Batch, credits: Credits = (), outcome: float | None = None) -> Table:
    """Return ``[N][G][T]`` what each turn earned: its credit, and the last one the outcome as well.

    ``credits`` are methods or their labels; a mapping gives each a weight. A token credit counts with its sum.
    ``outcome`` is the weight of the outcome. None means 1, and 0 where one of the methods ``includes_outcome`` already;
    of a label alone that is not known. What a critic expected (channel ``value``) is no reward and left out.

    Raises:
        ContractError: No turn of the batch has one of the labels, or an outcome that is asked for is missing.
    """
    given = [credits] if isinstance(credits, str | Credit) else credits if isinstance(credits, Mapping) else [*credits]
    if outcome is None:
        outcome = 0.0 if any(isinstance(c, Credit) and c.includes_outcome for c in given) else 1.0
    scales = given.values() if isinstance(given, Mapping) else repeat(1.0)
    pairs = [pair for pair in zip(given, scales, strict=False) if not _is_value(pair[0])]
    weights = {c if isinstance(c, str) else c.label: w for c, w in pairs}
    _known(groups, weights)
    table: Table = []
    for group in groups:
        rows: list[list[float | None]] = []
        for episode in group:
            row: list[float | None] = []
            for turn in episode.turns:
                earned = [w * float(np.sum(v)) for k, w in weights.items() if (v := turn.credit.get(k)) is not None]
                row.append(sum(earned) if earned else None)
            if not row:
                raise ContractError(f"episode {episode.id!r} has no turns; groups_of leaves it out")
            if outcome:
                row[-1] = (row[-1] or 0.0) + outcome * _outcome(episode)
            if any(value is not None and not np.isfinite(value) for value in row):
                raise ContractError(f"episode {episode.id!r}: expected finite rewards, got {row}")
            rows.append(row)
        table.append(rows)
    return table


def returns(rewards: Numbers, gamma: float = 1.0) -> Returns:
    """Return ``[N][G][T]`` returns-to-go, discounted by turn; an unjudged turn adds nothing."""
    return [
        [return_to_go([0.0 if r is None else r for r in row], gamma).tolist() for row in group]
        for group in _checked(rewards)
    ]


def totals(rewards: Numbers) -> list[list[float]]:
    """Return ``[N][G]`` the sum of each attempt's turns."""
    return [[float(sum(r or 0.0 for r in row)) for row in group] for group in _checked(rewards)]


def normalised(
    values: Numbers,
    normaliser: Normaliser = normalise.center,
    *,
    over: Literal["turn", "group"] = "turn",
    scale: Scale = "none",
    ddof: int = 1,
    eps: float = 1e-6,
) -> Table:
    """Return ``[N][G][T]`` the values less their pool's baseline, in units of ``scale``.

    ``over="turn"``: the pool of turn t is the attempts of the group that are alive at t. ``over="group"``: one pool of
    all turns of all attempts. An unjudged turn is in no pool and stays None. A spread below 1e-8 gives zeros.
    """
    batch = _checked(values)
    if over not in ("turn", "group"):
        raise ValueError(f"over: expected 'turn' or 'group', got {over!r}")
    result = [(_over_turns if over == "turn" else _over_group)(group, normaliser) for group in batch]
    if scale == "none":
        return result
    if scale not in get_args(Scale):
        raise ValueError(f"scale: expected one of {', '.join(get_args(Scale))}, got {scale!r}")
    scopes = [_flat([group]) for group in batch] if scale == "group" else [_flat(batch)] * len(batch)
    return [_divided(group, pool, ddof, eps) for group, pool in zip(result, scopes, strict=True)]


@method("grpo", "estimator", level="episode", paper="arXiv 2402.03300")
def grpo(
    rewards: Numbers,
    *,
    scale: Scale = "group",
    ddof: int = 1,
    eps: float = 1e-6,
    singleton: Singleton = "zero",
) -> Returns:
    """Return ``[N][G][T]`` each attempt's total less its group's mean, over the group's deviation; all turns alike.

    ``scale="none"`` is Dr. GRPO: without the division, easy and hard tasks weigh the same per unit of reward, and a
    small process term stays small where all attempts failed. ``scale="batch"`` divides by one number for all groups.

    Source: Shao et al. 2024, arXiv 2402.03300; Liu et al. 2025, arXiv 2503.20783 (none).
    """
    baseline = partial(normalise.center, singleton=singleton)
    return _spread_out(rewards, baseline, scale, ddof, eps)


@method("rloo", "estimator", level="episode", paper="arXiv 2402.14740")
def rloo(rewards: Numbers, *, singleton: Singleton = "zero") -> Returns:
    """Return ``[N][G][T]`` each attempt's total less the mean of the others in its group; all turns alike.

    Source: Ahmadian et al. 2024, arXiv 2402.14740.
    """
    return _spread_out(rewards, partial(normalise.rloo, singleton=singleton), "none", 1, 0.0)


@method("turn", "estimator", paper="verl issue 7244")
def turn_rtg(
    rewards: Numbers,
    gamma: float = 1.0,
    *,
    singleton: Singleton = "zero",
    leave_one_out: bool = True,
    scale: Scale = "none",
    order: Order = "accumulate_then_normalise",
) -> Returns:
    """Return ``[N][G][T]`` return-to-go less the mean return-to-go of the other attempts alive at that turn.

    Exactly unbiased with ``singleton="raw"``: who is alive at t is decided by earlier actions alone. The default gives
    the last survivor 0: a small bias for less variance. ``leave_one_out=False`` counts the attempt in its own baseline
    and shrinks each term by (n - 1) / n. ``order="normalise_then_accumulate"`` is biased where attempts differ in
    length: its baseline has as many terms as the attempt has turns, so it depends on the choice to stop.
    """
    baseline = partial(normalise.rloo if leave_one_out else normalise.center, singleton=singleton)
    if order == "accumulate_then_normalise":
        return _whole(normalised(returns(rewards, gamma), baseline, scale=scale))
    _known_order(order)
    return returns(normalised(rewards, baseline, scale=scale), gamma)


@method("pooled", "estimator", needs="outcome process", channel="separate", paper="arXiv 2510.14967")
def pooled(
    groups: Batch,
    label: str,
    *,
    pools: Literal["separate", "joint"] = "separate",
    gamma: float = 1.0,
    weight: float = 1.0,
    order: Order = "normalise_then_accumulate",
    normaliser: Normaliser = normalise.igpo_pop,
    last: Literal["both", "outcome"] = "both",
) -> Returns:
    """Return ``[N][G][T]`` sums to the end of normalised credit and normalised outcome.

    ``pools="separate"`` normalises all credit of a group in one pool and its outcomes in another and adds ``weight``
    times the first; ``"joint"`` adds weighted credit and outcome first and has one pool. ``last="outcome"``: the last
    turn earns the outcome instead of credit, which enters no pool. ``order="accumulate_then_normalise"`` normalises
    returns-to-go among the attempts alive at each turn instead: the published order charges ``mean / deviation`` of
    the pool for every further turn.

    Source: Wang et al. 2025, arXiv 2510.14967 (the defaults).
    """
    credit = rewards(groups, label, outcome=0.0)
    ends: Table = [[[None] * (len(e.turns) - 1) + [_outcome(e)] for e in group] for group in groups]
    if last == "outcome":
        credit = [[[*row[:-1], None] for row in group] for group in credit]
    if pools == "joint":
        channels = [(1.0, _sum([(weight, credit), (1.0, ends)]))]
    elif pools == "separate":
        channels = [(weight, credit), (1.0, ends)]
    else:
        raise ValueError(f"pools: expected 'separate' or 'joint', got {pools!r}")
    if order == "normalise_then_accumulate":
        return returns(_sum([(w, normalised(c, normaliser, over="group")) for w, c in channels]), gamma)
    _known_order(order)
    return _whole(_sum([(w, normalised(returns(c, gamma), normaliser)) for w, c in channels]))


def write(groups: Batch, advantages: Sequence[Sequence[Sequence[Any]]]) -> None:
    """Put ``[N][G][T]`` advantages into ``turn.advantage``: numbers, ``[A]`` numbers per token, or None (not trained).

    Raises:
        ContractError: A length differs, or a number is not finite; then nothing was written.
    """
    _length("groups", len(groups), advantages)
    pairs = []
    for group, rows in zip(groups, advantages, strict=True):
        _length(f"group {group[0].group!r}: rows" if group else "an empty group: rows", len(group), rows)
        for episode, row in zip(group, rows, strict=True):
            _length(f"episode {episode.id!r}: values", len(episode.turns), row)
            for t, (turn, value) in enumerate(zip(episode.turns, row, strict=True)):
                where = f"advantages: episode {episode.id!r}, turn {t}"
                if value is not None and not np.isfinite(value).all():
                    raise ContractError(f"{where}: expected finite numbers, got {value}")
                n = len(turn.action.tokens.ids) if turn.action.tokens else 0
                if isinstance(value, np.ndarray) and value.shape != (n,):
                    raise ContractError(
                        f"{where}: expected shape ({n},), a number per sampled token, got {value.shape}"
                    )
                pairs.append((turn, value if value is None or isinstance(value, np.ndarray) else float(value)))
    for turn, value in pairs:
        turn.advantage = value


def _spread_out(rewards: Numbers, baseline: Normaliser, scale: Scale, ddof: int, eps: float) -> Returns:
    """Normalise totals, each attempt counted once, and give every turn its attempt's."""
    columns = [[[total] for total in group] for group in totals(rewards)]
    values = _whole(normalised(columns, baseline, scale=scale, ddof=ddof, eps=eps))
    return [
        [value * len(row) for value, row in zip(column, group, strict=True)]
        for column, group in zip(values, rewards, strict=True)
    ]


def _over_turns(group: Sequence[Sequence[float | None]], normaliser: Normaliser) -> list[list[float | None]]:
    result: list[list[float | None]] = [[None] * len(row) for row in group]
    for t in range(max(map(len, group), default=0)):
        alive = [(i, v) for i, row in enumerate(group) if t < len(row) and (v := row[t]) is not None]
        for (i, _), value in zip(alive, normaliser(np.array([v for _, v in alive])), strict=True):
            result[i][t] = float(value)
    return result


def _over_group(group: Sequence[Sequence[float | None]], normaliser: Normaliser) -> list[list[float | None]]:
    values = iter(normaliser(_flat([group])).tolist())
    return [[None if v is None else next(values) for v in row] for row in group]


def _flat(batch: Numbers) -> Floats:
    return np.array([v for group in batch for row in group for v in row if v is not None], dtype=np.float64)


def _divided(group: list[list[float | None]], pool: Floats, ddof: int, eps: float) -> list[list[float | None]]:
    """Divide by the pool's deviation; a lone value, which has none, is left as its normaliser gave it."""
    std = normalise.spread(pool, ddof)
    by = 1.0 if len(pool) < 2 else float("inf") if std < normalise.FLAT else std + eps
    return [[None if v is None else v / by for v in row] for row in group]


def _sum(channels: Sequence[tuple[float, Numbers]]) -> Table:
    """Add weighted tables of one shape; None where no channel has a number."""
    shape = channels[0][1]
    at = [
        [[[(w, table[n][g][t]) for w, table in channels] for t in range(len(row))] for g, row in enumerate(group)]
        for n, group in enumerate(shape)
    ]
    return [
        [
            [sum(found) if (found := [w * v for w, v in terms if v is not None]) else None for terms in row]
            for row in group
        ]
        for group in at
    ]


def _whole(table: Table) -> Returns:
    """Read a table in which every turn has a number."""
    return [[[0.0 if v is None else v for v in row] for row in group] for group in table]


def _checked(values: Numbers) -> Numbers:
    for n, group in enumerate(values):
        for g, row in enumerate(group):
            if len(row) == 0:
                raise ValueError(f"rewards: group {n}, attempt {g}: expected at least one turn, got none")
            for t, value in enumerate(row):
                if value is not None and not (isinstance(value, int | float | np.number) and np.isfinite(value)):
                    raise ValueError(
                        f"rewards: group {n}, attempt {g}, turn {t}: expected a finite number, got {value}"
                    )
    return values


def _is_value(credit: str | Credit) -> bool:
    return isinstance(credit, Credit) and credit.channel == "value"


def _outcome(episode: Episode) -> float:
    value = episode.outcome
    if value is None or not np.isfinite(value):
        raise ContractError(f"episode {episode.id!r}: expected a finite outcome, got {value}; groups_of leaves it out")
    return value


def _known(groups: Batch, labels: Iterable[str]) -> None:
    present = {label for group in groups for episode in group for turn in episode.turns for label in turn.credit}
    for label in labels:
        if groups and label not in present:
            close = get_close_matches(label, present, 1)
            hint = f"did you mean {close[0]!r}?" if close else f"there is {', '.join(sorted(present)) or 'no credit'}"
            raise ContractError(f"no turn has credit {label!r}: {hint} (assign writes it, or a hook during play)")


def _known_order(order: str) -> None:
    if order not in get_args(Order):
        raise ValueError(f"order: expected one of {', '.join(get_args(Order))}, got {order!r}")


def _length(what: str, expected: int, got: Sequence[Any]) -> None:
    if len(got) != expected:
        raise ContractError(f"advantages: {what}: expected {expected}, got {len(got)}")
