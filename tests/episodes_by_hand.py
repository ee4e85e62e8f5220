"""Small episodes written down turn by turn, for the tests of credit."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from milepost.envs.core import Action, Episode, Stop, Tokens, Turn, Value


def episode(
    outcome: float | None = None,
    *,
    n_turns: int = 1,
    credit: dict[str, Sequence[Value]] | None = None,
    potential: Sequence[float] | None = None,
    valid: Sequence[bool] | None = None,
    n_tokens: Sequence[int] | None = None,
    stop: Stop = Stop.TERMINATED,
    id: str = "e",
    group: str = "g",
    **components: Sequence[float],
) -> Episode:
    """Return an episode; a list has an entry a turn (``potential`` one more, the first is reset's).

    Keyword lists that are not named here are parts of ``reward_components``.
    """
    lists = [*components.values(), *(credit or {}).values(), *(x for x in (valid, n_tokens) if x)]
    n = len(potential) - 1 if potential else len(lists[0]) if lists else n_turns
    turns = [Turn("seen", Action("did")) for _ in range(n)]
    for t, turn in enumerate(turns):
        if components:
            turn.info["reward_components"] = {name: row[t] for name, row in components.items()}
        if potential:
            turn.info["potential"] = potential[t + 1]
        if valid:
            turn.info["valid"] = valid[t]
        if n_tokens:
            empty = np.zeros(0, np.int32)
            turn.action.tokens = Tokens(0, empty, np.zeros(n_tokens[t], np.int32), np.zeros(n_tokens[t], np.float32))
        for label, row in (credit or {}).items():
            turn.put(label, row[t])
    if outcome is not None:
        turns[-1].info["outcome"] = outcome
    info = {"potential": potential[0]} if potential else {}
    return Episode(id=id, env_id="my/Env-v0", group=group, turns=turns, stop=stop, info=info)
