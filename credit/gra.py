"""Gated reward accumulation: small rewards count only where the big one was earned."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple

from milepost.credit.core import Channel, Credit, Rewards
from milepost.envs.core import ContractError, Episode, Stop
from milepost.envs.names import did_you_mean

OUTCOME = "outcome"
"""The name of the outcome among the terms."""
NEVER = -math.inf
"""A gate that never closes."""


class Profile(NamedTuple):
    """Magnitudes of one instance of the method."""

    outcomes: Mapping[str, float]
    """What each end of an episode is worth."""
    terms: Mapping[str, float]
    """What each critic's 1 is worth in a turn."""
    gates: Mapping[str, float]
    unfinished: str
    """The end of an episode that ran into a limit."""


SWE_PROFILE = Profile(
    outcomes=MappingProxyType({"resolved": 1.0, "patch": 0.5, "empty_patch": 0.0, "no_submission": -0.5}),
    terms=MappingProxyType({"format": 0.1, "call": 0.1, "scaffold": 0.1}),
    gates=MappingProxyType({OUTCOME: 0.0}),
    unfinished="no_submission",
)
"""Software engineering. The paper does not publish its magnitudes; these are this library's."""
PROFILES: Mapping[str, Profile] = MappingProxyType({"swe": SWE_PROFILE})


class GRA(Credit):
    """A term counts only where every gating term of higher priority exceeds its gate.

    ``C_k = R_k if R_j > gate_j for all j with priority_j > priority_k, else 0``; a turn earns the sum of its terms'
    C, the last one the outcome as well. ``R_j`` is a term's unweighted sum over the episode; equality closes a gate.
    Terms are the parts of ``info["reward_components"]`` and the outcome. An outcome that was not scored (None, NaN)
    contributes 0 and closes its gate; ``groups_of`` drops such episodes.

    Args:
        gate: The outcome's gate, short for ``gates={"outcome": gate}``. Minus infinity never closes.
        terms: Which components count, and their weights; None: all that there are, with weight 1.
        priorities: Larger is more important; 1 for the outcome and 0 for the rest where nothing is said.
        gates: A gate for each term that is one, instead of ``gate``.
        gate_negative: Whether a closed gate drops penalties too (the paper's rule) or keeps them.
        outcome: What an episode's end is worth; None: its own outcome.
        profile: A name of ``PROFILES``: its terms and gates, and its magnitudes by ``info["result"]`` as the outcome,
            each where the argument of that name is not given.

    Source: *Stabilizing Long-term Multi-turn Reinforcement Learning with Gated Rewards* 2025, arXiv 2508.10548.
    Needs: ``info["reward_components"]`` at steps, an outcome.
    Pair with: ``advantage.grpo`` or ``advantage.rloo`` (totals), ``advantage.turn_rtg`` (turns).
    """

    name: ClassVar[str] = "gra"
    needs: ClassVar[frozenset[str]] = frozenset({"reward_components", "outcome"})
    channel: ClassVar[Channel] = "gate"
    includes_outcome: ClassVar[bool] = True
    paper: ClassVar[str] = "arXiv 2508.10548"
    pair: ClassVar[str] = "grpo"

    def __init__(
        self,
        gate: float = 0.0,
        *,
        terms: Mapping[str, float] | None = None,
        priorities: Mapping[str, float] | None = None,
        gates: Mapping[str, float] | None = None,
        gate_negative: bool = True,
        outcome: Callable[[Episode], float | None] | None = None,
        profile: str | None = None,
    ) -> None:
        if profile is not None:
            known = _profile(self.name, profile)
            terms = known.terms if terms is None else terms
            gates = known.gates if gates is None and gate == 0.0 else gates
            outcome = outcome or partial(_by_result, self.name, dict(known.outcomes), known.unfinished)
        self.terms = None if terms is None else dict(terms)
        self.priorities = {OUTCOME: 1.0, **(priorities or {})}
        self.gates = dict(gates) if gates is not None else {OUTCOME: gate}
        self.gate_negative = gate_negative
        self.outcome = outcome or _own_outcome
        self._n_bad = 0
        for what, names in (("priorities", self.priorities), ("gates", self.gates)):
            unknown = set(names) - {OUTCOME, *(terms if terms is not None else names)}
            if unknown:
                raise ValueError(f"{self.name}: {what}: no term is named {', '.join(sorted(unknown))}")
        for term, value in self.gates.items():
            if math.isnan(value):
                raise ValueError(f"{self.name}: gates: expected a number for {term!r}, got {value}")

    def on_group(self, group: Sequence[Episode]) -> Rewards:
        """[G][T] what passed the gates, the outcome with the last turn."""
        if group and not any(turn.info.get("reward_components") for episode in group for turn in episode.turns):
            raise ContractError(f"{self.name} needs info['reward_components'] at steps; {group[0].env_id} gave none")
        self._n_bad += sum(
            not math.isfinite(value)
            for episode in group
            for turn in episode.turns
            for name, value in _components(turn.info).items()
            if self.terms is None or name in self.terms
        )
        return [self._row(episode) for episode in group]

    def open(self, episode: Episode) -> bool:
        """Whether every gate of the episode is open."""
        values, _ = self._terms(episode)
        return all(_passes(values.get(term), gate) for term, gate in self.gates.items())

    def fit(self, groups: Sequence[Sequence[Episode]]) -> dict[str, float]:
        """Report, since the last call, the components that were not finite and so counted as 0."""
        n, self._n_bad = self._n_bad, 0
        return {f"credit/{self.label}/components_not_finite": float(n)}

    def _row(self, episode: Episode) -> list[float]:
        values, turns = self._terms(episode)
        opened = open_terms(values, self.priorities, self.gates)
        row = [sum(self._passed(value, opened[term], term) for term, value in turn.items()) for turn in turns]
        outcome = values[OUTCOME]
        row[-1] += outcome if outcome is not None and opened[OUTCOME] else 0.0
        return row

    def _passed(self, value: float, is_open: bool, term: str) -> float:
        weighted = value * (1.0 if self.terms is None else self.terms[term])
        return weighted if is_open or (weighted < 0 and not self.gate_negative) else 0.0

    def _terms(self, episode: Episode) -> tuple[dict[str, float | None], list[dict[str, float]]]:
        """Return each term's sum over the episode, and each turn's terms."""
        turns = [
            {
                name: float(value) if math.isfinite(value) else 0.0
                for name, value in _components(turn.info).items()
                if self.terms is None or name in self.terms
            }
            for turn in episode.turns
        ]
        names = dict.fromkeys((*(self.terms or ()), *self.gates, *(k for turn in turns for k in turn)))
        values: dict[str, float | None] = {k: sum(turn.get(k, 0.0) for turn in turns) for k in names}
        outcome = self.outcome(episode)
        return {**values, OUTCOME: outcome if outcome is not None and math.isfinite(outcome) else None}, turns


