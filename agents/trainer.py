"""The train step: samples in, one update of the policy's weights and a flat dict of metrics out."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from milepost.agents import checkpoint, distributed
from milepost.agents.core import stable_seed
from milepost.agents.lora import compute_narrow
from milepost.agents.loss import (
    Aggregation,
    Level,
    Totals,
    clone_loss,
    importance,
    kl_k2,
    policy_loss,
    sequence_weights,
)
from milepost.agents.metrics import Tally
from milepost.agents.packing import micro_batches, token_logprobs
from milepost.agents.samples import BoolArray, Sample, n_forks
from milepost.envs.core import FloatArray


class Trainable(Protocol):
    """The part of a policy that is trained."""

    version: int
    temperature: float

    @property
    def model(self) -> Any:
        """A transformers causal language model, with a peft adapter or without."""
        ...

    def sync(self) -> None:
        """Take over the model's new weights: drop caches and merged copies of the old ones."""
        ...


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
    old: Literal["trainer", "sampler"] = "trainer"
    """What a ratio is taken against: the trainer's own log-probabilities before the first step (with one epoch the
    ratio is then 1 and costs no extra forward), or those that the sampler recorded."""
    n_epochs: int = 1
    """Steps over the same samples in one update."""

    def __post_init__(self) -> None:
        if self.old == "sampler" and self.importance_cap is not None:
            raise ValueError("importance_cap corrects towards the trainer's ratio; with old='sampler' it counts twice")


class _Row(NamedTuple):
    """A sample that takes part in a step, with one number per token that carries loss in each column."""

    sample: Sample
    wanted: BoolArray
    columns: dict[str, FloatArray]


