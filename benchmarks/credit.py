"""What every method of the table costs: CPU microseconds a turn on 256 groups x 8 attempts x 20 turns of 8 tokens.

    python benchmarks/credit.py                 minutes; no GPU, no model
    python benchmarks/credit.py gigpo igpo      these alone
    python benchmarks/credit.py --groups 32 --repeats 1        a glance

A reward is asked by ``assign`` (a live one turn by turn, as play does), an estimator by ``recipes.estimate``, the
making of its table of rewards included; the others get arrays of matching size. A method that asks a model gets one
that answers at once, so its figure is what the library adds to the model's time. Medians of the process's own CPU
time, which a busy machine disturbs least. Over the budget first. Where trainers can be imported (``differential.py``
says how) their functions are timed on a batch of the same size in the same run.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from statistics import median
from time import process_time
from typing import Any, ClassVar, NamedTuple

import differential
import numpy as np

from milepost.credit import advantage, methods
from milepost.credit.cards import Card, card_of
from milepost.credit.core import Channel, Credit, Level, assign, overrides
from milepost.credit.made import episode
from milepost.envs.core import Episode, Message
from milepost.recipes.estimate import estimate

N_ATTEMPTS, N_TURNS, N_TOKENS, N_STATES, WIDTH = 8, 20, 8, 12, 16
PEERS = ("grpo", "rloo", "reinforce_pp", "gae")
"""Estimators that a trainer is timed with."""
BUDGET = 20.0
"""Microseconds a turn that a method may take without its model."""
ASKED = ("scorer", "token_model", "annotator", "replay", "privileged")
"""Parts that the recipe gives a method."""


class Row(NamedTuple):
    """A line of the table."""

    id: str
    kind: str
    microseconds: float
    asks: str = ""
    """What is a stand-in."""


class FreeScorer:
    """A scorer whose answers were ready."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.rows = [-rng.random(4).astype(np.float32) for _ in range(256)]

    def logprobs(self, views: Sequence[Any], targets: Sequence[str], **_: Any) -> list[Any]:
        return [self.rows[i % 256] for i in range(len(targets))]


class FreeTokenModel:
    """A token model whose states were ready: the same ones for all tokens."""

    size, vocab = WIDTH, 2 * WIDTH

    def __init__(self) -> None:
        import torch

        torch.set_num_threads(1)
        self.logprobs = -torch.rand(N_TOKENS)
        self.tokens = torch.rand(N_TOKENS, WIDTH)
        self.turns = torch.rand(N_TURNS, WIDTH)

    def token_logprobs(self, episodes: Sequence[Episode]) -> list[list[Any]]:
        return [[self.logprobs] * len(e.turns) for e in episodes]

    def token_states(self, episodes: Sequence[Episode], **_: Any) -> list[list[Any]]:
        return [[self.tokens] * len(e.turns) for e in episodes]

    def turn_states(self, episodes: Sequence[Episode], **_: Any) -> list[Any]:
        return [self.turns[: len(e.turns)] for e in episodes]

    def adopt(self, head: Any) -> Any:
        return head


class FreeAnnotator:
    """An annotator that says the same of everything."""

    def annotate(self, prompts: Sequence[Sequence[Message]]) -> list[str]:
        return ["```python\n{'door': True, 'key': False}\n```"] * len(prompts)


class FreeReplay:
    """A replay whose attempts were played already: the recorded one, again and again."""

    def branches(self, starts: Sequence[tuple[Episode, int]], n: int) -> list[list[Episode]]:
        return [[found] * n for found, _ in starts]


def no_hidden_text(episode: Episode) -> list[int]:
    """Return what a critic may read beforehand: nothing."""
    return []


PARTS: dict[str, Callable[[], Any]] = {
    "scorer": FreeScorer,
    "token_model": FreeTokenModel,
    "annotator": FreeAnnotator,
    "replay": FreeReplay,
    "privileged": lambda: no_hidden_text,
}
OPTIONS: dict[str, dict[str, Any]] = {"nous": {"belief": lambda e, t: e.info_before(t)["belief"]}}


class Process(Credit):
    """What a method gave each turn."""

    name: ClassVar[str] = "process"


class Values(Credit):
    """What a critic expected of each turn."""

    name: ClassVar[str] = "values"
    channel: ClassVar[Channel] = "value"


class TokenProcess(Process):
    """What a method gave each token."""

    name: ClassVar[str] = "token_process"
    level: ClassVar[Level] = "token"


