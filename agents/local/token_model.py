"""A second model beside the policy, for credit methods that train one of their own (``credit.core.TokenModel``)."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from milepost.agents import distributed
from milepost.agents.local.merge import merged
from milepost.agents.local.models import with_lora
from milepost.agents.lora import compute_narrow
from milepost.agents.packing import micro_batches, token_logprobs, token_states
from milepost.agents.samples import BoolArray, Sample, to_samples
from milepost.envs.core import ContractError, Episode

Which = Literal["all", "first", "last"]
Forward = Callable[[list[Sample], list[BoolArray]], Tensor]
"""Rows of a micro-batch and the wanted tokens of each -> a tensor whose first axis is these tokens."""


class Played(Protocol):
    """The part of a policy that a second model begins from."""

    temperature: float

    @property
    def model(self) -> Any:
        """A transformers causal language model, with a peft adapter or without."""
        ...


class AdapterModel:
    """A causal language model that is read and trained over episodes with AdamW, apart from the policy.

    Rows are those that the policy is trained on (``to_samples``). With gradient, a micro-batch keeps what was asked
    of it and computes the rest again in the backward pass, so that memory is that of one micro-batch. Dropout is off.
    With several ranks each calls the same methods with its own episodes; weights stay equal.

    Args:
        model: It belongs to this object from now on; what of it requires a gradient is trained.
        lr: Learning rate, of heads too unless ``head_lr`` is given.
        head_lr: Learning rate of adopted heads.
        betas: AdamW's.
        weight_decay: AdamW's.
        clip_norm: Largest norm of a step's gradient.
        temperature: What log-probabilities are taken at: the sampler's, so that log-ratios begin at 0.
        max_tokens: Most tokens, with padding, in one forward; a longer row has one of its own.

    Raises:
        ValueError: Nothing of the model requires a gradient, or weights in bf16 do.
    """

    def __init__(
        self,
        model: Any,
        *,
        lr: float,
        head_lr: float | None = None,
        betas: tuple[float, float] = (0.9, 0.999),
        weight_decay: float = 0.0,
        clip_norm: float = 1.0,
        temperature: float = 1.0,
        max_tokens: int = 1536,
    ) -> None:
        self.model = model.eval()
        self.size: int = model.config.hidden_size
        self.vocab: int = model.config.vocab_size
        self.temperature = temperature
        self.clip_norm = clip_norm
        self.max_tokens = max_tokens
        self.heads: list[Any] = []
        self._head_lr = lr if head_lr is None else head_lr
        compute_narrow(model)
        self._weights = {name: p for name, p in model.named_parameters() if p.requires_grad}
        if not self._weights:
            raise ValueError("token model: nothing to train: no parameter of the model requires a gradient")
        if coarse := [name for name, p in self._weights.items() if p.dtype != torch.float32]:
            raise ValueError(
                f"token model: expected float32 to train, got {self._weights[coarse[0]].dtype}: {coarse[0]}"
            )
        distributed.copy_from_first(p.data for p in self._weights.values())
        self._optimizer = torch.optim.AdamW(self._weights.values(), lr=lr, betas=betas, weight_decay=weight_decay)

    @classmethod
    def beside(
        cls, policy: Played, *, lora: int | None = None, layers: int | None = None, seed: int = 0, **settings: Any
    ) -> AdapterModel:
        """Return a model that begins as the policy is now and never touches it.

        A policy with an adapter shares the weights below it, which take no memory again; the adapter is a copy of the
        policy's, or a new one that changes nothing yet where ``lora`` gives its rank. All weights of a policy without
        an adapter are copied, and trained unless ``lora`` is given.

        Args:
            policy: A loaded policy (``LocalPolicy``).
            lora: Rank of a new adapter; 0: as None.
            layers: Only the top so many layers get the new adapter.
            seed: Where a new adapter's first weights come from.
            settings: See the class; ``temperature`` is the policy's unless given.
        """
        theirs = policy.model
        if not hasattr(theirs, "peft_config"):
            model = copy.deepcopy(theirs)
            model = with_lora(model, lora, layers, seed) if lora else model.requires_grad_(True)
        elif lora:
            model = with_lora(merged(theirs, adapters=False), lora, layers, seed)
        else:
            model = _adapter_copied(theirs)
        return cls(model, **{"temperature": policy.temperature or 1.0, **settings})

    def token_logprobs(self, episodes: Sequence[Episode]) -> list[list[Any]]:
        """Return ``[E][T][A]`` log-probabilities in nats of the sampled tokens."""

        def forward(rows: list[Sample], wanted: list[BoolArray]) -> Tensor:
            return token_logprobs(self.model, [row.ids for row in rows], wanted, self.temperature)

        return self._turns(episodes, "all", forward)

    def token_states(
        self, episodes: Sequence[Episode], *, logits: bool = False, before: bool = False
    ) -> list[list[Any]]:
        """Return ``[E][T][A, D]`` the state at each sampled token, or before it (``[A, V]`` the logits instead)."""
        return self._turns(episodes, "all", self._states(logits, before))

    def turn_states(self, episodes: Sequence[Episode], *, logits: bool = False, before: bool = False) -> list[Any]:
        """Return ``[E][T, D]`` the state at each turn's last token, or before its first (``[T, V]`` logits instead)."""
        forward = self._states(logits, before)
        turns = self._turns(episodes, "first" if before else "last", forward)
        for episode, row in zip(episodes, turns, strict=True):
            if (t := next((t for t, states in enumerate(row) if not len(states)), None)) is not None:
                raise ContractError(f"episode {episode.id}, turn {t} has no sampled token, so it has no state")
        width = self.vocab if logits else self.size
        return [torch.cat(row) if row else torch.zeros(0, width, device=self._device) for row in turns]

    def adopt(self, head: Any) -> Any:
        """Move a ``torch.nn.Module`` to the model's device and train and save it with the model; return it."""
        head.to(self._device)
        parameters = [p for p in head.parameters() if p.requires_grad]
        distributed.copy_from_first(p.data for p in parameters)
        self._optimizer.add_param_group({"params": parameters, "lr": self._head_lr})
        self.heads.append(head)
        return head

    def total(self, number: float) -> float:
        """Return the sum of a number over all ranks."""
        return distributed.sum_numbers({"total": float(number)})["total"]

    def step(self, loss: Any) -> dict[str, float]:
        """Take a train step on ``loss``, this rank's share of a sum over all ranks; return ``grad_norm``.

        A loss without gradient is a rank that has nothing to add. The gradient is gone afterwards.

        Raises:
            ArithmeticError: The gradient is not finite; no weight was changed.
        """
        parameters = [p for group in self._optimizer.param_groups for p in group["params"]]
        for p in parameters:
            p.grad = torch.zeros_like(p)
        if getattr(loss, "requires_grad", False):
            loss.backward()
        distributed.sum_tensors([p.grad for p in parameters if p.grad is not None])
        norm = float(torch.nn.utils.clip_grad_norm_(parameters, self.clip_norm))
        if np.isfinite(norm):
            self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        if not np.isfinite(norm):
            raise ArithmeticError(f"token model: the gradient's norm is {norm}; no weight was changed")
        return {"grad_norm": norm}

    def state_dict(self) -> dict[str, Any]:
        """Return a copy of trained weights, heads and optimizer: tensors and numbers that no later step changes."""
        state = {
            "weights": {name: p.detach() for name, p in self._weights.items()},
            "heads": [dict(head.state_dict()) for head in self.heads],
            "optimizer": self._optimizer.state_dict(),
        }
        return copy.deepcopy(state)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what ``state_dict`` returned.

        Raises:
            ValueError: It is of another model or has other heads; nothing was changed.
        """
        heads = [dict(head.state_dict()) for head in self.heads]
        for what, theirs, ours in (("weights", [state["weights"]], [self._weights]), ("heads", state["heads"], heads)):
            saved, here = ([{n: tuple(t.shape) for n, t in part.items()} for part in parts] for parts in (theirs, ours))
            if saved != here:
                raise ValueError(f"token model: the saved {what} are of another model: {_differs(saved, here)}")
        with torch.no_grad():
            for name, p in self._weights.items():
                p.copy_(state["weights"][name])
        for head, own in zip(self.heads, state["heads"], strict=True):
            head.load_state_dict(own)
        self._optimizer.load_state_dict(state["optimizer"])

    @property
    def _device(self) -> torch.device:
        device: torch.device = next(iter(self._weights.values())).device
        return device

    def _states(self, logits: bool, before: bool) -> Forward:
        def forward(rows: list[Sample], wanted: list[BoolArray]) -> Tensor:
            return token_states(self.model, [row.ids for row in rows], wanted, logits=logits, before=before)

        return forward

    def _turns(self, episodes: Sequence[Episode], which: Which, forward: Forward) -> list[list[Tensor]]:
        """[E][T] for each turn what ``forward`` says of the wanted tokens, along the first axis."""
        samples = [(e, sample) for e, episode in enumerate(episodes) for sample in to_samples(episode)]
        known = {e for e, _ in samples}
        for e, episode in enumerate(episodes):
            if episode.turns and e not in known:
                raise ContractError(f"episode {episode.id} {episode.stop}: it has no rows; groups_of leaves it out")
        wanted = [_wanted(sample, which) for _, sample in samples]
        found: dict[tuple[int, int], Tensor] = {}
        for batch in micro_batches([s.ids for _, s in samples], wanted, self.max_tokens):
            rows, at = [samples[i][1] for i in batch], [wanted[i] for i in batch]
            if torch.is_grad_enabled():
                flat: Tensor = checkpoint(forward, rows, at, use_reentrant=False)
            else:
                flat = forward(rows, at)
            n_tokens = Counter((samples[i][0], int(t)) for i in batch for t in samples[i][1].turn[wanted[i]])
            found |= zip(n_tokens, torch.split(flat, list(n_tokens.values())), strict=True)
        nothing = next(iter(found.values()))[:0] if found else torch.zeros(0, device=self._device)
        return [[found.get((e, t), nothing) for t in range(len(ep.turns))] for e, ep in enumerate(episodes)]


def _wanted(sample: Sample, which: Which) -> BoolArray:
    """[L] the sampled tokens, or only the first or last of each turn."""
    if which == "all":
        return sample.sampled
    at = np.flatnonzero(sample.sampled)
    edges = np.flatnonzero(np.diff(sample.turn[at]))
    wanted = np.zeros(len(sample), np.bool_)
    wanted[at[np.append(0, edges + 1) if which == "first" else np.append(edges, len(at) - 1)]] = len(at) > 0
    return wanted


def _adapter_copied(theirs: Any) -> Any:
    """Return a peft model on the same weights with an adapter of its own that begins as the active one."""
    from peft import get_peft_model  # three seconds to import, wanted only for training

    name = theirs.active_adapter
    config = copy.deepcopy(theirs.peft_config[name])
    with torch.random.fork_rng(devices=[]):
        model: Any = get_peft_model(merged(theirs, adapters=False), config, adapter_name=name)
    values = dict(theirs.named_parameters())
    with torch.no_grad():
        for key, p in model.named_parameters():
            if p.requires_grad:
                p.data = values[key].detach().float().clone()
                p.requires_grad_(values[key].requires_grad)  # as a trainer may have frozen the lower layers
    return model


def _differs(saved: Sequence[dict[str, Any]], here: Sequence[dict[str, Any]]) -> str:
    if len(saved) != len(here):
        return f"expected {len(here)} heads, got {len(saved)}"
    for theirs, ours in zip(saved, here, strict=True):
        for name in [*ours, *theirs]:
            if theirs.get(name) != ours.get(name):
                return f"{name}: expected {ours.get(name, 'nothing')}, got {theirs.get(name, 'nothing')}"
    return ""
