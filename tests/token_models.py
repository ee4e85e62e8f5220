"""Two small honest models with the interface of ``credit.core.TokenModel``, for the tests of methods that train one."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from milepost.envs.core import Action, Episode, Stop, Tokens, Turn

V, D = 16, 8


class Heads:
    """What every trainable double does with heads, steps and states; one rank, Adam."""

    def __init__(self, body: Any, lr: float) -> None:
        self.body, self.heads, self.steps = body, [], 0
        self._optimizer = torch.optim.Adam(body.parameters(), lr=lr)
        self._lr = lr

    def adopt(self, head: Any) -> Any:
        self.heads.append(head)
        self._optimizer.add_param_group({"params": list(head.parameters()), "lr": self._lr})
        return head

    def total(self, number: float) -> float:
        return float(number)

    def parameters(self) -> list[Any]:
        return [p for group in self._optimizer.param_groups for p in group["params"]]

    def step(self, loss: Any) -> dict[str, float]:
        self.steps += 1
        self._optimizer.zero_grad()
        if getattr(loss, "requires_grad", False):
            loss.backward()
        norm = torch.sqrt(
            sum((p.grad.square().sum() for p in self.parameters() if p.grad is not None), torch.tensor(0.0))
        )
        self._optimizer.step()
        self._optimizer.zero_grad()
        return {"grad_norm": float(norm)}

    def state_dict(self) -> dict[str, Any]:
        modules = [self.body.state_dict(), *(h.state_dict() for h in self.heads), self._optimizer.state_dict()]
        return {"modules": copy.deepcopy(modules)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for module, own in zip([self.body, *self.heads, self._optimizer], state["modules"], strict=True):
            module.load_state_dict(copy.deepcopy(own))


class Features(Heads):
    """States are made features of each turn, ``features(episode) -> [T, D]``, through one linear layer."""

    def __init__(self, features: Callable[[Episode], Any], size: int, lr: float = 0.05, trained: bool = False) -> None:
        body = torch.nn.Linear(size, size)
        torch.nn.init.eye_(body.weight)
        torch.nn.init.zeros_(body.bias)
        body.requires_grad_(trained)
        super().__init__(body, lr)
        self.size, self.vocab, self._features = size, size, features

    def turn_states(self, episodes: Sequence[Episode], *, logits: bool = False, before: bool = False) -> list[Any]:
        made = [torch.as_tensor(np.asarray(self._features(e), np.float32)).reshape(-1, self.size) for e in episodes]
        return [self.body(x) for x in made]

    def token_states(self, episodes: Sequence[Episode], *, logits: bool = False, before: bool = False) -> Any:
        raise NotImplementedError

    def token_logprobs(self, episodes: Sequence[Episode]) -> Any:
        raise NotImplementedError


class Bigram(Heads):
    """A language model that looks one token back: embedding, linear layer. It reads what stands before a token."""

    size, vocab = D, V

    def __init__(self, lr: float = 0.05, seed: int = 0) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            body = torch.nn.ModuleDict({"embed": torch.nn.Embedding(V, D), "out": torch.nn.Linear(D, V)})
        super().__init__(body, lr)

    def token_logprobs(self, episodes: Sequence[Episode]) -> list[list[Any]]:
        states = self.token_states(episodes, before=True)
        return [
            [
                self.body["out"](x).log_softmax(-1).gather(1, torch.as_tensor(ids(turn)).long()[:, None])[:, 0]
                for x, turn in zip(row, episode.turns, strict=True)
            ]
            for row, episode in zip(states, episodes, strict=True)
        ]

    def token_states(self, episodes: Sequence[Episode], *, logits: bool = False, before: bool = False) -> Any:
        result = []
        for episode in episodes:
            last, row = 0, []
            for turn in episode.turns:
                assert turn.action.tokens is not None
                begin = int(turn.action.tokens.context[-1]) if len(turn.action.tokens.context) else last
                whole = [begin, *ids(turn)]
                last = whole[-1]
                seen = self.body["embed"](torch.tensor(whole[:-1] if before else whole[1:], dtype=torch.long))
                row.append(self.body["out"](seen) if logits else seen)
            result.append(row)
        return result

    def turn_states(self, episodes: Sequence[Episode], *, logits: bool = False, before: bool = False) -> list[Any]:
        rows = self.token_states(episodes, logits=logits, before=before)
        width = V if logits else D
        return [torch.stack([x[0 if before else -1] for x in row]) if row else torch.zeros(0, width) for row in rows]


def ids(turn: Turn) -> list[int]:
    assert turn.action.tokens is not None
    return turn.action.tokens.ids.tolist()


def spoken(
    outcome: float | None, *turns: Sequence[int], model: Bigram | None = None, context: int = 1, **fields: Any
) -> Episode:
    """An episode of turns that sampled these ids, with the log-probabilities of ``model`` (uniform without one)."""
    made: list[Turn] = []
    n = 0
    for sampled in turns:
        tokens = Tokens(
            n, np.array([context], np.int32), np.array(sampled, np.int32), np.full(len(sampled), -np.log(V), "f")
        )
        made.append(Turn("seen", Action("did", tokens=tokens)))
        n += 1 + len(sampled)
    if made and outcome is not None:
        made[-1].info["outcome"] = outcome
    episode = Episode(**{"id": "e", "env_id": "my/Env-v0", "group": "g", "stop": Stop.TERMINATED, **fields}, turns=made)
    if model is not None:
        with torch.no_grad():
            for turn, row in zip(made, model.token_logprobs([episode])[0], strict=True):
                assert turn.action.tokens is not None
                turn.action.tokens.logprobs = row.numpy().astype(np.float32)
    return episode
