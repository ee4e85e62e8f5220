"""What an evaluation reached, counted from the episodes that are on disk."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from milepost.envs.core import Episode, Stop, Usage
from milepost.envs.runs import read_episodes, read_newest, read_run
from milepost.recipes.evaluate.panel import Panel, panel_from
from milepost.recipes.evaluate.tasks import entry_of, tasks_of, unpinned
from milepost.recipes.report.stats import wilson

SCHEMA = 1
PINNED = ("panel", "versions", "seed", "scaffold", "context", "max_tokens")
"""Settings that the digest is of: all that changes numbers and is not the agent."""
N_FAILURES = 5
"""So many of the most frequent failures are told."""


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


@dataclass(frozen=True)
class Results:
    """What a run reached, over all and by entry; its numbers are attributes: ``results.overall.success.rate``."""

    path: Path
    panel: Panel
    agent: dict[str, Any]
    digest: str
    """Of panel, versions and settings, the agent left out: equal digests are comparable numbers."""
    pinned: dict[str, Any]
    """What the digest is of."""
    warnings: list[str]
    overall: Score
    entries: dict[str, Score]
    paid: dict[str, Any]
    """Tokens and cost of all that was played, what was cancelled and superseded since as well."""
    failures: dict[str, int]
    rows: list[Row] = field(repr=False)
    """The episodes that have ended, in the order of the panel."""
    stopped: str | None = None
    """Why the run ended before its end."""

    n = property(lambda self: self.overall.n)
    complete = property(lambda self: self.overall.complete)
    failed = property(lambda self: self.overall.failed)
    success = property(lambda self: self.overall.success)

    def episodes(self) -> Iterator[Episode]:
        """Yield the newest record of each episode, with all its credit."""
        return read_newest(self.path)

    def to_json(self) -> dict[str, Any]:
        """Return what ``results.json`` says."""
        names = ("agent", "digest", "pinned", "warnings", "failures", "paid")
        return {
            "schema": SCHEMA,
            "panel": self.panel.name,
            "version": self.panel.version,
            "metrics": list(self.panel.metrics),
            **self.overall.to_json(),
            "entries": {name: score.to_json() for name, score in self.entries.items()},
            **{name: getattr(self, name) for name in names},
        }


def read_results(path: str | Path, stopped: str | None = None) -> Results:
    """Return the results of a run folder, counted anew from its episodes.

    Raises:
        ValueError: It is none of an evaluation.
    """
    path = Path(path)
    info = read_run(path)
    if info.kind != "evaluate":
        raise ValueError(f"{path} holds a run of {info.kind}, expected one of evaluate")
    settings = info.settings
    panel = panel_from(settings["panel"], str(settings["panel"].get("name")))
    tasks = tasks_of(panel)
    entries = entry_of(tasks, panel, settings["seed"])
    newest, paid = _read(path)
    rows = [newest[id_] for id_ in entries if id_ in newest]
    planned = Counter(entries.values())
    failures = Counter(row.failure for row in rows if row.failure)
    warnings = unpinned(panel, settings["versions"])
    pinned = {name: settings[name] for name in PINNED}
    return Results(
        path=path,
        panel=panel,
        agent={key: value for key, value in settings.items() if key not in PINNED},
        digest=hashlib.blake2b(json.dumps(pinned, sort_keys=True).encode()).hexdigest()[:16],
        pinned=pinned,
        warnings=warnings,
        overall=score(len(entries), rows),
        entries={name: score(n, [row for row in rows if row.entry == name]) for name, n in planned.items()},
        paid=paid,
        failures=dict(failures.most_common(N_FAILURES)),
        rows=rows,
        stopped=stopped,
    )


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
        failure=_line(episode.failure) if episode.stop is Stop.FAILED else None,
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


def _read(path: Path) -> tuple[dict[str, Row], dict[str, Any]]:
    """Return the newest row by episode id, and what all records together cost."""
    newest: dict[str, Row] = {}
    usage: list[Usage] = []
    for episode in read_episodes(path, credit=False, images=False):
        newest[episode.id] = read = row(episode)
        if episode.turns:
            usage.append(read.usage)
    sums = total(usage)
    tokens = {"prompt": sums.prompt, "cached": sums.cached, "completion": sums.completion}
    return newest, {"tokens": tokens, "cost": sums.cost}


def _mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None


def _line(failure: str | None) -> str:
    lines = (failure or "").strip().splitlines()
    return lines[-1][:200] if lines else "unknown"
