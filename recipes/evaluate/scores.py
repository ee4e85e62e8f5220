"""The numbers of an evaluation: what counts of an episode, and what many of them say together."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from milepost.envs.core import Episode, Stop, Usage
from milepost.recipes.report.stats import wilson


@dataclass(frozen=True)
class Row:
    """What counts of one episode."""

    id: str
    entry: str
    group: str
    attempt: int
    stop: Stop
    outcome: float | None
    success: bool
    turns: int
    usage: Usage
    """Of all its turns; the cost is None unless it is known of each."""
    seconds: float
    """Of its answers and its steps."""
    failure: str | None = None

    @property
    def counts(self) -> bool:
        """Whether it says anything about the agent."""
        return self.stop.counts


@dataclass(frozen=True)
class Share:
    """A share with its interval (Wilson, 95 %); ``rate`` is None where nothing was counted."""

    rate: float | None
    low: float
    high: float


@dataclass(frozen=True)
class Score:
    """The numbers of some episodes: of an entry of the panel, or of all."""

    n: int
    """Episodes that are planned."""
    played: int
    """Those that count; what FAILED is left out of every mean."""
    failed: int
    missing: int
    """Planned and not ended yet, or cancelled."""
    unscored: int
    """Those of ``played`` that the environment gave no outcome."""
    success: Share
    outcome: float | None
    pass_at_1: float | None
    """Mean over tasks of the share of attempts that solved it."""
    pass_k: dict[int, float]
    """k to the mean over tasks of ``C(c, k) / C(n, k)``: how likely k attempts out of n all solve it (c did)."""
    turns: float | None
    tokens: dict[str, int]
    cost: float | None
    """None where it is not known of every answer."""
    seconds: float | None

    @property
    def complete(self) -> bool:
        """Whether every planned episode has an end that counts."""
        return self.played == self.n

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON."""
        record = {name: value for name, value in vars(self).items() if name not in ("success", "pass_k")}
        share = vars(self.success)
        return {"complete": self.complete, **record, "success": share} | {
            "pass_k": {str(k): value for k, value in self.pass_k.items()}
        }


def row(episode: Episode) -> Row:
    """Return what counts of an episode; of several agents, whose outcomes differ, only whether it succeeded."""
    agents = episode.agents
    whole = episode.part(agents[0]) if len(agents) == 1 else episode
    told = episode.turns[-1].info.get("success") if episode.turns else None
    alone = len(agents) <= 1
    usage = [turn.action.usage for turn in episode.turns]
    return Row(
        id=episode.id,
        entry=str(episode.runtime.get("entry", "")),
        group=episode.group,
        attempt=episode.attempt,
        stop=episode.stop or Stop.CANCELLED,
        outcome=whole.outcome if alone else None,
        success=bool(whole.success if alone else told),
        turns=len(episode.turns),
        usage=total(usage),
        seconds=math.fsum([turn.seconds for turn in episode.turns] + [used.seconds for used in usage if used]),
        failure=_line(episode) if episode.stop is Stop.FAILED else None,
    )


def total(usage: Sequence[Usage | None]) -> Usage:
    """Return the sum; its cost is None unless each says what it cost."""
    known = [used for used in usage if used is not None]
    costs = [used.cost for used in usage if used is not None and used.cost is not None]
    return Usage(
        prompt=sum(used.prompt for used in known),
        cached=sum(used.cached for used in known),
        completion=sum(used.completion for used in known),
        seconds=math.fsum(used.seconds for used in known),
        cost=math.fsum(costs) if costs and len(costs) == len(usage) else None,
    )


def score(n: int, rows: Iterable[Row]) -> Score:
    """Return the numbers of the episodes that have ended, of ``n`` that are planned."""
    ended = list(rows)
    counted = [row for row in ended if row.counts]
    failed = sum(row.stop is Stop.FAILED for row in ended)
    solved = sum(row.success for row in counted)
    outcomes = [row.outcome for row in counted if row.outcome is not None]
    groups: dict[str, list[bool]] = {}
    for row in counted:
        groups.setdefault(row.group, []).append(row.success)
    used = total([row.usage for row in counted])
    return Score(
        n=n,
        played=len(counted),
        failed=failed,
        missing=n - len(counted) - failed,
        unscored=len(counted) - len(outcomes),
        success=Share(solved / len(counted) if counted else None, *wilson(solved, len(counted))),
        outcome=_mean(outcomes),
        pass_at_1=_mean([fmean(attempts) for attempts in groups.values()]),
        pass_k=pass_k(list(groups.values())),
        turns=_mean([row.turns for row in counted]),
        tokens={"prompt": used.prompt, "cached": used.cached, "completion": used.completion},
        cost=used.cost,
        seconds=_mean([row.seconds for row in counted]),
    )


def pass_k(groups: Sequence[Sequence[bool]]) -> dict[int, float]:
    """Return k to the unbiased estimate of how likely k attempts at a task all solve it, for k = 1..most attempts.

    ``C(c, k) / C(n, k)`` with c of n attempts that solved the task, a mean over the tasks that have k attempts; nothing
    where no task has two.

    Source: Yao et al. 2024, arXiv 2406.12045 (tau-bench).
    """
    most = max((len(attempts) for attempts in groups), default=0)
    if most < 2:
        return {}
    return {
        k: fmean(math.comb(sum(group), k) / math.comb(len(group), k) for group in groups if len(group) >= k)
        for k in range(1, most + 1)
    }


def _mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None


def _line(episode: Episode) -> str:
    """Return the last line of a failure without the episode's id, so that equal ones can be counted."""
    text = episode.failure or ""
    lines = (text.replace(episode.id, "*") if episode.id else text).strip().splitlines()
    return lines[-1][:200] if lines else "unknown"
