"""Tree-GRPO: attempts that branched off one another are compared among themselves, and with all of the task."""

from __future__ import annotations

from collections.abc import Sequence

from milepost.credit import advantage, normalise
from milepost.credit.advantage import Batch, Numbers, Returns
from milepost.credit.cards import method
from milepost.credit.peers.gigpo import among_equals
from milepost.credit.peers.given import same_shape
from milepost.envs.core import ContractError, Episode


@method("tree_grpo", "estimator", level="episode", needs="outcome", paper="repo AMAP-ML/Tree-GRPO")
def tree_grpo(groups: Batch, rewards: Numbers, *, eps: float = 1e-6) -> Returns:
    """Return ``[N][G][T]`` the z-score of an attempt's total within its tree plus that over all trees of the task.

    A tree is an attempt and all that branched off it (``episode.parent``), off these, and so on; the group holds all
    trees of its task. A tree of one attempt has no term of its own. A turn that a branch took over gets a number in
    every branch: ``arpo.shared_prefix`` gives all copies their mean.

    Source: repo AMAP-ML/Tree-GRPO; there 2 trees, 2 expansions of each in 1 round. Needs: an outcome.
    """
    same_shape("tree_grpo", groups, rewards)
    table: Returns = []
    for group, totals, rows in zip(groups, advantage.totals(rewards), rewards, strict=True):
        trees = [[root] for root in roots(group)]
        column = [[total] for total in totals]
        within = among_equals(trees, column, lambda x: normalise.zscore(x, eps=eps))
        over = normalise.zscore(totals, eps=eps).tolist()
        table.append([[own + all_] * len(row) for (own,), all_, row in zip(within, over, rows, strict=True)])
    return table


def roots(group: Sequence[Episode]) -> list[str]:
    """[G] the id of the episode that each one's tree grew from, whether that is in the group or not.

    Raises:
        ContractError: Episodes are each other's parents.
    """
    parents = {e.id: str(e.parent["episode"]) for e in group if e.parent is not None}
    found = []
    for episode in group:
        at, n_steps = episode.id, 0
        while at in parents:
            at, n_steps = parents[at], n_steps + 1
            if n_steps > len(parents):
                raise ContractError(f"episode {episode.id!r}: its parents lead back to itself: {at!r}")
        found.append(at)
    return found
