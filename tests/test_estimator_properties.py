"""What every estimator of the table must keep, as properties; what one does not keep stands in ``EXCEPT``, with why."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, find, given, settings
from hypothesis import strategies as st
from hypothesis.errors import NoSuchExample

from milepost.credit.audit.bias import UNFIT, VARIANTS
from milepost.credit.audit.changes import renamed
from milepost.credit.audit.estimate import estimate, estimators, level_of, numbers
from milepost.credit.audit.groups import attempt
from milepost.credit.methods import TABLE
from milepost.envs.core import Episode, Stop, groups_of

Rows = list[list[float | None]]


class Batch(NamedTuple):
    """Groups, and what their turns earned without the outcome: ``[N][G][T]``."""

    groups: list[list[Episode]]
    earned: list[Rows]

    def __repr__(self) -> str:
        told = [
            [(e.outcome, [e.info_before(t)["state_key"] for t in range(len(e.turns))]) for e in g] for g in self.groups
        ]
        return f"Batch(outcomes and states {told}, earned {self.earned})"


ESTIMATORS: dict[str, Callable[..., Any]] = {
    f"{name}({told})" if told else name: partial(estimator, **options) if options else estimator
    for name, estimator in estimators().items()
    if name not in UNFIT
    for told, options in {"": {}, **VARIANTS.get(name, {})}.items()
}
"""Every estimator of the table, and some with other options than its defaults."""
EIGHTHS = st.integers(-8, 8).map(lambda n: n / 8)
EARNED = st.one_of(st.none(), st.just(0.0), EIGHTHS)
OUTCOMES = st.sampled_from([0.0, 0.25, 1.0])


@st.composite
def batches(draw: st.DrawFn, n_groups: int = 2, n_attempts: int = 4) -> Batch:
    """A batch of up to ``n_groups`` tasks whose states have keys of their own."""
    groups, earned = [], []
    for n in range(draw(st.integers(1, n_groups))):
        group, rows = [], []
        for g in range(draw(st.integers(1, n_attempts))):
            row = draw(st.lists(EARNED, min_size=1, max_size=4))
            states = draw(st.lists(st.integers(0, 3), min_size=len(row) + 1, max_size=len(row) + 1))
            group.append(attempt(g, draw(OUTCOMES), states, task=f"task {n}", scored=[v or 0.0 for v in row]))
            rows.append(row)
        groups.append(group)
        earned.append(rows)
    return Batch(groups, earned)


def advantages(estimator: Callable[..., Any], batch: Batch) -> list[list[list[float]]]:
    return numbers(estimate(estimator, batch.groups, batch.earned))


def close(a: Any, b: Any, tolerance: float = 1e-9) -> bool:
    """Whether two ragged lists of numbers are the same."""
    if isinstance(a, list):
        return len(a) == len(b) and all(close(x, y, tolerance) for x, y in zip(a, b, strict=True))
    return math.isclose(a, b, rel_tol=tolerance, abs_tol=tolerance)


def flat(found: Sequence[Any]) -> list[float]:
    return [x for group in found for row in group for x in row]


def mapped(batch: Batch, change: Callable[[Episode], None]) -> Batch:
    groups = deepcopy(batch.groups)
    for e in (e for group in groups for e in group):
        change(e)
    return Batch(groups, batch.earned)


def with_outcomes(batch: Batch, outcome: Callable[[int, int, float], float]) -> Batch:
    groups = deepcopy(batch.groups)
    for n, group in enumerate(groups):
        for g, e in enumerate(group):
            e.turns[-1].info["outcome"] = outcome(n, g, e.turns[-1].info["outcome"])
    return Batch(groups, batch.earned)


def with_earned(batch: Batch, value: Callable[[float | None], float | None]) -> Batch:
    return Batch(batch.groups, [[[value(v) for v in row] for row in rows] for rows in batch.earned])


# -- the properties: each is told an estimator and a batch, and says whether it holds


def shape(f: Callable[..., Any], batch: Batch) -> bool:
    """Every turn gets a finite number, and what was given is left alone."""
    before = deepcopy(batch)
    found = advantages(f, batch)
    lengths = [[len(e.turns) for e in group] for group in batch.groups]
    finite = all(map(math.isfinite, flat(found)))
    return finite and [[len(row) for row in group] for group in found] == lengths and batch == before


def determinism(f: Callable[..., Any], batch: Batch) -> bool:
    """Asked twice it says the same, bit for bit."""
    return advantages(f, batch) == advantages(f, batch)


def attempts_in_any_order(f: Callable[..., Any], batch: Batch) -> bool:
    """The order of attempts does not matter."""
    back = Batch([group[::-1] for group in batch.groups], [rows[::-1] for rows in batch.earned])
    return close(advantages(f, back), [group[::-1] for group in advantages(f, batch)])


def groups_in_any_order(f: Callable[..., Any], batch: Batch) -> bool:
    """The order of groups does not matter."""
    return close(advantages(f, Batch(batch.groups[::-1], batch.earned[::-1])), advantages(f, batch)[::-1])


def groups_alone(f: Callable[..., Any], batch: Batch) -> bool:
    """A group does not feel the others."""
    alone = [advantages(f, Batch([g], [r]))[0] for g, r in zip(batch.groups, batch.earned, strict=True)]
    return close(advantages(f, batch), alone)


def tasks_share_no_state(f: Callable[..., Any], batch: Batch) -> bool:
    """States of two tasks that have the same key are two states."""
    bare = mapped(batch, lambda e: renamed(e, lambda key: key.partition(":")[2]))
    for group in bare.groups:
        for e in group:
            e.info["task_id"] = e.task
    own = mapped(batch, lambda e: renamed(e, lambda key: f"{e.group} {key}"))
    return close(advantages(f, bare), advantages(f, own))


def names_of_states(f: Callable[..., Any], batch: Batch) -> bool:
    """How a state is called does not matter."""
    return close(advantages(f, batch), advantages(f, mapped(batch, lambda e: renamed(e, lambda key: f"{key}'"))))


def shift(f: Callable[..., Any], batch: Batch) -> bool:
    """Adding a constant to all outcomes changes nothing."""
    return close(advantages(f, batch), advantages(f, with_outcomes(batch, lambda n, g, o: o + 0.5)), 1e-6)


def scale(f: Callable[..., Any], batch: Batch) -> bool:
    """Twice the rewards are twice the advantages, or, where something divides by a deviation, the same."""
    once = advantages(f, batch)
    twice = advantages(
        f, with_earned(with_outcomes(batch, lambda n, g, o: 2 * o), lambda v: None if v is None else 2 * v)
    )
    doubled = [[[2 * a for a in row] for row in group] for group in once]
    return close(twice, doubled, 2e-3) or close(twice, once, 2e-3)


def equal_is_zero(f: Callable[..., Any], batch: Batch) -> bool:
    """Where all did equally well and nothing else was judged, every advantage is exactly 0."""
    flat_batch = with_earned(with_outcomes(batch, lambda n, g, o: 0.3), lambda v: None)
    return set(flat(advantages(f, flat_batch))) <= {0.0}


def nearly_equal_is_nearly_zero(f: Callable[..., Any], batch: Batch) -> bool:
    """Outcomes that differ by 1e-12 are not made loud."""
    near = with_earned(with_outcomes(batch, lambda n, g, o: 0.3 + 1e-12 * g), lambda v: None)
    return max(map(abs, flat(advantages(f, near)))) < 1e-6


def alone_is_zero(f: Callable[..., Any], batch: Batch) -> bool:
    """An attempt of one turn without others to compare with gets 0."""
    group, rows = batch.groups[0], batch.earned[0]
    e, row = replace(group[0], turns=group[0].turns[-1:]), rows[0][-1:]
    return set(flat(advantages(f, Batch([[e]], [[row]])))) == {0.0}


def sums_to_zero(f: Callable[..., Any], batch: Batch) -> bool:
    """Of the outcome alone, the first turns' advantages of a group add up to 0."""
    found = advantages(f, with_earned(batch, lambda v: None))
    return all(abs(sum(row[0] for row in group)) < 1e-6 for group in found)


