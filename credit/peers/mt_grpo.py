"""MT-GRPO: the tool call is judged by what it found, everything by how it ended."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

from milepost.credit import advantage, normalise
from milepost.credit.advantage import Batch, Numbers, Returns
from milepost.credit.cards import method
from milepost.credit.peers.given import outcomes, same_shape
from milepost.envs.core import Episode


def followed(episode: Episode, t: int) -> bool:
    """Whether the agent acted on an answer to turn ``t``."""
    return t + 1 < len(episode.turns)


@method("mt_grpo", "estimator", needs="outcome process", channel="separate", paper="arXiv 2505.11821")
def mt_grpo(
    groups: Batch,
    rewards: Numbers,
    lam: float = 1.0,
    *,
    segments: Literal["two", "turns"] = "two",
    result: Callable[[Episode, int], bool] = followed,
    gamma: float = 1.0,
    eps: float = 1e-4,
) -> Returns:
    """Return ``[N][G][T]``: ``A_outcome + lam * A_turn`` up to the first tool result, then ``A_outcome``.

    ``A_turn`` is the z-score, in the group, of what was earned up to the first tool result, ``A_outcome`` that of what
    was earned later. An attempt without a tool result gets on all turns the z-score of all that each attempt earned;
    to the other two pools it gives what its turns earned and its outcome.

    ``segments="turns"`` is the extension to many turns: ``A_t = z(outcome) + lam * z_t(return-to-go of the turns'
    rewards)``, where ``z_t`` compares the attempts alive at t; accumulated first, so that stopping is not rewarded.

    Args:
        groups: Episodes.
        rewards: With the outcome, as ``advantage.rewards`` gives them.
        lam: Weight of the turns' term.
        segments: Two segments (the paper), or a term of its own for every turn.
        result: Whether a tool answered a turn. The default: whether anything did; in an environment of the tool layer
            give ``lambda e, t: bool(e.turns[t].action.calls)``.
        gamma: Discount a turn, for ``segments="turns"``.
        eps: What is added to a deviation (the sample's): 1e-4 as in the released code.

    Source: Zeng et al. 2025, arXiv 2505.11821. Needs: rewards of turns, an outcome.
    Pair with: 0.5 for an answer that the search found, outcomes of 0..1, 21 attempts, no KL.
    """
    same_shape("mt_grpo", groups, rewards)
    if segments not in ("two", "turns"):
        raise ValueError(f"mt_grpo: segments: expected 'two' or 'turns', got {segments!r}")
    zscore = partial(normalise.zscore, eps=eps)
    totals, ends = advantage.totals(rewards), outcomes("mt_grpo", groups)
    table: Returns = []
    for group, rows, total, end in zip(groups, rewards, totals, ends, strict=True):
        if segments == "turns":
            own = [[*row[:-1], (row[-1] or 0.0) - o] for row, o in zip(rows, end, strict=True)]
            (turns,) = advantage.normalised(advantage.returns([own], gamma), zscore)
            ended = zscore(end).tolist()
            table.append([[o + lam * (a or 0.0) for a in row] for o, row in zip(ended, turns, strict=True)])
            continue
        cuts = [next((t + 1 for t in range(len(e.turns)) if result(e, t)), 0) for e in group]
        first = [
            sum(r or 0.0 for r in row[:cut]) if cut else all_ - o
            for row, cut, all_, o in zip(rows, cuts, total, end, strict=True)
        ]
        a_turn = zscore(first)
        a_outcome = zscore([all_ - f for all_, f in zip(total, first, strict=True)])
        a_all = zscore(total)
        table.append(
            [
                [float(a_outcome[g] + lam * a_turn[g] * (t < cut) if cut else a_all[g]) for t in range(len(row))]
                for g, (row, cut) in enumerate(zip(rows, cuts, strict=True))
            ]
        )
    return table