class TokenValues(Values):
    """What a critic expected of each token."""

    name: ClassVar[str] = "token_values"
    level: ClassVar[Level] = "token"


def batch(n_groups: int) -> list[list[Episode]]:
    """Return episodes that have everything that a method may need."""
    rng = np.random.default_rng(0)
    return [[played(rng, n, g) for g in range(N_ATTEMPTS)] for n in range(n_groups)]


def played(rng: np.random.Generator, n: int, g: int) -> Episode:
    """Return an attempt: states are few, so they come again; one move in ten is refused."""
    states = [f"s{s}" for s in rng.integers(N_STATES, size=N_TURNS)]
    beliefs = rng.dirichlet(np.ones(4), size=(N_TURNS + 1, 2)).tolist()
    made = episode(
        float(rng.integers(2)),
        id=f"e{n}-{g}",
        group=f"g{n}",
        potential=np.cumsum(rng.integers(-1, 2, N_TURNS + 1)).astype(float).tolist(),
        state_key=["s0", *states],
        caption=["You begin.", *(f"You see {s}." for s in states)],
        valid=(rng.random(N_TURNS) > 0.1).tolist(),
        logprobs=(-rng.random((N_TURNS, N_TOKENS))).tolist(),
        entropies=rng.random((N_TURNS, N_TOKENS)).tolist(),
        texts=[f"go {s}" for s in states],
        credit={
            "process": rng.normal(size=N_TURNS).tolist(),
            "values": rng.normal(size=N_TURNS).tolist(),
            "token_process": list(rng.normal(size=(N_TURNS, N_TOKENS)).astype(np.float32)),
            "token_values": list(rng.normal(size=(N_TURNS, N_TOKENS)).astype(np.float32)),
        },
        info={"belief": [{"what": b[0], "where": b[1]} for b in beliefs[1:]]},
        at_reset={
            "answer": "the red key",
            "aliases": ["a red key"],
            "subgoals": ["door", "key"],
            "belief": {"what": beliefs[0][0], "where": beliefs[0][1]},
        },
        score=rng.integers(2, size=N_TURNS).astype(float).tolist(),
        format=rng.random(N_TURNS).tolist(),
    )
    for t, (turn, state) in enumerate(zip(made.turns, ["s0", *states], strict=False)):
        turn.observation = f"You are in {state}. {t} moves are made."
    made.last = f"You are in {states[-1]}."
    return made


def reward(card: Card, groups: list[list[Episode]]) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """Return what asks a method about a batch, and what wipes its answers off again."""
    given = {part: PARTS[part]() for part in ASKED if part in card.needs}
    credit = methods.resolve(card.id, **given, **OPTIONS.get(card.id, {}))

    def ask() -> None:
        if credit.live:
            for played_ in (e for group in groups for e in group):
                now = replace(played_, turns=[], stop=None)
                credit.on_reset(now)
                for t, turn in enumerate(played_.turns):
                    now.turns.append(turn)
                    if t + 1 == len(played_.turns):
                        now.stop = played_.stop
                    turn.put(credit.label, credit.on_turn(now))
        if overrides(credit, "on_group"):
            assign([credit], groups)

    def wipe() -> None:
        for turn in (t for group in groups for e in group for t in e.turns):
            turn.credit.pop(credit.label, None)

    return ask, wipe


def arrays(n_groups: int) -> dict[str, tuple[Any, ...]]:
    """Return, for what takes arrays, how often it is called a batch and with what; once where nothing is said."""
    rng = np.random.default_rng(1)
    shape = (n_groups, N_ATTEMPTS, N_TURNS)
    n_tokens = N_TURNS * N_TOKENS
    turns, hard = rng.normal(size=shape), rng.integers(2, size=shape).astype(float)
    totals, row = rng.normal(size=N_ATTEMPTS), rng.normal(size=n_tokens)
    states = rng.dirichlet(np.ones(n_groups * N_TURNS), size=2)
    n_attempts = n_groups * N_ATTEMPTS
    return {
        "conditional": (1, turns, hard),
        "par": (1, turns, rng.normal(size=(*shape, 4))),
        "wco": (1, rng.normal(size=(5, *shape))),
        "uwo": (1, rng.normal(size=(5, *shape))),
        "krc": (1, rng.normal(size=(*shape, 3))),
        "rto": (n_attempts, row, row, 1.0),
        "dr_irl": (n_groups, totals, np.abs(totals)),
        "kendall": (n_groups, totals, totals[::-1]),
        "occupancy": (1, rng.normal(size=n_groups * N_TURNS), *states, {"lam": 0.1}),
        "tgdpo": (n_groups, row, row, row, row),
        "starpo_s": (1, turns.tolist()),
        "arpo": (1, turns.ravel(), rng.random(turns.size)),
        "ads": (1, 5),
        "hypervolume": (1, 0.3),
        "gradient_weights": (1, [0.5, 0.5], rng.normal(size=(n_groups, 2)), {"eta": 1e-6}),
        "amft": (1, 0.5, 0.1, 1.0, 1.2),
        "effective_rank": (n_attempts, rng.normal(size=(n_tokens, WIDTH))),
    }