class DRA(GRA):
    """Direct accumulation: the plain sum of outcome and components, without a gate. The baseline that can be farmed."""

    name: ClassVar[str] = "dra"
    channel: ClassVar[Channel] = "reward"

    def __init__(
        self,
        *,
        terms: Mapping[str, float] | None = None,
        outcome: Callable[[Episode], float | None] | None = None,
        profile: str | None = None,
    ) -> None:
        super().__init__(NEVER, terms=terms, outcome=outcome, profile=profile)


def open_terms(
    values: Mapping[str, float | None], priorities: Mapping[str, float], gates: Mapping[str, float]
) -> dict[str, bool]:
    """Return which terms count: those for which all gating terms of higher priority exceed their gates.

    A priority that is not given is 0; a value of None (not scored) closes its gate, unless that is minus infinity.
    """
    closed = [priorities.get(j, 0.0) for j, gate in gates.items() if not _passes(values.get(j), gate)]
    highest = max(closed, default=-math.inf)
    return {term: priorities.get(term, 0.0) >= highest for term in values}


def _profile(method: str, name: str) -> Profile:
    if name not in PROFILES:
        raise ValueError(f"{method}: no profile {name!r}{did_you_mean(name, PROFILES)}; there is {', '.join(PROFILES)}")
    return PROFILES[name]


def _by_result(method: str, worth: Mapping[str, float], unfinished: str, episode: Episode) -> float | None:
    """Return what an episode's end is worth by its label; None where it does not count."""
    if episode.stop is None or not episode.stop.counts or not episode.turns:
        return None
    found: Any = episode.turns[-1].info.get("result", None if episode.stop is Stop.TERMINATED else unfinished)
    if found not in worth:
        expected = f"info['result'] on the last turn, one of {', '.join(worth)}"
        raise ContractError(f"{method} needs {expected}; {episode.env_id} gave {found!r}")
    return worth[found]


def _own_outcome(episode: Episode) -> float | None:
    return episode.outcome


def _passes(value: float | None, gate: float) -> bool:
    return gate == NEVER or (value is not None and value > gate)


def _components(info: Mapping[str, Any]) -> Mapping[str, Any]:
    found: Mapping[str, Any] = info.get("reward_components") or {}
    if OUTCOME in found:
        raise ContractError("gra: info['reward_components'] has a part named 'outcome'; that name is the outcome's")
    return found
