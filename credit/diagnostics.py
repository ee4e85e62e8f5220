"""What to watch in every update. The signature of a misaligned reward: credit up, outcome down."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from milepost.credit.core import Credit
from milepost.credit.gra import GRA
from milepost.credit.normalise import FLAT, Floats
from milepost.envs.core import Episode


def metrics(groups: Sequence[Sequence[Episode]], credits: Iterable[str | Credit] = ()) -> dict[str, float]:
    """Return one flat dict about a batch, after its credit and advantages were written; what is unknown has no key.

    ``credits`` are labels or the methods themselves (which gives a gate's open rate). Rates are shares of 0..1; every
    mean over episodes counts each episode once.

    - ``group/count``, ``group/constant_outcome`` (all attempts did equally well: nothing to learn from the outcome)
    - ``outcome/mean``, ``episode/turns``, ``episode/tokens_per_turn``, ``turn/invalid``
    - ``advantage/zero`` (share of turns), ``advantage/process_share`` (share of the advantages' variance within groups
      that no multiple of the outcome explains; discounting alone adds a little)
    - ``credit/<label>/total`` (mean of an episode's sum), ``credit/<label>/outcome_correlation`` (of sum and outcome
      within groups), ``credit/<label>/gate_open``
    - ``skipped/<reason>``: what ``groups_of`` left out
    """
    found = {f"skipped/{reason}": float(n) for reason, n in getattr(groups, "skipped", {}).items()}
    episodes = [episode for group in groups for episode in group]
    found["group/count"] = float(len(groups))
    if not episodes:
        return found
    outcomes = [np.array([_number(e.outcome) for e in group]) for group in groups]
    found["outcome/mean"] = float(np.mean(np.concatenate(outcomes)))
    found["group/constant_outcome"] = float(np.mean([np.ptp(o) < FLAT for o in outcomes]))
    found |= _turns(episodes)
    found |= _advantages(groups, outcomes)
    for credit in credits:
        found |= _credit(groups, outcomes, credit)
    return found


def _turns(episodes: Sequence[Episode]) -> dict[str, float]:
    found = {"episode/turns": float(np.mean([len(e.turns) for e in episodes]))}
    turns = [turn for episode in episodes for turn in episode.turns]
    if n_tokens := [len(turn.action.tokens.ids) for turn in turns if turn.action.tokens]:
        found["episode/tokens_per_turn"] = float(np.mean(n_tokens))
    if valid := [bool(turn.info["valid"]) for turn in turns if "valid" in turn.info]:
        found["turn/invalid"] = 1.0 - float(np.mean(valid))
    return found


def _advantages(groups: Sequence[Sequence[Episode]], outcomes: Sequence[Floats]) -> dict[str, float]:
    n_zero = n_turns = 0
    left = whole = 0.0
    for group, outcome in zip(groups, outcomes, strict=True):
        pairs = [
            (float(np.mean(turn.advantage)), result)
            for episode, result in zip(group, outcome.tolist(), strict=True)
            for turn in episode.turns
            if turn.advantage is not None
        ]
        if not pairs:
            continue
        values, results = (np.array(column) for column in zip(*pairs, strict=True))
        n_zero += int((values == 0).sum())
        n_turns += len(values)
        values, results = values - values.mean(), results - results.mean()
        whole += float(values @ values)
        slope = float(values @ results) / by if (by := float(results @ results)) > FLAT else 0.0
        left += float(np.square(values - slope * results).sum())
    if not n_turns:
        return {}
    found = {"advantage/zero": n_zero / n_turns}
    return {**found, "advantage/process_share": left / whole} if whole > FLAT else found


def _credit(groups: Sequence[Sequence[Episode]], outcomes: Sequence[Floats], credit: str | Credit) -> dict[str, float]:
    label = credit if isinstance(credit, str) else credit.label
    totals = [np.array([_total(episode, label) for episode in group]) for group in groups]
    found = {f"credit/{label}/total": float(np.mean(np.concatenate(totals)))}
    ours, theirs = (np.concatenate([x - x.mean() for x in rows]) for rows in (totals, outcomes))
    norm = float(np.linalg.norm(ours) * np.linalg.norm(theirs))
    if norm > FLAT:
        found[f"credit/{label}/outcome_correlation"] = float(ours @ theirs) / norm
    if isinstance(credit, GRA):
        found[f"credit/{label}/gate_open"] = float(np.mean([credit.open(e) for group in groups for e in group]))
    return found


def _total(episode: Episode, label: str) -> float:
    return float(sum(np.sum(v) for turn in episode.turns if (v := turn.credit.get(label)) is not None))


def _number(outcome: float | None) -> float:
    if outcome is None:
        raise ValueError("diagnostics: expected scored episodes, as groups_of gives them, got one without an outcome")
    return outcome
