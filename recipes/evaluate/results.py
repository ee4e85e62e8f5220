"""What an evaluation reached, counted from the episodes that are on disk."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from milepost.envs.core import Episode, Stop, Usage
from milepost.envs.runs import read_episodes, read_newest, read_run
from milepost.recipes.evaluate.panel import Panel
from milepost.recipes.evaluate.panel_file import panel_from
from milepost.recipes.evaluate.scores import Row, Score, row, score, total
from milepost.recipes.evaluate.tasks import entry_of, tasks_of, unpinned

SCHEMA = 1
PINNED = ("panel", "versions", "seed", "scaffold", "context", "max_tokens")
"""Settings that the digest is of: all that changes numbers and is not the agent."""
UNPLAYED = "unplayed"
"""In the runtime of an episode: what answers used that were paid and are none of its turns."""
N_FAILURES = 5
"""So many of the most frequent failures are told."""


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
    warnings = [*unpinned(panel, settings["versions"]), *_without_a_turn(rows)]
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


def _without_a_turn(rows: list[Row]) -> list[str]:
    """Say how many episodes the agent had no room to begin: they count as unsolved, and a setting may be why."""
    n = sum(row.stop is Stop.MAX_TOKENS and row.turns == 0 for row in rows)
    if not n:
        return []
    what = "the first prompt and --max-tokens of an answer are more than the agent's context holds"
    return [f"{n} of {len(rows)} episodes ended before their first turn, unsolved: {what}"]


def _read(path: Path) -> tuple[dict[str, Row], dict[str, Any]]:
    """Return the newest row by episode id, and what all records together cost."""
    newest: dict[str, Row] = {}
    usage: list[Usage] = []
    for episode in read_episodes(path, credit=False, images=False):
        newest[episode.id] = read = row(episode)
        if episode.turns:
            usage.append(read.usage)
        if unplayed := episode.runtime.get(UNPLAYED):
            usage.append(Usage(*unplayed))
    sums = total(usage)
    tokens = {"prompt": sums.prompt, "cached": sums.cached, "completion": sums.completion}
    return newest, {"tokens": tokens, "cost": sums.cost}