def function(card: Card, given: tuple[Any, ...]) -> Callable[[], Any]:
    """Return what calls a function of arrays as often as a batch needs."""
    found, (n_calls, *values) = methods.look_up(card.id), given
    options: Mapping[str, Any] = values.pop() if isinstance(values[-1], dict) else {}

    def call() -> None:
        for _ in range(n_calls):
            found(*values, **options)

    return call


def work(card: Card, groups: list[list[Episode]]) -> tuple[Callable[[], Any], Callable[[], Any]] | None:
    """Return what runs a method on a batch, and what cleans up; None where this script has nothing to give it."""
    if card.kind == "reward":
        return reward(card, groups)
    if card.kind == "estimator":
        credits = [TokenProcess(), TokenValues()] if card.level == "token" else [Process(), Values()]
        return lambda: estimate(card.id, groups, credits, 0.95), lambda: None
    given = arrays(len(groups)).get(card.id)
    return None if given is None else (function(card, given), lambda: None)


def microseconds(run: Callable[[], Any], wipe: Callable[[], Any], n_turns: int, repeats: int) -> float:
    """Return the median CPU time a turn."""
    times = []
    for _ in range(repeats):
        start = process_time()
        run()
        times.append(process_time() - start)
        wipe()
    return 1e6 * median(times) / n_turns


def ours(groups: list[list[Episode]], ids: Sequence[str], repeats: int) -> list[Row]:
    """Return a row a method; one that cannot be run here is said and left out."""
    n_turns = sum(len(e.turns) for group in groups for e in group)
    rows = []
    if not ids:
        table = microseconds(lambda: advantage.rewards(groups, [Process()]), lambda: None, n_turns, repeats)
        rows.append(Row("(rewards)", "table", table))
    for id in ids or methods.TABLE:
        try:
            card = card_of(methods.look_up(id))
        except ValueError as error:
            print(f"skipped {id}: {error}")
            continue
        found = work(card._replace(id=id), groups)
        if found is None:
            print(f"skipped {id}: no arrays are made for this {card.kind}")
            continue
        asks = ", ".join(part for part in ASKED if part in card.needs and card.kind == "reward")
        rows.append(Row(id, card.kind, microseconds(*found, n_turns, repeats), asks))
    return rows


def theirs(n_groups: int, repeats: int) -> list[Row]:
    """Return a row for each function of a trainer that is here."""
    made = differential.even(n_groups, N_ATTEMPTS, N_TURNS, N_TOKENS)
    n_turns = n_groups * N_ATTEMPTS * N_TURNS
    return [
        Row(f"{estimator}, {trainer}", "peer", microseconds(lambda: run(made), lambda: None, n_turns, repeats))  # noqa: B023
        for (estimator, trainer), run in differential.functions().items()
        if estimator in PEERS
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ids", nargs="*", help="of the table; all where none is named")
    parser.add_argument("--groups", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    rows = ours(batch(args.groups), args.ids, args.repeats)
    rows += theirs(args.groups, args.repeats) if not args.ids else []
    rows.sort(key=lambda row: (row.kind == "peer", row.microseconds <= BUDGET, bool(row.asks), -row.microseconds))
    print(f"{args.groups} groups x {N_ATTEMPTS} x {N_TURNS} turns, medians of {args.repeats}")
    print(f"{'method':<24} {'kind':<10} {'us/turn':>8}  a stand-in for")
    for row in rows:
        over = f"  over {BUDGET:.0f}" if row.microseconds > BUDGET and row.kind != "peer" else ""
        print(f"{row.id:<24} {row.kind:<10} {row.microseconds:>8.2f}  {row.asks}{over}")


if __name__ == "__main__":
    main()