def turns_alike(f: Callable[..., Any], batch: Batch) -> bool:
    """An estimator whose level is the episode gives all turns of an attempt one number."""
    return level_of(f) != "episode" or all(len(set(row)) == 1 for group in advantages(f, batch) for row in group)


def length_counts_once(f: Callable[..., Any], batch: Batch) -> bool:
    """An estimator whose level is the episode counts an attempt once, however many turns it has."""
    if level_of(f) != "episode":
        return True
    groups, earned = deepcopy(batch.groups), deepcopy(batch.earned)
    groups[0][0].turns.insert(0, deepcopy(groups[0][0].turns[0]))
    groups[0][0].turns[0].info.pop("outcome", None)
    earned[0][0].insert(0, None)
    longer, before = advantages(f, Batch(groups, earned)), advantages(f, batch)
    return close([[row[-1] for row in group] for group in longer], [[row[-1] for row in group] for group in before])


def token_counts(f: Callable[..., Any], batch: Batch) -> bool:
    """How many tokens a turn has does not matter."""

    def more(e: Episode) -> None:
        for t, turn in enumerate(e.turns):
            old = turn.action.tokens
            assert old is not None
            rows = {name: np.repeat(getattr(old, name), 1 + t % 3) for name in ("ids", "logprobs", "entropies")}
            turn.action.tokens = replace(old, **rows)

    return close(advantages(f, batch), advantages(f, mapped(batch, more)))


