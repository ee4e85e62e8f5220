"""Online process rewards: a second language model learns which episodes won, and its log-ratios reward the turns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal, get_args

import numpy as np

from milepost.credit import normalise
from milepost.credit.advantage import Batch, Numbers, Returns, Table, normalised
from milepost.credit.advantage import rewards as earned
from milepost.credit.cards import method
from milepost.credit.core import Advantages, Channel, Rewards, TokenModel
from milepost.credit.heads import Trained, required, sampled_logprobs
from milepost.credit.normalise import Floats, Normaliser
from milepost.credit.tokens import lengths, outcome_of, same_shape, token_credit
from milepost.envs.core import ContractError, Episode

Score = Literal["sum", "mean"]
"""How an episode's score is made of its turns: the paper adds them, the released code takes their mean."""
Unit = Literal["turn", "token"]


class OPRL(Trained):
    """A turn earns how much likelier the process model finds it than the policy that took it did.

    ``r_t = beta * sum over the turn's tokens of (log p_phi - log p_old)``, ``p_old`` being what the sampler recorded.
    ``fit`` takes one step on ``-log sigmoid(Q(winner) - Q(loser))``, ``Q = sum_t r_t``, averaged over all pairs of the
    batch, and none where there is no pair. What a turn earned was said before. Unit: beta * nats.

    Args:
        token_model: Begins as the policy does; at the policy's temperature, so that it earns 0 at first.
        beta: Scale of rewards and scores.
        unit: ``"token"``: a number per token.
        traj_score: How Q is made of turns.
        threshold: An outcome above it is a success; every success is paired with every failure of its group.
        margin: Instead, every two of a group whose outcomes differ by more than this (graded outcomes).

    Source: Liu et al. 2025, arXiv 2509.19199 (also published as iStar).
    Needs: a token model, tokens with the sampler's log-probabilities, outcomes.
    Pair with: ``oprl.istar``.
    Differs: scores keep their gradient in ``fit``; the released trajectory update cuts it.
    """

    name: ClassVar[str] = "oprl"
    needs: ClassVar[frozenset[str]] = frozenset({"token_model", "logprobs", "outcome"})
    channel: ClassVar[Channel] = "separate"
    paper: ClassVar[str] = "arXiv 2509.19199"
    pair: ClassVar[str] = "istar"

    def __init__(
        self,
        *,
        token_model: TokenModel | None = None,
        beta: float = 0.05,
        unit: Unit = "turn",
        traj_score: Score = "sum",
        threshold: float = 0.0,
        margin: float | None = None,
    ) -> None:
        if unit not in get_args(Unit):
            raise ValueError(f"{self.name}: unit: expected 'turn' or 'token', got {unit!r}")
        if traj_score not in get_args(Score):
            raise ValueError(f"{self.name}: traj_score: expected 'sum' or 'mean', got {traj_score!r}")
        self.model = required(self.name, token_model)
        self.beta, self.unit, self.traj_score = beta, unit, traj_score
        self.threshold, self.margin = threshold, margin

    def on_group(self, group: Sequence[Episode]) -> Rewards:
        """[G][T] rewards by the process model as it is now; ``[A]`` each with ``unit="token"``."""
        import torch

        with torch.no_grad():
            ratios = log_ratios(self.name, self.model, group)
        tokens = [[(self.beta * x.float()).cpu().numpy() for x in row] for row in ratios]
        return tokens if self.unit == "token" else [[float(x.sum(dtype=np.float64)) for x in row] for row in tokens]

    def fit(self, groups: Sequence[Sequence[Episode]]) -> dict[str, float]:
        """Take one step on all pairs of all ranks; return loss, share of pairs in the right order, number of pairs."""
        found = [(group, pairs([e.outcome for e in group], self.threshold, self.margin)) for group in groups]
        n_pairs = self.model.total(sum(len(p) for _, p in found))
        metrics = {"pairs": n_pairs}
        if n_pairs:
            losses = [preference_losses(self.scores(group), p) for group, p in found if p]
            loss = sum((x.sum() for x in losses), 0.0) / n_pairs
            right = sum(int((x.detach() < np.log(2)).sum()) for x in losses)
            metrics["loss"] = self.model.total(float(sum(x.detach().sum() for x in losses)) / n_pairs)
            metrics["right"] = self.model.total(right) / n_pairs
            metrics |= self.model.step(loss)
        return {f"credit/{self.label}/{key}": value for key, value in metrics.items()}

    def scores(self, group: Sequence[Episode]) -> Any:
        """[G] the tensor Q of every episode, with gradient."""
        import torch

        turns = [[x.sum() for x in row] for row in log_ratios(self.name, self.model, group)]
        zero = torch.zeros((), device=next((x.device for row in turns for x in row), None))
        sums = [sum(row, zero) for row in turns]
        by = [1.0 if self.traj_score == "sum" else max(1, len(row)) for row in turns]
        return torch.stack([self.beta * total / n for total, n in zip(sums, by, strict=True)])


def log_ratios(name: str, model: TokenModel, episodes: Sequence[Episode]) -> list[list[Any]]:
    """[E][T][A] tensors ``log p_phi - log p_old`` in nats of the sampled tokens."""
    import torch

    old = [sampled_logprobs(name, e) for e in episodes]
    new = model.token_logprobs(episodes)
    return [
        [x - torch.from_numpy(y).to(x) for x, y in zip(own, theirs, strict=True)]
        for own, theirs in zip(new, old, strict=True)
    ]


