"""What an update maximizes: which tokens of a batch carry loss, what each weighs, and the loss of a micro-batch.

Shape letters: N tokens with loss in a micro-batch, flat, in the order of their rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from milepost.agents import distributed
from milepost.agents.loss import (
    Aggregation,
    Level,
    Totals,
    importance,
    importance_mask,
    kl_k2,
    policy_loss,
    sequence_weights,
)
from milepost.agents.metrics import Tally
from milepost.agents.samples import BoolArray, Sample, n_forks
from milepost.envs.core import FloatArray


@dataclass(frozen=True)
class Objective:
    """What a policy update maximizes."""

    level: Level = "token"
    """One ratio per token, turn or sequence (a row)."""
    clip_low: float = 0.2
    clip_high: float = 0.2
    aggregation: Aggregation = "seq_mean_token_sum_norm"
    """A sequence is one agent's trajectory, all its rows together."""
    constant: float = 64.0
    """What ``seq_mean_token_sum_norm`` divides a trajectory's sum by."""
    kl: float = 0.0
    """Weight of k2 in the loss; the reference is the model with its adapter switched off."""
    importance_cap: float | None = None
    """Truncate the correction between the sampler's and the trainer's log-probabilities here; None: no correction."""
    importance_range: tuple[float, float] | None = None
    """Leave out what the trainer finds so much less or more probable than the sampler did: a weight of 0 where the
    ratio is outside. What is kept weighs as without it, or its ratio where ``importance_cap`` is set too."""
    importance_level: Level = "token"
    """What ``importance_range`` keeps or leaves out: a token, a turn, or a sequence (a row)."""
    entropy: float = 0.0
    """Weight of the mean entropy in nats that is added to what is maximized; 0 computes none."""
    old: Literal["trainer", "sampler"] = "trainer"
    """What a ratio is taken against: the trainer's own log-probabilities before the first step (with one epoch the
    ratio is then 1 and costs no extra forward), or those that the sampler recorded."""
    n_epochs: int = 1
    """Steps over the same samples in one update."""

    def __post_init__(self) -> None:
        if self.old == "sampler" and self.importance_cap is not None:
            raise ValueError("importance_cap corrects towards the trainer's ratio; with old='sampler' it counts twice")
        if self.importance_range is not None:
            low, high = self.importance_range
            if not 0 <= low < high:
                raise ValueError(f"importance_range: expected 0 <= low < high, got {low} and {high}")
            if self.old == "sampler":
                raise ValueError("importance_range compares trainer and sampler; with old='sampler' the two are one")

    @property
    def needs_sampler(self) -> bool:
        """Whether the sampler's log-probabilities enter the loss."""
        return self.old == "sampler" or self.importance_cap is not None or self.importance_range is not None


class Row(NamedTuple):
    """A sample that takes part in a step, with one number per token that carries loss in each column."""

    sample: Sample
    wanted: BoolArray
    columns: dict[str, FloatArray]


def _totals(n_tokens: Sequence[int]) -> Totals:
    local = Totals(sum(n > 0 for n in n_tokens), sum(n_tokens))
    return Totals(**distributed.sum_numbers(local._asdict()))


def policy_rows(samples: Sequence[Sample], o: Objective, tally: Tally) -> list[Row]:
    """Return the rows that take part in an update; count the others.

    Raises:
        ValueError: The objective needs the sampler's log-probabilities and a sample has none.
    """
    counts: Counter[tuple[str, str]] = Counter()
    for s in samples:
        counts[s.key] += int(s.judged.sum())
    weights = sequence_weights(list(counts.values()), o.aggregation, o.constant, _totals(list(counts.values())))
    weight_of = dict(zip(counts, weights, strict=True))
    rows = []
    for s in samples:
        at = s.judged
        if not at.any() or not (o.kl or o.entropy or s.advantages[at].any()):
            continue
        if o.needs_sampler and np.isnan(s.logprobs[at]).any():
            raise ValueError(f"episode {s.episode} has no log-probabilities of its sampler; this objective needs them")
        n = int(at.sum())
        columns = {
            "weight": np.full(n, weight_of[s.key], np.float32),
            "advantage": s.advantages[at],
            "sampler": s.logprobs[at],
        }
        rows.append(Row(s, at, columns))
    _count(tally, samples, rows)
    tally.add("turns/unjudged", sum(len(np.unique(s.turn[s.sampled & ~s.judged])) for s in samples))
    return rows


