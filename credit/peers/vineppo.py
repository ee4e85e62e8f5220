"""VinePPO: the value of a state is what fresh attempts from it earn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import numpy as np

from milepost.credit import advantage
from milepost.credit.advantage import Batch, Credits, Numbers, Table
from milepost.credit.cards import method
from milepost.credit.core import Channel, Credit, Replay, Rewards
from milepost.credit.peers.given import same_shape
from milepost.envs.core import ContractError, Episode, Stop


class VinePPO(Credit):
    """``V(s_t)``: the mean return of ``k`` fresh attempts from the state before turn t, by the present policy.

    A return has the outcome and, where ``labels`` are given, the live credit of these methods, discounted by ``gamma``
    a turn from t on. All states of a group are asked for in one call. The state before turn 0 is the same for all
    attempts at a task and is played from once; with ``reuse`` not at all: its value for an attempt is then the mean
    return of the other attempts (its own would be in its own baseline). A state from which no attempt was scored has
    no value: None.

    Source: Kazemnejad et al. 2024, arXiv 2410.01679 (k = 9).
    Needs: a replay, that is an environment that can be brought back to a state; an outcome.
    Pair with: ``monte_carlo``, with the same gamma and labels.
    """

    name: ClassVar[str] = "vineppo"
    needs: ClassVar[frozenset[str]] = frozenset({"replay", "outcome"})
    channel: ClassVar[Channel] = "value"
    paper: ClassVar[str] = "arXiv 2410.01679"
    pair: ClassVar[str] = "monte_carlo"

    def __init__(
        self,
        *,
        replay: Replay | None = None,
        k: int = 9,
        gamma: float = 1.0,
        labels: Credits = (),
        reuse: bool = False,
    ) -> None:
        if replay is None:
            raise ContractError(f"{self.name} needs a replay: the recipe gives it (it plays Task(start=(episode, t)))")
        if k < 1:
            raise ValueError(f"{self.name}: k: expected 1 or more, got {k}")
        self.replay, self.k, self.gamma, self.labels, self.reuse = replay, k, gamma, labels, reuse

    def on_group(self, group: Sequence[Episode]) -> Rewards:
        """[G][T] the value of the state before each turn; None where nothing is known of it."""
        table: list[list[float | None]] = [[None] * len(episode.turns) for episode in group]
        own = [self._return(episode, episode, 0) for episode in group if episode.turns] if self.reuse else []
        if len(own) > 1:
            for g, episode in enumerate(group):
                if episode.turns:
                    table[g][0] = (sum(own) - self._return(episode, episode, 0)) / (len(own) - 1)
        places: dict[tuple[str, int], list[tuple[int, int]]] = {}
        starts: list[tuple[Episode, int]] = []
        for g, episode in enumerate(group):
            whole = episode.whole or episode
            index = {id(turn): i for i, turn in enumerate(whole.turns)}
            for t in self.cuts(episode):
                if table[g][t] is not None:
                    continue
                at = index[id(episode.turns[t])]
                key = (whole.id if at else "", at)
                if key not in places:
                    starts.append((whole, at))
                places.setdefault(key, []).append((g, t))
        branches = self.replay.branches(starts, self.k) if starts else []
        if len(branches) != len(starts):
            raise ContractError(f"{self.name}: replay: expected {len(starts)} lists of episodes, got {len(branches)}")
        for (key, where), played in zip(places.items(), branches, strict=True):
            for g, t in where:
                earned = [self._return(group[g], branch, key[1]) for branch in played]
                table[g][t] = float(np.mean(earned)) if earned else None
        return table

    def cuts(self, episode: Episode) -> list[int]:
        """Return the turns before which a value is wanted: all."""
        return list(range(len(episode.turns)))

    def _return(self, of: Episode, branch: Episode, at: int) -> float:
        """Return what the agent of ``of`` earned in ``branch`` from its turn ``at`` on (counted over all agents)."""
        agent = of.turns[0].agent
        part = branch if branch.whole is not None else branch.part(agent)
        n_before = 0 if part is branch else sum(turn.agent == agent for turn in branch.turns[:at])
        (((*steps,),),) = advantage.rewards([[part]], self.labels, outcome=0.0)
        steps = steps[n_before:]
        if (outcome := part.outcome) is None:
            raise ContractError(f"{self.name}: replay: episode {branch.id!r} was not scored; it is to be left out")
        worth = self.gamma ** np.arange(max(1, len(steps)))
        return float(sum(w * (r or 0.0) for w, r in zip(worth, steps, strict=False)) + worth[-1] * outcome)


@method("monte_carlo", "estimator", needs="values outcome", paper="arXiv 2410.01679")
def monte_carlo(
    groups: Batch,
    rewards: Numbers,
    values: str = "vineppo",
    gamma: float = 1.0,
    *,
    cut: Literal["last", "zero"] = "zero",
) -> Table:
    """Return ``[N][G][T]`` ``A_t = r_t + gamma V(s_{t+1}) - V(s_t)``, with V the credit ``values``.

    The value of a terminal state is 0, and so is that of the state in which the turn limit ended an episode: it was
    scored, and fresh attempts end by the same limit. ``cut="last"`` keeps the last known value there instead, for a
    limit that does not belong to the task.

    A turn before which the value is None does not begin a segment: from one known value to the next, all turns get
    ``sum_j gamma^j r_{t+j} + gamma^n V(s_{t+n}) - V(s_t)``. Turns before the first known value get None (not trained).

    Source: Kazemnejad et al. 2024, arXiv 2410.01679; segments: Guo et al. 2025, arXiv 2505.23564.
    Needs: the values of ``VinePPO`` or ``SPO``, written by ``assign``.
    """
    same_shape("monte_carlo", groups, rewards)
    if cut not in ("last", "zero"):
        raise ValueError(f"monte_carlo: cut: expected 'last' or 'zero', got {cut!r}")
    to_go = advantage.returns(rewards, gamma)
    table: Table = []
    for group, rows in zip(groups, to_go, strict=True):
        table.append([])
        for episode, row in zip(group, rows, strict=True):
            if not any(values in turn.credit for turn in episode.turns):
                raise ContractError(
                    f"monte_carlo needs turn.credit[{values!r}], what was expected of each state; "
                    f"episode {episode.id!r} has none (assign writes what VinePPO or SPO returns)"
                )
            known = [None if (v := turn.credit.get(values)) is None else float(np.sum(v)) for turn in episode.turns]
            keeps = cut == "last" and episode.stop is not Stop.TERMINATED
            table[-1].append(_segments(row, known, gamma, keeps))
    return table


def _segments(to_go: Sequence[float], values: Sequence[float | None], gamma: float, keeps: bool) -> list[float | None]:
    """[T] the gain of each turn's segment; its rewards are the difference of the returns at its two ends."""
    n = len(to_go)
    result: list[float | None] = [None] * n
    end, left, value_after = n, 0.0, None
    for t in range(n - 1, -1, -1):
        value = values[t]
        if value is None:
            continue
        following = value_after if value_after is not None else value if keeps else 0.0
        gain = to_go[t] - value + gamma ** (end - t) * (following - left)
        result[t:end] = [gain] * (end - t)
        end, left, value_after = t, to_go[t], value
    return result