@dataclass(kw_only=True)
class Trainer:
    """Train a policy with AdamW: gradients accumulate by tokens, are summed over ranks, clipped, and applied once.

    An update is a function of weights, optimizer, seed, position and samples, never of the clock or of how the batch
    is split over micro-batches and ranks. With several ranks each calls the same methods with its own samples.
    """

    policy: Trainable = field(kw_only=False)
    lr: float
    objective: Objective = field(default_factory=Objective)
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.0
    clip_norm: float = 1.0
    total_updates: int | None = None
    """After so many updates the learning rate has come down to ``final_lr``; None keeps it constant."""
    warmup_updates: int = 0
    final_lr: float = 0.2
    """Share of ``lr`` that is left at the end."""
    top_layers: int | None = None
    """Train only what belongs to the top so many layers; backward stops below them. None trains all that can be."""
    max_tokens: int = 1536
    """Most tokens, with padding, in one forward."""
    seed: int = 0
    n_updates: int = field(default=0, init=False)
    """Updates behind the weights: the schedule's position."""

    def __post_init__(self) -> None:
        if self.top_layers is not None:
            freeze_below(self.policy.model, self.top_layers)
        compute_narrow(self.policy.model)
        self._parameters = {n: p for n, p in self.policy.model.named_parameters() if p.requires_grad}
        if not self._parameters:
            raise ValueError("nothing to train: no parameter of the model requires a gradient")
        distributed.copy_from_first(p.data for p in self._parameters.values())
        self._optimizer = torch.optim.AdamW(
            self._parameters.values(), lr=self.lr, betas=self.betas, weight_decay=self.weight_decay
        )

    def update(self, samples: Sequence[Sample]) -> dict[str, float]:
        """Take one policy-gradient update on this rank's samples; return the metrics of all ranks together.

        A turn that was never judged carries no loss; a sample whose every advantage is 0 is counted and not forwarded.

        Raises:
            ValueError: The objective needs the sampler's log-probabilities and a sample has none, or the model has no
                adapter whose switching off would give the reference.
        """
        o, tally = self.objective, Tally()
        rows = self._policy_rows(samples, tally)
        if o.kl:
            self._add_column(rows, "ref", self.reference([row.sample for row in rows]))
        if o.old == "trainer" and o.n_epochs > 1:
            self._add_column(rows, "old", self.logprobs([row.sample for row in rows]))
        elif o.old == "sampler":
            rows = [row._replace(columns={**row.columns, "old": row.columns["sampler"]}) for row in rows]
        norm = None
        for epoch in range(o.n_epochs):
            norm = self._step(rows, lambda batch: self._policy_loss(batch, tally), epoch)
        return self._finish(tally, norm)

    def clone(self, samples: Sequence[Sample]) -> dict[str, float]:
        """Take one update of behaviour cloning on this rank's samples; return the metrics of all ranks together.

        A sampled token weighs 1, or its turn's advantage where there is one: 0 shows a turn without imitating it.
        The loss is the weighted mean over tokens at temperature 1.

        Raises:
            ValueError: A weight is negative, or no token of the whole batch has one.
        """
        tally = Tally()
        weights = [np.where(np.isnan(s.advantages), np.float32(1), s.advantages) * s.sampled for s in samples]
        if (bad := next((s for s, w in zip(samples, weights, strict=True) if (w < 0).any()), None)) is not None:
            raise ValueError(f"episode {bad.episode}: cannot imitate with a negative weight (an advantage below 0)")
        wanted = [w > 0 for w in weights]
        totals = self._totals([int(at.sum()) for at in wanted])
        if not totals.tokens:
            raise ValueError(f"nothing to imitate: none of {len(samples)} samples has a sampled token of weight > 0")
        rows = [
            _Row(s, at, {"weight": (w[at] / totals.tokens).astype(np.float32)})
            for s, w, at in zip(samples, weights, wanted, strict=True)
            if at.any()
        ]
        _count(tally, samples, rows)

        def loss(batch: Sequence[_Row]) -> Tensor:
            logprobs_N = self._forward(batch, 1.0)
            value = clone_loss(logprobs_N, _column(batch, "weight", logprobs_N))
            tally.add("loss/clone", float(value.detach()))
            return value

        return self._finish(tally, self._step(rows, loss))

    def logprobs(self, samples: Sequence[Sample]) -> list[FloatArray]:
        """Return each sample's log-probabilities ``[L]`` under the present weights, 0 where nothing was sampled."""
        results = [np.zeros(len(s), np.float32) for s in samples]
        with torch.no_grad(), self._mode(training=False):
            for batch in micro_batches([s.ids for s in samples], [s.sampled for s in samples], self.max_tokens):
                rows = [_Row(samples[i], samples[i].sampled, {}) for i in batch]
                flat = self._forward(rows, self._temperature).cpu().numpy()
                for i, part in zip(batch, np.split(flat, np.cumsum([r.wanted.sum() for r in rows])[:-1]), strict=True):
                    results[i][samples[i].sampled] = part
        return results

    def reference(self, samples: Sequence[Sample]) -> list[FloatArray]:
        """Return each sample's log-probabilities ``[L]`` under the reference: the model with its adapter off.

        Raises:
            ValueError: The model has no adapter.
        """
        if not hasattr(self.policy.model, "disable_adapter"):
            raise ValueError("the reference policy is the model with its adapter off; this model has none (use LoRA)")
        with self.policy.model.disable_adapter():
            return self.logprobs(samples)

    def save(self, path: Path) -> None:
        """Write all that the next update depends on to the new file ``path``; rank 0 does it for all."""
        position = {"n_updates": self.n_updates, "version": self.policy.version}
        checkpoint.save(path, self._saved(), self._optimizer, position)

    def load(self, path: Path) -> None:
        """Continue where ``save`` was called, bit for bit; every rank does it.

        Raises:
            ValueError: The checkpoint is truncated or of another model; nothing is changed then.
        """
        position = checkpoint.load(path, self._saved(), self._optimizer)
        self.n_updates, self.policy.version = position["n_updates"], position["version"]
        self.policy.sync()

    def lr_at(self, update: int) -> float:
        """Return the learning rate of an update, counted from 0."""
        warm = min(1.0, (update + 1) / max(1, self.warmup_updates))
        share = min(1.0, update / max(1, self.total_updates - 1)) if self.total_updates else 0.0
        return self.lr * warm * (1 - (1 - self.final_lr) * share)

    @property
    def _temperature(self) -> float:
        return self.policy.temperature or 1.0

    def _saved(self) -> dict[str, Tensor]:
        """Return what a checkpoint holds: all adapter weights, trained now or before, or all weights of the model."""
        named = dict(self.policy.model.named_parameters())
        adapter = {name: p for name, p in named.items() if "lora_" in name}
        return {**self._parameters, **(adapter or named)}

    def _totals(self, n_tokens: Sequence[int]) -> Totals:
        local = Totals(sum(n > 0 for n in n_tokens), sum(n_tokens))
        return Totals(**distributed.sum_numbers(local._asdict()))

    def _policy_rows(self, samples: Sequence[Sample], tally: Tally) -> list[_Row]:
        o = self.objective
        counts: Counter[tuple[str, str]] = Counter()
        for s in samples:
            counts[s.key] += int(s.judged.sum())
        weights = sequence_weights(
            list(counts.values()), o.aggregation, o.constant, self._totals(list(counts.values()))
        )
        weight_of = dict(zip(counts, weights, strict=True))
        rows = []
        for s in samples:
            at = s.judged
            if not at.any() or not (o.kl or s.advantages[at].any()):
                continue
            if (o.old == "sampler" or o.importance_cap is not None) and np.isnan(s.logprobs[at]).any():
                raise ValueError(
                    f"episode {s.episode} has no log-probabilities of its sampler; this objective needs them"
                )
            n = int(at.sum())
            columns = {
                "weight": np.full(n, weight_of[s.key], np.float32),
                "advantage": s.advantages[at],
                "sampler": s.logprobs[at],
            }
            rows.append(_Row(s, at, columns))
        _count(tally, samples, rows)
        tally.add("turns/unjudged", sum(len(np.unique(s.turn[s.sampled & ~s.judged])) for s in samples))
        return rows

    def _policy_loss(self, batch: Sequence[_Row], tally: Tally) -> Tensor:
        o = self.objective
        logprobs_N = self._forward(batch, self._temperature)
        own_N = logprobs_N.detach()
        old_N = _column(batch, "old", own_N) if "old" in batch[0].columns else own_N
        sampler_N = _column(batch, "sampler", own_N)
        base_weights_N = weights_N = _column(batch, "weight", own_N)
        if o.importance_cap is not None:
            weights_N = weights_N * importance(old_N, sampler_N, o.importance_cap)
        result = policy_loss(
            logprobs_N,
            old_N,
            _column(batch, "advantage", own_N),
            weights_N,
            segments_N=_segments(batch, o.level, own_N),
            clip_low=o.clip_low,
            clip_high=o.clip_high,
        )
        loss = result.loss
        tally.add("loss/policy", float(loss.detach()))
        tally.mean("ratio/mean", result.ratio_N)
        tally.mean("ratio/clipped", result.clipped_N)
        tally.most("ratio/max", result.ratio_N)
        tally.mean("kl/sampler_nats", sampler_N - own_N)
        tally.mean("kl/sampler_abs_nats", (sampler_N - own_N).abs())
        if o.kl:
            ref_N = _column(batch, "ref", own_N)
            kl = (base_weights_N * kl_k2(logprobs_N, ref_N)).sum()
            loss = loss + o.kl * kl
            tally.add("loss/kl", float(kl.detach()))
            tally.mean("kl/reference_nats", own_N - ref_N)
        return loss

    def _forward(self, batch: Sequence[_Row], temperature: float) -> Tensor:
        return token_logprobs(
            self.policy.model, [row.sample.ids for row in batch], [row.wanted for row in batch], temperature
        )

    def _step(self, rows: Sequence[_Row], loss: Callable[[Sequence[_Row]], Tensor], epoch: int = 0) -> float | None:
        """Take one optimizer step on all rows of all ranks; return the gradient's norm, None where there was no row."""
        parameters = list(self._parameters.values())
        self._optimizer.zero_grad(set_to_none=False)
        for p in parameters:
            p.grad = torch.zeros_like(p) if p.grad is None else p.grad
        with self._mode(training=True, seed=stable_seed(self.seed, self.n_updates, epoch, distributed.rank())):
            for batch in micro_batches([r.sample.ids for r in rows], [r.wanted for r in rows], self.max_tokens):
                loss([rows[i] for i in batch]).backward()  # type: ignore[no-untyped-call]
        if not distributed.sum_numbers({"rows": len(rows)})["rows"]:
            return None
        distributed.sum_tensors([p.grad for p in parameters if p.grad is not None])
        norm = float(torch.nn.utils.clip_grad_norm_(parameters, self.clip_norm))
        if not np.isfinite(norm):
            raise ArithmeticError(f"update {self.n_updates}: the gradient's norm is {norm}; no weight was changed")
        for group in self._optimizer.param_groups:
            group["lr"] = self.lr_at(self.n_updates)
        self._optimizer.step()
        return norm

    def _finish(self, tally: Tally, norm: float | None) -> dict[str, float]:
        """Count the update, hand changed weights to the policy and close the metrics."""
        metrics = {**tally.result(), "train/lr": self.lr_at(self.n_updates)}
        self.n_updates += 1
        if norm is not None:
            metrics["grad/norm"] = norm
            self.policy.version += 1
            self.policy.sync()
        return metrics

    @contextmanager
    def _mode(self, *, training: bool, seed: int | None = None) -> Iterator[None]:
        """Switch dropout on or off with a seed of its own, and leave the model's mode as it was found."""
        model = self.policy.model
        before = model.training
        with torch.random.fork_rng(enabled=seed is not None):
            if seed is not None:
                torch.manual_seed(seed)
            model.train(training)
            try:
                yield
            finally:
                model.train(before)

    @staticmethod
    def _add_column(rows: Sequence[_Row], name: str, values: Sequence[FloatArray]) -> None:
        for row, value in zip(rows, values, strict=True):
            row.columns[name] = value[row.wanted]


