"""The train step: samples in, one update of the policy's weights and a flat dict of metrics out."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from milepost.agents import checkpoint, distributed
from milepost.agents.core import stable_seed
from milepost.agents.lora import compute_narrow, without_adapter
from milepost.agents.loss import clone_loss
from milepost.agents.metrics import Tally
from milepost.agents.objective import Objective, Row, clone_rows, column, policy_rows, surrogate
from milepost.agents.packing import Below, begins_anywhere, micro_batches, token_logprobs, token_scores
from milepost.agents.samples import Sample
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
        self._first: int | None = None
        if self.top_layers is not None:
            freeze_below(self.policy.model, self.top_layers)
            self._listen(self.top_layers)
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
        rows = policy_rows(samples, o, tally)
        if o.kl:
            self._add_column(rows, "ref", self.reference([row.sample for row in rows]))
        if o.old == "trainer" and o.n_epochs > 1:
            self._add_column(rows, "old", self._scores([row.sample for row in rows], self._below))
        elif o.old == "sampler":
            rows = [row._replace(columns={**row.columns, "old": row.columns["sampler"]}) for row in rows]

        def loss(batch: Sequence[Row]) -> Tensor:
            inputs = self._inputs(batch, self._temperature, self._below(batch))
            if o.entropy:
                logprobs_N, entropies_N = token_scores(*inputs)
                return surrogate(batch, logprobs_N, o, tally, entropies_N)
            return surrogate(batch, token_logprobs(*inputs), o, tally)

        norm = None
        for epoch in range(o.n_epochs):
            norm = self._step(rows, loss, epoch)
        return self._finish(tally, norm)

    def clone(self, samples: Sequence[Sample]) -> dict[str, float]:
        """Take one update of behaviour cloning on this rank's samples; return the metrics of all ranks together.

        A sampled token weighs 1, or its turn's advantage where there is one: 0 shows a turn without imitating it.
        The loss is the weighted mean over tokens at temperature 1.

        Raises:
            ValueError: A weight is negative, or no token of the whole batch has one.
        """
        tally = Tally()
        rows = clone_rows(samples, tally)

        def loss(batch: Sequence[Row]) -> Tensor:
            logprobs_N = token_logprobs(*self._inputs(batch, 1.0))
            value = clone_loss(logprobs_N, column(batch, "weight", logprobs_N))
            tally.add("loss/clone", float(value.detach()))
            return value

        return self._finish(tally, self._step(rows, loss))

    def logprobs(self, samples: Sequence[Sample]) -> list[FloatArray]:
        """Return each sample's log-probabilities ``[L]`` under the present weights, 0 where nothing was sampled."""
        return self._scores(samples)

    def reference(self, samples: Sequence[Sample]) -> list[FloatArray]:
        """Return each sample's log-probabilities ``[L]`` under the reference: the model with its adapter off.

        Raises:
            ValueError: The model has no adapter.
        """
        if not hasattr(self.policy.model, "disable_adapter"):
            raise ValueError("the reference policy is the model with its adapter off; this model has none (use LoRA)")
        with without_adapter(self.policy.model):
            return self._scores(samples)

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

    def _inputs(self, batch: Sequence[Row], temperature: float, below: Below | None = None) -> tuple[Any, ...]:
        rows, wanted = [row.sample.ids for row in batch], [row.wanted for row in batch]
        return self.policy.model, rows, wanted, temperature, below

    def _scores(
        self, samples: Sequence[Sample], below: Callable[[Sequence[Row]], Below | None] = lambda batch: None
    ) -> list[FloatArray]:
        results = [np.zeros(len(s), np.float32) for s in samples]
        with torch.no_grad(), self._mode(training=False):
            for batch in micro_batches([s.ids for s in samples], [s.sampled for s in samples], self.max_tokens):
                rows = [Row(samples[i], samples[i].sampled, {}) for i in batch]
                flat = token_logprobs(*self._inputs(rows, self._temperature, below(rows))).cpu().numpy()
                for i, part in zip(batch, np.split(flat, np.cumsum([r.wanted.sum() for r in rows])[:-1]), strict=True):
                    results[i][samples[i].sampled] = part
        return results

    def _listen(self, top_layers: int) -> None:
        """Let the policy keep, while it plays, what enters the trained layers: an update then starts there."""
        listen = getattr(self.policy, "listen", None)
        first = self.policy.model.config.num_hidden_layers - top_layers
        if first and listen is not None and begins_anywhere(self.policy.model):
            listen(first)
            self._first = first

    def _below(self, batch: Sequence[Row]) -> Below | None:
        """Return what enters the trained layers for these rows; None where the policy did not keep it."""
        if self._first is None:
            return None
        policy: Any = self.policy
        states = [policy.states_below(self._first, s.episode, s.agent, s.ids) for s in (row.sample for row in batch)]
        return None if any(x is None for x in states) else Below(self._first, states)

    def _step(self, rows: Sequence[Row], loss: Callable[[Sequence[Row]], Tensor], epoch: int = 0) -> float | None:
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
    def _add_column(rows: Sequence[Row], name: str, values: Sequence[FloatArray]) -> None:
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
