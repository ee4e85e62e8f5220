"""A language model in this process as a policy: tokens in, tokens out, nothing it sampled is ever re-tokenized."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from milepost.agents.core import Answer, ContextFull, Request
from milepost.agents.local.engine import Engine
from milepost.agents.local.merge import merged
from milepost.agents.local.sampling import Sampling, choose_each, entropies
from milepost.agents.local.template import Template
from milepost.envs.core import Action, Episode, Finish, IntArray, Tokens, Usage


@dataclass
class _Row:
    """What one agent of one episode has been shown and has written, as tokens and as the text they stand for."""

    ids: list[int] = field(default_factory=list)
    text: str = ""
    marks: list[tuple[int, int]] = field(default_factory=lambda: [(0, 0)])
    """(length of text, number of ids) where a part ended: places at which another row may branch off."""
    ended: bool = True
    """Whether the last action's end-of-turn token was sampled, and so is already in ``ids``."""

    def mark(self) -> None:
        self.marks.append((len(self.text), len(self.ids)))


_Plan = tuple[int, list[int], str]


@dataclass
class _Draft:
    """An action while it is sampled."""

    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    entropies: list[float] = field(default_factory=list)
    text: str = ""
    finish: Finish = "length"
    ended: bool = False


class LocalPolicy:
    """Answer requests with a transformers causal language model; see ``Policy``.

    A row grows by what is new in the rendered chat. Where the template drops or rewrites what was shown before
    (stripped thinking, a window of turns), the row forks at the last place that still agrees; ``metrics["forks"]``
    counts these. The randomness of an action is a function of ``request.seed`` alone.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        temperature: float = 1.0,
        max_new_tokens: int = 16,
        stop: Sequence[str] = ("\n",),
        max_context: int | None = None,
        top_p: float = 1.0,
        entropies: bool = False,
    ) -> None:
        """Wrap a model as ``models.load`` returns it.

        Args:
            model: A causal language model, with a peft adapter or without.
            tokenizer: Its tokenizer, with a chat template.
            temperature: What logits are divided by; 0 takes the likeliest token, log-probabilities are then at 1.
            max_new_tokens: Most tokens of one action.
            stop: Texts that end an action; they and what follows are not part of its text.
            max_context: Most tokens of a row, never more than the model's own limit; None for that.
            top_p: Must be 1.
            entropies: Whether to record ``Tokens.entropies``: of what each token was drawn from, in nats.

        Raises:
            ValueError: No chat template, a setting out of range, or a cut support, under which recorded
                log-probabilities would be biased by the mass that was cut off.
        """
        if top_p != 1.0:
            raise ValueError(f"top_p: expected 1 (a cut support biases the log-probabilities), got {top_p}")
        if temperature < 0 or max_new_tokens < 1:
            raise ValueError(
                f"expected temperature >= 0 and max_new_tokens >= 1, got {temperature} and {max_new_tokens}"
            )
        self.model = model
        self.tokenizer = tokenizer
        self._template = Template(tokenizer)
        self.temperature = temperature
        self.max_new_tokens = max_new_tokens
        self.stop = tuple(stop)
        self.entropies = entropies
        limit: int = model.config.max_position_embeddings
        self.max_context = min(max_context or limit, limit)
        self.version = 0
        self.metrics: Counter[str] = Counter()
        """``forks``, and tokens ``fed``, ``cached`` and ``sampled``, so far."""
        self._rows: dict[tuple[str, str], _Row] = {}
        self._engine = Engine(merged(model))
        self.keep_states = True
        """Whether ``forget`` keeps what ``listen`` asks for; switch it off for episodes that are not trained on."""
        self._layer: int | None = None
        self._below: dict[tuple[str, str], tuple[list[int], Tensor]] = {}
        """The tokens of a row and what entered ``_layer`` for them."""

    def listen(self, layer: int) -> None:
        """Keep what enters this layer while episodes are played: where all below is frozen, training starts there.

        Source: features of frozen layers are the same in every pass; see ``states_below``.
        """
        self._layer, self._below = layer, {}
        self._engine.listen(layer)

    def states_below(self, layer: int, episode: str, agent: str, ids: IntArray) -> Tensor | None:
        """[L - 1, D] or longer, what entered ``layer`` for the row ``ids [L]`` of an episode that ended since ``sync``.

        None where it was not kept: another layer was listened to, or the row was left for another one (a fork).
        """
        row, states = self._below.get((episode, agent), ([], None))
        n = len(ids) - 1
        known = layer == self._layer and states is not None and len(states) >= n and row[:n] == ids[:n].tolist()
        return states if known else None

    def sync(self) -> None:
        """Take over the model's new weights; cached keys and values of the old ones are dropped."""
        self._below = {}
        self._engine.clear()
        self._engine.model = merged(self.model, self._engine.model)

    def forget(self, episode_ids: Sequence[str]) -> None:
        """Free what is kept for episodes that are over."""
        gone = set(episode_ids)
        keys = [key for key in self._rows if key[0] in gone]
        for key in keys:
            row = self._rows.pop(key)
            if self.keep_states and (states := self._engine.states(key)) is not None:
                self._below[key] = row.ids, states
        self._engine.forget(keys)

    def act(self, requests: Sequence[Request], sampling: Sequence[Sampling] | None = None) -> list[Answer]:
        """Return an action per request, or ContextFull where the context has no room for another.

        ``sampling`` says for each request how to sample; None stands for the policy's own settings for all.
        """
        began = time.perf_counter()
        answers: list[Answer] = []
        plans: dict[int, _Plan] = {}
        for i, request in enumerate(requests):
            plan = self._plan(request)
            if isinstance(plan, ContextFull):
                answers.append(plan)
            else:
                answers.append(Action(""))
                plans[i] = plan
        live = list(plans)
        if not live:
            return answers
        keys = [(requests[i].episode, requests[i].agent) for i in live]
        cached = []
        for i, key in zip(live, keys, strict=True):
            keep, context, text = plans[i]
            row = self._rows.setdefault(key, _Row())
            self.metrics["forks"] += keep < len(row.ids)
            self._engine.truncate(key, keep)
            cached.append(keep)
            row.ids[keep:] = context
            row.text = text
            row.marks = [m for m in row.marks if m[1] <= keep]
            row.mark()
        settings = None if sampling is None else [sampling[i] for i in live]
        drafts = self._sample(keys, [requests[i].seed for i in live], settings)
        seconds = (time.perf_counter() - began) / len(live)
        for i, key, draft, keep in zip(live, keys, drafts, cached, strict=True):
            answers[i] = self._action(draft, keep, plans[i][1], seconds)
            row = self._rows[key]
            row.text += self._template.plain(draft.text)
            row.ended = draft.ended
            row.mark()
        return answers

    def encode(self, episode: Episode) -> None:
        """Fill ``tokens`` of every turn from its text, as if each had been sampled and ended: to clone behaviour.

        Log-probabilities are nan, the end-of-turn token is one of the ids.
        """
        rows: dict[str, _Row] = {}
        for t, turn in enumerate(episode.turns):
            row = rows.setdefault(turn.agent, _Row())
            keep, context, text = self._difference(row, self._template.render(episode.view(t), episode.tools))
            action = self._template.plain(turn.action.text)
            ids = [*self._template.ids(action), self._template.end]
            row.ids[keep:] = [*context]
            row.text = text
            row.marks = [m for m in row.marks if m[1] <= keep]
            row.mark()
            row.ids += ids
            row.text += action
            row.ended = True
            row.mark()
            turn.action.tokens = _tokens(keep, context, ids, [float("nan")] * len(ids), self.version)

    def _plan(self, request: Request) -> _Plan | ContextFull:
        """Return how much of the row stays, what is new, and the whole text; ContextFull where there is no room."""
        key = (request.episode, request.agent)
        row = self._rows.get(key, _Row())
        keep, context, text = self._difference(row, self._template.render(request.messages, request.tools))
        n = keep + len(context)
        if n + self.max_new_tokens <= self.max_context:
            return keep, context, text
        prompt = "its prompt" if key in self._rows else "its first prompt"
        return ContextFull(
            f"episode {request.episode}: {prompt} has {n} tokens; with {self.max_new_tokens} for an action "
            f"the context holds {self.max_context}"
        )

    def _difference(self, row: _Row, text: str) -> tuple[int, list[int], str]:
        n_text, n_ids = next(m for m in reversed(row.marks) if text.startswith(row.text[: m[0]]))
        rest = text[n_text:]
        if row.ids and n_ids == len(row.ids) and row.ended:
            rest = rest.removeprefix(self._template.end_text)
        return n_ids, self._template.ids(rest), text

    def _sample(
        self, keys: Sequence[Hashable], seeds: Sequence[int], settings: Sequence[Sampling] | None = None
    ) -> list[_Draft]:
        """Sample an action behind each row; a row that has ended leaves the batch at once."""
        own = Sampling(self.temperature, self.max_new_tokens, self.stop)
        settings = settings or [own] * len(keys)
        drafts = [_Draft() for _ in keys]
        uniforms = [
            np.random.default_rng(seed).random(s.max_new_tokens) for seed, s in zip(seeds, settings, strict=True)
        ]
        going = list(range(len(keys)))
        rows = [self._rows[key].ids for key in keys]  # type: ignore[index]
        before = self._engine.n_computed
        for step in range(max(s.max_new_tokens for s in settings)):
            logits = self._engine.feed([keys[i] for i in going], [rows[i] for i in going])
            temperatures = [settings[i].temperature for i in going]
            ids, logprobs = choose_each(logits, [float(uniforms[i][step]) for i in going], temperatures)
            if self.entropies:
                for i, spread in zip(going, entropies(logits, self.temperature), strict=True):
                    drafts[i].entropies.append(spread)
            for i, token, logprob in zip(going, ids, logprobs, strict=True):
                rows[i].append(token)
                self._take(drafts[i], token, logprob, settings[i].stop)
            going = [i for i in going if drafts[i].finish == "length" and step + 1 < settings[i].max_new_tokens]
            going = [i for i in going if settings[i].wanted()]
            if not going:
                break
        n_sampled = sum(len(d.ids) for d in drafts)
        self.metrics["sampled"] += n_sampled
        self.metrics["fed"] += self._engine.n_computed - before
        return drafts

    def _take(self, draft: _Draft, token: int, logprob: float, stops: Sequence[str]) -> None:
        draft.ids.append(token)
        draft.logprobs.append(logprob)
        if token == self._template.end:
            draft.finish, draft.ended = "stop", True
            return
        text: str = self.tokenizer.decode(draft.ids, skip_special_tokens=True)
        cuts = [at for stop in stops if (at := text.find(stop)) >= 0]
        if cuts:
            draft.finish = "stop"
            text = text[: min(cuts)]
        draft.text = text

    def _action(self, draft: _Draft, keep: int, context: list[int], seconds: float) -> Action:
        self.metrics["cached"] += keep
        return Action(
            text=draft.text,
            finish=draft.finish,
            tokens=_tokens(keep, context, draft.ids, draft.logprobs, self.version, draft.entropies or None),
            usage=Usage(keep + len(context), keep, len(draft.ids), seconds),
        )


def _tokens(
    keep: int,
    context: list[int],
    ids: list[int],
    logprobs: list[float],
    version: int,
    entropies: list[float] | None = None,
) -> Tokens:
    return Tokens(
        keep=keep,
        context=np.array(context, np.int32),
        ids=np.array(ids, np.int32),
        logprobs=np.array(logprobs, np.float32),
        entropies=None if entropies is None else np.array(entropies, np.float32),
        version=version,
    )