def surrogate(
    batch: Sequence[Row], logprobs_N: Tensor, o: Objective, tally: Tally, entropies_N: Tensor | None = None
) -> Tensor:
    """[] what an update minimizes on these rows, given their log-probabilities, and entropies if any, with gradient."""
    own_N = logprobs_N.detach()
    old_N = column(batch, "old", own_N) if "old" in batch[0].columns else own_N
    sampler_N = column(batch, "sampler", own_N)
    base_weights_N = weights_N = column(batch, "weight", own_N)
    if o.importance_cap is not None:
        weights_N = weights_N * importance(old_N, sampler_N, o.importance_cap)
    if o.importance_range is not None:
        segments_N = _segments(batch, o.importance_level, own_N)
        kept_N = importance_mask(old_N, sampler_N, *o.importance_range, segments_N)
        weights_N = torch.where(kept_N, weights_N, 0.0)
        tally.add("tokens/left_out", float((~kept_N).sum()) / o.n_epochs)
        tally.mean("importance/kept", kept_N)
    result = policy_loss(
        logprobs_N,
        old_N,
        column(batch, "advantage", own_N),
        weights_N,
        segments_N=_segments(batch, o.level, own_N),
        clip_low=o.clip_low,
        clip_high=o.clip_high,
    )
    loss = result.loss
    tally.add("loss/policy", float(loss.detach()) / o.n_epochs)
    tally.mean("ratio/mean", result.ratio_N)
    tally.mean("ratio/clipped", result.clipped_N)
    tally.most("ratio/max", result.ratio_N)
    tally.mean("kl/sampler_nats", sampler_N - own_N)
    tally.mean("kl/sampler_abs_nats", (sampler_N - own_N).abs())
    if o.kl:
        ref_N = column(batch, "ref", own_N)
        kl = (base_weights_N * kl_k2(logprobs_N, ref_N)).sum()
        loss = loss + o.kl * kl
        tally.add("loss/kl", float(kl.detach()) / o.n_epochs)
        tally.mean("kl/reference_nats", own_N - ref_N)
    if entropies_N is not None:
        spread = (base_weights_N * entropies_N).sum()
        loss = loss - o.entropy * spread
        tally.add("loss/entropy", -float(spread.detach()) / o.n_epochs)
        tally.mean("entropy/mean_nats", entropies_N)
    return loss


def clone_rows(samples: Sequence[Sample], tally: Tally) -> list[Row]:
    """Return the rows with something to imitate, each token's weight over the batch's number of such tokens.

    Raises:
        ValueError: A weight is negative, or no token of the whole batch has one.
    """
    weights = [np.where(np.isnan(s.advantages), np.float32(1), s.advantages) * s.sampled for s in samples]
    if (bad := next((s for s, w in zip(samples, weights, strict=True) if (w < 0).any()), None)) is not None:
        raise ValueError(f"episode {bad.episode}: cannot imitate with a negative weight (an advantage below 0)")
    wanted = [w > 0 for w in weights]
    totals = _totals([int(at.sum()) for at in wanted])
    if not totals.tokens:
        raise ValueError(f"nothing to imitate: none of {len(samples)} samples has a sampled token of weight > 0")
    rows = [
        Row(s, at, {"weight": (w[at] / totals.tokens).astype(np.float32)})
        for s, w, at in zip(samples, weights, wanted, strict=True)
        if at.any()
    ]
    _count(tally, samples, rows)
    return rows


def _count(tally: Tally, samples: Sequence[Sample], rows: Sequence[Row]) -> None:
    tally.add("samples/total", len(samples))
    tally.add("samples/forks", n_forks(samples))
    tally.add("samples/skipped", len(samples) - len(rows))
    tally.add("tokens/trained", sum(int(row.wanted.sum()) for row in rows))
    tally.add("tokens/forwarded", sum(len(row.sample) for row in rows))


def column(batch: Sequence[Row], name: str, like: Tensor) -> Tensor:
    """[N] a column of the rows, on the device of ``like``."""
    return torch.from_numpy(np.concatenate([row.columns[name] for row in batch])).to(like.device)


def _segments(batch: Sequence[Row], level: Level, like: Tensor) -> Tensor | None:
    """[N] which ratio each token shares; None: each its own."""
    if level == "token":
        return None
    keys = [
        (i, t if level == "turn" else 0) for i, row in enumerate(batch) for t in row.sample.turn[row.wanted].tolist()
    ]
    index = {key: n for n, key in enumerate(dict.fromkeys(keys))}
    return torch.tensor([index[key] for key in keys], device=like.device)
