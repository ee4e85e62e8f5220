"""The table of a run: one row a policy, with intervals and the paired comparison."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.table import Table

from milepost.envs.core import Episode
from milepost.recipes.report.stats import Paired, paired, wilson


@dataclass
class Stage:
    """How one policy did on its games. Failed and cancelled games are left out and counted."""

    policy: str
    solved: dict[str, bool] = field(default_factory=dict)
    """Game to whether it was solved."""
    n_turns: int = 0
    n_invalid: int = 0
    """Turns whose move was not executed."""
    n_judged: int = 0
    """Turns whose environment said whether the move was executed."""
    failed: int = 0
    measured: dict[str, float] = field(default_factory=dict)
    """What a recipe tells of its episodes beside success."""

    @property
    def games(self) -> int:
        """How many games count."""
        return len(self.solved)

    @property
    def wins(self) -> int:
        """How many were solved."""
        return sum(self.solved.values())

    def add(self, episode: Episode) -> None:
        """Count one episode.

        Raises:
            ValueError: The same attempt at the same game came before.
        """
        if episode.success is None:
            self.failed += 1
            return
        where = episode.runtime.get("entry", episode.env_id)  # two entries of a panel may play the same tasks
        game = f"{where} {episode.task if episode.task is not None else episode.seed} #{episode.attempt}"
        if game in self.solved:
            raise ValueError(f"{self.policy} played {game} twice: expected every attempt at a game once")
        self.solved[game] = episode.success
        self.n_turns += len(episode.turns)
        valid = [turn.info["valid"] for turn in episode.turns if "valid" in turn.info]
        self.n_judged += len(valid)
        self.n_invalid += valid.count(False)

    def to_json(self) -> dict[str, Any]:
        """Return the row's numbers, shares in 0..1."""
        low, high = wilson(self.wins, self.games)
        return {
            "policy": self.policy,
            "games": self.games,
            "failed": self.failed,
            "wins": self.wins,
            "success": self.wins / self.games if self.games else None,
            "low": low,
            "high": high,
            "invalid": self.n_invalid / self.n_judged if self.n_judged else None,
            "turns": self.n_turns / self.games if self.games else None,
            **({"measured": self.measured} if self.measured else {}),
        }


def stage(policy: str, episodes: Iterable[Episode]) -> Stage:
    """Return how ``policy`` did."""
    counted = Stage(policy)
    for episode in episodes:
        counted.add(episode)
    return counted


def stages_of(episodes: Iterable[Episode]) -> list[Stage]:
    """Return the stages of a run: its test episodes by ``episode.runtime["policy"]``, in order of appearance."""
    stages: dict[str, Stage] = {}
    for episode in episodes:
        policy = episode.runtime.get("policy")
        if policy is not None and episode.split == "test":
            stages.setdefault(policy, Stage(policy)).add(episode)
    return list(stages.values())


def compare(before: Stage, after: Stage) -> Paired | None:
    """Compare two stages on the games that both played; None when there is none."""
    games = [game for game in before.solved if game in after.solved]
    if not games:
        return None
    return paired([before.solved[g] for g in games], [after.solved[g] for g in games])


def table(stages: Sequence[Stage], against: str | None = None, title: str | None = None) -> Table:
    """Return the table of ``stages``; every stage after the one named ``against`` is compared with it, game by game.

    Raises:
        ValueError: There is no stage of that name.
    """
    names = [s.policy for s in stages]
    if against is not None and against not in names:
        raise ValueError(f"no stage {against!r} to compare with; there are: {', '.join(names)}")
    drawn = Table(title=title)
    drawn.add_column("policy")
    for name in ("games", "success", "95 %", "invalid", "turns"):
        drawn.add_column(name, justify="right")
    if any(s.failed for s in stages):
        drawn.add_column("failed", justify="right")
    base = names.index(against) if against is not None else len(stages)
    if against is not None:
        drawn.add_column(f"against {against}, on the same games")
    for place, row in enumerate(stages):
        numbers = row.to_json()
        interval = f"{100 * numbers['low']:.0f} - {100 * numbers['high']:.0f}"
        cells = [row.policy, str(row.games), _percent(numbers["success"]), interval, _percent(numbers["invalid"])]
        cells.append("-" if numbers["turns"] is None else f"{numbers['turns']:.1f}")
        if any(s.failed for s in stages):
            cells.append(str(row.failed))
        if against is not None:
            cells.append(str(compare(stages[base], row) or "") if place > base else "")
        drawn.add_row(*cells)
    return drawn


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"