def zero_is_a_judgement(f: Callable[..., Any], batch: Batch) -> bool:
    """A turn that earned exactly 0 is treated like one that earned a billionth."""
    ways = [advantages(f, with_earned(batch, lambda v, x=x: x if v == 0 else v)) for x in (-1e-9, 0.0, 1e-9)]
    return close(ways[1], ways[2], 1e-5) or not close(ways[0], ways[2], 1e-5)


def texts(f: Callable[..., Any], batch: Batch) -> bool:
    """Turns are told apart by their place, never by what was written."""

    def alike(e: Episode) -> None:
        for turn in e.turns:
            turn.action.text = turn.action.move = "the same"

    return close(advantages(f, batch), advantages(f, mapped(batch, alike)))


def invalid_is_left_out(f: Callable[..., Any], batch: Batch) -> bool:
    """Attempts that failed, were cancelled, were not scored or never acted influence nothing."""
    padding = []
    for n, (stop, outcome) in enumerate(
        [(Stop.FAILED, 9.0), (Stop.CANCELLED, 9.0), (None, 9.0), (Stop.TERMINATED, math.nan), (Stop.MAX_TURNS, None)]
    ):
        e = attempt(90 + n, 0.0, [0, 1], task=batch.groups[0][0].group)
        e.stop, e.turns[-1].info["outcome"] = stop, outcome
        padding.append(e)
    padding.append(replace(padding[0], stop=Stop.TERMINATED, turns=[]))
    whole = [e for group in batch.groups for e in group]
    kept = groups_of([*padding[:3], *whole, *padding[3:]])
    return len(kept.skipped) > 2 and close(advantages(f, Batch(list(kept), batch.earned)), advantages(f, batch))


def precision(f: Callable[..., Any], batch: Batch) -> bool:
    """Numbers of bfloat16, as wider ones, give what the same numbers give: nothing is computed in their precision."""
    thirds = with_earned(batch, lambda v: None if v is None else bfloat16(v / 3))
    narrow = with_earned(thirds, lambda v: None if v is None else np.float32(v))  # type: ignore[arg-type, return-value]
    return advantages(f, narrow) == advantages(f, thirds)


def bfloat16(value: float) -> float:
    """Return what torch makes of a number in bfloat16: the upper half of a float32, rounded to even."""
    bits = int(np.float32(value).view(np.uint32))
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000
    return float(np.uint32(rounded).view(np.float32))


def nothing(f: Callable[..., Any], batch: Batch) -> bool:
    """A batch without groups has no advantages."""
    return advantages(f, Batch([], [])) == []