def pairs(
    outcomes: Sequence[float | None], threshold: float = 0.0, margin: float | None = None
) -> list[tuple[int, int]]:
    """Return all (better, worse) of a group: success by failure, or where outcomes differ by more than a margin.

    An unscored episode is in none.
    """
    scored = [(i, o) for i, o in enumerate(outcomes) if o is not None]
    if margin is None:
        return [(i, j) for i, a in scored if a > threshold for j, b in scored if b <= threshold]
    return [(i, j) for i, a in scored for j, b in scored if a - b > margin]


def preference_losses(scores: Any, pairs: Sequence[tuple[int, int]]) -> Any:
    """[P] the tensor ``-log sigmoid(Q_better - Q_worse)`` of each pair (Bradley-Terry)."""
    import torch

    better, worse = torch.tensor(pairs, device=scores.device, dtype=torch.long).reshape(-1, 2).T
    return -torch.nn.functional.logsigmoid(scores[better] - scores[worse])


@method("istar", "estimator", needs="outcome process", channel="separate", paper="arXiv 2509.19199")
def istar(
    groups: Batch,
    rewards: Numbers,
    label: str = "oprl",
    *,
    alpha: float = 1.0,
    normaliser: Normaliser = normalise.zscore,
    merged: bool = False,
    rescale: bool = False,
    unit: Unit = "turn",
) -> Advantages:
    """Return ``[N][G][T]`` normalised outcome plus ``alpha`` times normalised process reward.

    ``A_t = A_E + alpha * A_S_t``: the outcome in the pool of the group's attempts, ``r_t`` in that of all turns of all
    its attempts. A turn that was not judged gets ``A_E``. Of ``rewards`` only the shape counts.

    Args:
        groups: Episodes with an outcome and the credit ``label``.
        rewards: ``[N][G][T]`` as every estimator takes it.
        label: The process reward.
        alpha: Its weight.
        normaliser: ``zscore`` (the paper), ``rloo`` (the released scripts) or ``center``.
        merged: The ablation: ``outcome + alpha * sum_t r_t`` is normalised once, all turns alike.
        rescale: Divide process rewards by the largest of the batch first (``rescaled``).
        unit: ``"token"``, the other ablation: the pool is all tokens of all turns, the result ``[N][G][T][A]``.

    Source: Liu et al. 2025, arXiv 2509.19199.
    Differs: the step pool has all turns; the released normaliser has the first turns alone.
    """
    same_shape("istar", groups, rewards)
    outcomes: Table = [[[outcome_of("istar", e)] for e in group] for group in groups]
    if unit == "token":
        tokens = _token_steps(groups, label, normaliser, rescale)
        episodes = normalised(outcomes, normaliser, over="group")
        return [
            [[float(e[0] or 0.0) + alpha * s for s in row] for e, row in zip(own, rows, strict=True)]
            for own, rows in zip(episodes, tokens, strict=True)
        ]
    process = earned(groups, label, outcome=0.0)
    process = rescaled(process) if rescale else process
    if merged:
        outcomes = [
            [[float(o[0] or 0.0) + alpha * sum(r or 0.0 for r in row)] for o, row in zip(*pair, strict=True)]
            for pair in zip(outcomes, process, strict=True)
        ]
    episodes = normalised(outcomes, normaliser, over="group")
    steps: Table = [[[0.0] * len(row) for row in group] for group in process]
    steps = steps if merged else normalised(process, normaliser, over="group")
    return [
        [[float(e[0] or 0.0) + alpha * (s or 0.0) for s in row] for e, row in zip(own, rows, strict=True)]
        for own, rows in zip(episodes, steps, strict=True)
    ]


def _token_steps(groups: Batch, label: str, normaliser: Normaliser, rescale: bool) -> list[list[list[Floats]]]:
    """[N][G][T][A] the token credit normalised over all tokens of its group.

    A scale of the batch is the largest sum from a token to its turn's end: with a token a turn, the largest reward.
    """
    rows = [[token_credit("istar", e, label, "OPRL(unit='token') gives it") for e in group] for group in groups]
    by = 1.0
    if rescale:
        turns = [
            x for g, own in zip(groups, rows, strict=True) for e, r in zip(g, own, strict=True) for x in _split(r, e)
        ]
        by = max((float(np.abs(x[::-1].cumsum()).max()) for x in turns), default=0.0) + 1e-6
    table = []
    for group, own in zip(groups, rows, strict=True):
        pool = normaliser(np.concatenate([*own, np.zeros(0)]) / by)
        ends = np.cumsum([len(row) for row in own])
        table.append([_split(pool[end - len(row) : end], e) for end, row, e in zip(ends, own, group, strict=True)])
    return table


def _split(flat: Floats, episode: Episode) -> list[Floats]:
    return np.split(flat, np.cumsum(lengths("istar", episode))[:-1]) if episode.turns else []


def rescaled(process: Numbers) -> Table:
    """Return ``[N][G][T]`` rewards over the largest absolute one of the batch: every sign stays.

    Source: an option of the released code of arXiv 2509.19199.
    """
    flat = iter(normalise.max_abs([r for g in process for row in g for r in row if r is not None], singleton="raw"))
    return [[[None if r is None else float(next(flat)) for r in row] for row in group] for group in process]


def penalised(groups: Batch, penalty: float = 0.1) -> Returns:
    """Return ``[N][G][T]`` the outcome as every turn has it, less ``penalty`` where its move was not executed.

    Raises:
        ContractError: ``info["valid"]`` or an outcome is missing.
    """
    for group in groups:
        for episode in group:
            if any("valid" not in turn.info for turn in episode.turns):
                raise ContractError(f"oprl's penalty needs info['valid'] at steps; {episode.env_id} gave none")
    return [
        [[outcome_of("oprl", e) - penalty * (not t.info["valid"]) for t in e.turns] for e in group] for group in groups
    ]
