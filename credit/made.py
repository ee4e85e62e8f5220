"""Episodes made up turn by turn, to prove and audit methods without playing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from milepost.envs.core import Action, Episode, Stop, Tokens, Turn, Value


def episode(
    outcome: float | None = None,
    *,
    n_turns: int = 1,
    credit: Mapping[str, Sequence[Value]] | None = None,
    info: Mapping[str, Sequence[Any]] | None = None,
    at_reset: Mapping[str, Any] | None = None,
    n_tokens: Sequence[int] | None = None,
    logprobs: Sequence[Sequence[float]] | None = None,
    entropies: Sequence[Sequence[float]] | None = None,
    texts: Sequence[str] | None = None,
    stop: Stop = Stop.TERMINATED,
    id: str = "e",
    group: str = "g",
    env_id: str = "my/Env-v0",
    potential: Sequence[float] | None = None,
    state_key: Sequence[str] | None = None,
    valid: Sequence[bool] | None = None,
    caption: Sequence[str] | None = None,
    **components: Sequence[float],
) -> Episode:
    """Return an episode; a list has an entry a turn, ``potential``, ``state_key`` and ``caption`` one more, reset's
    first (where the last state has no key, leave it out).

    Keyword lists that are not named here are parts of ``reward_components``; ``info`` has further keys of steps. Tokens
    are made where one of ``n_tokens``, ``logprobs`` and ``entropies`` is given.
    """
    states = {"potential": potential, "state_key": state_key, "caption": caption}
    counts = [len(row) for row in (*components.values(), *(credit or {}).values(), *(info or {}).values())]
    counts += [len(row) for row in (valid, n_tokens, logprobs, entropies, texts) if row is not None]
    counts += [len(potential) - 1] if potential is not None else []
    counts += [len(row) for row in (state_key, caption) if row is not None and not counts]
    turns = [Turn("seen", Action(texts[t] if texts else "did")) for t in range(counts[0] if counts else n_turns)]
    for t, turn in enumerate(turns):
        if components:
            turn.info["reward_components"] = {name: row[t] for name, row in components.items()}
        turn.info |= {key: row[t] for key, row in (info or {}).items()}
        turn.info |= {key: row[t + 1] for key, row in states.items() if row is not None and t + 1 < len(row)}
        if valid is not None:
            turn.info["valid"] = valid[t]
        if n_tokens is not None or logprobs is not None or entropies is not None:
            turn.action.tokens = _tokens(t, n_tokens, logprobs, entropies)
        for label, values in (credit or {}).items():
            turn.put(label, values[t])
    if outcome is not None:
        turns[-1].info["outcome"] = outcome
    begin = {key: row[0] for key, row in states.items() if row is not None} | dict(at_reset or {})
    return Episode(id=id, env_id=env_id, group=group, turns=turns, stop=stop, info=begin)


def _tokens(
    t: int,
    n_tokens: Sequence[int] | None,
    logprobs: Sequence[Sequence[float]] | None,
    entropies: Sequence[Sequence[float]] | None,
) -> Tokens:
    rows = [row[t] for row in (logprobs, entropies) if row is not None]
    n = n_tokens[t] if n_tokens is not None else len(rows[0])
    sampled = np.zeros(n, np.float32) if logprobs is None else np.asarray(logprobs[t], np.float32)
    spread = None if entropies is None else np.asarray(entropies[t], np.float32)
    return Tokens(0, np.zeros(0, np.int32), np.zeros(n, np.int32), sampled, spread)