PROPERTIES: list[Callable[[Callable[..., Any], Batch], bool]] = [
    shape,
    determinism,
    attempts_in_any_order,
    groups_in_any_order,
    groups_alone,
    tasks_share_no_state,
    names_of_states,
    shift,
    scale,
    equal_is_zero,
    nearly_equal_is_nearly_zero,
    alone_is_zero,
    sums_to_zero,
    turns_alike,
    length_counts_once,
    token_counts,
    zero_is_a_judgement,
    texts,
    invalid_is_left_out,
    precision,
    nothing,
]
CRITIC = "what is subtracted is a critic's, not the mean of a group"
WHITE = "the paper whitens over the batch"
AWAY = "discounted returns differ with the turns that are left, even of equal outcomes"
UNCENTRED = "turn rewards count as they are; only outcomes are centred"
TOKEN = "returns and means are over tokens"
RAW = "a lone value passes, which is what makes it unbiased"
SPARSE = "a bonus for certain turns remains where the outcomes say nothing"
ENDS = "outcomes stand in one pool with turns that are no ends, so a constant is a charge or a bonus for those"
CRITICS = ("ppo", "turn_ppo", "bilevel_gae", "monte_carlo", "spo_segments")
OWN = "nothing is summed: it is for numbers that look to the end already"
RAWS = ('turn(singleton="raw")', 'pooled(order="accumulate_then_normalise", normaliser=partial(rloo, singleton="raw"))')
SUMS = dict.fromkeys(CRITICS, CRITIC) | dict.fromkeys(("gigpo", "hgpo"), AWAY)
SUMS |= {"trace_sum": UNCENTRED, "empg": SPARSE} | dict.fromkeys(RAWS, RAW)
EXCEPT: dict[str, dict[str, str]] = {
    "groups_alone": dict.fromkeys(("reinforce_pp", "ppo", "turn_ppo", "bilevel_gae", "prime_rloo", "gdpo"), WHITE)
    | {"empg": "entropies are compared over the batch"},
    "shift": {k: v for k, v in SUMS.items() if k != "empg"}
    | {"q_rloo": OWN}
    | dict.fromkeys(('turn(leave_one_out=False, order="normalise_then_accumulate")', 'pooled(pools="joint")'), ENDS),
    "scale": dict.fromkeys(CRITICS, CRITIC) | {"trace_sum": UNCENTRED},
    "equal_is_zero": SUMS | {"q_rloo": OWN},
    "nearly_equal_is_nearly_zero": SUMS | {"q_rloo": OWN},
    "alone_is_zero": {"ppo": CRITIC, "monte_carlo": CRITIC, "spo_segments": CRITIC, "trace_sum": UNCENTRED}
    | dict.fromkeys(RAWS, RAW),
    "sums_to_zero": SUMS | {"reinforce_pp": WHITE, "prime_rloo": TOKEN},
    "token_counts": dict.fromkeys(("ppo", "bilevel_gae", "prime_rloo", "spo_segments"), TOKEN),
}
"""Property -> estimator that does not keep it -> why."""
BY_NAME = {p.__name__: p for p in PROPERTIES}
FEW = settings(
    max_examples=10,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
    phases=[Phase.explicit, Phase.generate],  # shrinking costs minutes; a batch is small as it is
)


@pytest.mark.parametrize("name", ESTIMATORS)
@FEW
@given(batch=batches())
def test_an_estimator_keeps_every_property_but_its_exceptions(name: str, batch: Batch):
    expected = [p for p in PROPERTIES if name not in EXCEPT.get(p.__name__, {})]
    assert [f"{p.__name__}: {p.__doc__}" for p in expected if not p(ESTIMATORS[name], batch)] == []


@pytest.mark.parametrize(
    ("keeps", "name"), [(p, name) for p, names in EXCEPT.items() for name in names if name in ESTIMATORS]
)
def test_an_exception_is_one(keeps: str, name: str):
    def broken(batch: Batch) -> bool:
        return not BY_NAME[keeps](ESTIMATORS[name], batch)

    try:
        find(batches(), broken, settings=settings(FEW, max_examples=300))
    except NoSuchExample:
        pytest.fail(f"{name} keeps {keeps}: take it out of EXCEPT")


def test_exceptions_are_of_the_table():
    assert set(EXCEPT) <= set(BY_NAME)
    assert {name.partition("(")[0] for names in EXCEPT.values() for name in names} <= set(TABLE)


def test_bfloat16_is_torchs():
    torch = pytest.importorskip("torch")
    values = [0.1, -1 / 3, 2.71828, 1e-9, 65504.5, 0.0]
    assert [bfloat16(v) for v in values] == torch.tensor(values).to(torch.bfloat16).float().tolist()