def freeze_below(model: Any, top_layers: int) -> None:
    """Take the gradient from every parameter that does not belong to one of the top so many layers.

    Raises:
        ValueError: The model has fewer layers.
    """
    n_layers = model.config.num_hidden_layers
    if not 1 <= top_layers <= n_layers:
        raise ValueError(f"top_layers: expected 1..{n_layers}, got {top_layers}")
    for name, p in model.named_parameters():
        layer = re.search(r"\.layers\.(\d+)\.", name)
        if layer is None or int(layer[1]) < n_layers - top_layers:
            p.requires_grad_(False)


def _count(tally: Tally, samples: Sequence[Sample], rows: Sequence[_Row]) -> None:
    tally.add("samples/total", len(samples))
    tally.add("samples/forks", n_forks(samples))
    tally.add("samples/skipped", len(samples) - len(rows))
    tally.add("tokens/trained", sum(int(row.wanted.sum()) for row in rows))
    tally.add("tokens/forwarded", sum(len(row.sample) for row in rows))


def _column(batch: Sequence[_Row], name: str, like: Tensor) -> Tensor:
    return torch.from_numpy(np.concatenate([row.columns[name] for row in batch])).to(like.device)


def _segments(batch: Sequence[_Row], level: Level, like: Tensor) -> Tensor | None:
    """[N] which ratio each token shares; None: each its own."""
    if level == "token":
        return None
    keys = [
        (i, t if level == "turn" else 0) for i, row in enumerate(batch) for t in row.sample.turn[row.wanted].tolist()
    ]
    index = {key: n for n, key in enumerate(dict.fromkeys(keys))}
    return torch.tensor([index[key] for key in keys], device=like.device)
