"""A local model reads given answers: how likely their tokens are behind a chat."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import torch

from milepost.agents.local.policy import LocalPolicy
from milepost.agents.local.template import Template
from milepost.agents.lora import without_adapter
from milepost.agents.packing import token_logprobs
from milepost.envs.core import FloatArray, Message

Row = tuple[tuple[int, ...], int]
"""Tokens up to the target's last one, and where the target's first one stands."""


class LocalScorer:
    """A ``credit.core.Scorer``: the model of a policy, at temperature 1, teacher-forced and without gradient.

    The chat is rendered and tokenized up to where an action begins, the answer read behind it as one text, as if it
    had been sampled. Which of its tokens are the target's is read off the tokenizer's offsets: all that hold at least
    one of its characters, also where they hold a part of the prefix or suffix. The model is put into eval mode and
    every module of it back into its own.

    Args:
        policy: Whose model, with the weights that it has when ``logprobs`` is called.
        reference: Switch the adapters off: the frozen model from before training, a teacher that costs no memory.
        max_tokens: Most tokens of one forward, with padding; a longer row goes alone. Tokens that all its rows begin
            with are computed once.

    Example: ``IGPO(scorer=LocalScorer(policy))``, ``TRACE(scorer=LocalScorer(policy, reference=True))``.
    """

    def __init__(self, policy: LocalPolicy, *, reference: bool = False, max_tokens: int = 8192) -> None:
        """Wrap a policy.

        Raises:
            ValueError: A reference is asked for and the model has no adapters.
        """
        if reference and not hasattr(policy.model, "disable_adapter"):
            raise ValueError("reference=True: the model has no adapters to switch off; wrap the reference's own policy")
        self.policy = policy
        self.reference = reference
        self.max_tokens = max_tokens
        self._template = Template(policy.tokenizer)

    def logprobs(
        self,
        views: Sequence[Sequence[Message]],
        targets: Sequence[str],
        *,
        prefix: str = "",
        suffix: str = "",
        tools: Sequence[dict[str, Any]] = (),
    ) -> list[FloatArray]:
        """Return ``[N][L]`` log-probabilities in nats of each target's tokens; see ``credit.core.Scorer``.

        Raises:
            ValueError: There is not one target a view.
        """
        if len(views) != len(targets):
            raise ValueError(f"scorer: expected one target a view, got {len(views)} views and {len(targets)} targets")
        views = list(views)  # what is cached by identity below must stay alive
        answers = {target: self._answer(prefix, target, suffix) for target in dict.fromkeys(targets)}
        rows: list[Row] = []
        prompts: dict[int, tuple[int, ...]] = {}  # methods score several targets behind one and the same list
        for view, target in zip(views, targets, strict=True):
            if (prompt := prompts.get(id(view))) is None:
                prompt = prompts[id(view)] = tuple(self._template.ids(self._template.render(view, tools)))
            ids, first = answers[target]
            rows.append(((*prompt, *ids), len(prompt) + first))
        found: dict[Row, FloatArray] = {}
        fitting = [row for row in dict.fromkeys(rows) if row[1] < len(row[0]) <= self.policy.max_context]
        model = self.policy.model
        with torch.no_grad(), _evaluated(model), without_adapter(model) if self.reference else nullcontext():
            for batch in _batches(fitting, self.max_tokens):
                found.update(zip(batch, _scored(model, batch), strict=True))
        missing = float("nan")
        return [
            found[row].copy() if row in found else np.full(len(row[0]) - row[1], missing, np.float32) for row in rows
        ]

    def _answer(self, prefix: str, target: str, suffix: str) -> Row:
        """Return the answer's tokens to the target's last one, and the place of its first; what follows is not read."""
        before, text, after = map(self._template.plain, (prefix, target, suffix))
        start, end = len(before), len(before) + len(text)
        ids, spans = self._template.spans(before + text + after)
        inside = [i for i, (a, b) in enumerate(spans) if a < end and b > start and text]
        return (tuple(ids[: inside[-1] + 1]), inside[0]) if inside else ((), 0)


def _batches(rows: Sequence[Row], max_tokens: int) -> Iterator[list[Row]]:
    """Cut the rows, the longest first, into batches that are at most ``max_tokens`` wide times high."""
    batch: list[Row] = []
    for row in sorted(rows, key=lambda row: -len(row[0])):
        if batch and (len(batch) + 1) * len(batch[0][0]) > max_tokens:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def _scored(model: Any, rows: Sequence[Row]) -> list[FloatArray]:
    wanted = [np.arange(len(ids)) >= first for ids, first in rows]
    logprobs = token_logprobs(model, [np.array(ids, np.int32) for ids, _ in rows], wanted)
    ends = np.cumsum([len(ids) - first for ids, first in rows])
    return np.split(logprobs.float().cpu().numpy(), ends[:-1])


@contextmanager
def _evaluated(model: Any) -> Iterator[None]:
    training = [module for module in model.modules() if module.training]
    if training:
        model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
