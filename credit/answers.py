"""How likely the true answer is in every state of an episode: what the answer-likelihood methods have in common."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np

from milepost.credit.core import Channel, Credit, Rewards, Scorer
from milepost.envs.core import ContractError, Episode, FloatArray, Message

Scores = list[list[FloatArray]]
"""``[S][K][L]`` of one episode: for each state, for each text of the answer, its tokens' log-probabilities in nats."""


class Probe(NamedTuple):
    """What stands around the answer where the model is made to read it; only the answer is scored."""

    prefix: str = "<think>\nNow there is enough information to answer.\n</think>\n<answer>\n"
    suffix: str = "\n</answer>"


PROBE = Probe()
"""A short closed thought, an opened answer tag, the answer, a closed one. The exact words are unverified."""


class AnswerCredit(Credit):
    """A turn earns by how likely the true answer became: ``gains`` of what a scorer says in the states around it.

    The states are those before each turn, read by index and never by text. The last turn earns None: it gives the
    answer, and is paid by the outcome. With ``last=True`` the state after it is read as well and it earns too: right
    only where the last turn does not spell out an answer.

    Args:
        scorer: The policy itself, or a teacher.
        probe: What stands around the answer.
        strict: Raise where an answer or a finite log-probability is missing. Otherwise an episode without answer or
            scores earns None throughout and a gain that is not finite counts 0; ``fit`` reports how many.
        last: Whether the last turn is judged, too.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"answer", "scorer"})
    channel: ClassVar[Channel] = "separate"
    pair: ClassVar[str] = "pooled"
    frozen: ClassVar[bool] = False
    """Whether its paper scores by a reference that does not learn, and not by the policy in training."""

    def __init__(
        self, *, scorer: Scorer | None = None, probe: Probe = PROBE, strict: bool = True, last: bool = False
    ) -> None:
        if scorer is None:
            raise ValueError(f"{self.name} needs a scorer: the recipe gives it (a LocalScorer of the policy)")
        self.scorer = scorer
        self.probe = Probe(*probe)
        self.strict = strict
        self.last = last
        self._counts = dict.fromkeys(("answers_missing", "probes_missing", "gains_not_finite"), 0)

    def gains(self, scores: Scores) -> Sequence[float]:
        """[S - 1] what the turns between S states earned."""
        raise NotImplementedError

    def texts(self, episode: Episode) -> list[str]:
        """[K] the texts that are scored: the answer, none where there is no answer."""
        answer = episode.info.get("answer")
        if not (isinstance(answer, str) and answer.strip()):
            return []
        return [answer]

    def on_group(self, group: Sequence[Episode]) -> Rewards:
        """[G][T] the gains; None for the last turn (unless ``last``) and where there was nothing to score."""
        scores = self.scores(group)
        with np.errstate(all="ignore"):  # rows finds and counts what is not finite
            return self.rows(group, [None if s is None else self.gains(s) for s in scores])

    def scores(self, group: Sequence[Episode]) -> list[Scores | None]:
        """[G] the scores of each attempt's states, from one call of the scorer.

        None where there is no answer, no turn to judge, or no score.

        Raises:
            ContractError: An answer is missing, or the scorer returned another number of rows; only if strict.
        """
        shape = [(len(e.turns) + self.last, self._texts(e)) for e in group]
        shape = [(n, texts) if n > 1 and e.turns else (0, []) for e, (n, texts) in zip(group, shape, strict=True)]
        views: list[list[Message]] = []
        targets: list[str] = []
        for episode, (n_states, texts) in zip(group, shape, strict=True):
            for t in range(n_states if texts else 0):
                views += [episode.view(t)] * len(texts)
                targets += texts
        if not views:
            return [None] * len(group)
        prefix, suffix = self.probe
        found = self.scorer.logprobs(views, targets, prefix=prefix, suffix=suffix, tools=group[0].tools)
        if len(found) != len(views):
            if self.strict:
                raise ContractError(
                    f"{self.name}: group {group[0].group!r}: expected {len(views)} rows from the scorer, one a state "
                    f"and text, got {len(found)}"
                )
            self._counts["probes_missing"] += sum(1 for _, texts in shape if texts)
            return [None] * len(group)
        rows = iter(found)
        return [[[next(rows) for _ in texts] for _ in range(n)] if texts else None for n, texts in shape]

    def rows(self, group: Sequence[Episode], gains: Sequence[Sequence[float] | None]) -> Rewards:
        """[G][T] each attempt's gains as the credit of its turns.

        Raises:
            ContractError: A gain is not finite; only if strict.
        """
        result: list[list[float | None]] = []
        for episode, earned in zip(group, gains, strict=True):
            row: list[float | None] = [None] * len(episode.turns)
            for t, value in enumerate(() if earned is None else earned):
                good = math.isfinite(value)
                if not good and self.strict:
                    raise ContractError(
                        f"{self.name}: episode {episode.id!r}, turn {t}: expected a finite gain, got {value}: the "
                        "scorer could not score a state (its context is too short, or a log-probability is not finite)"
                    )
                self._counts["gains_not_finite"] += not good
                row[t] = float(value) if good else 0.0
            result.append(row)
        return result

    def fit(self, groups: Sequence[Sequence[Episode]]) -> dict[str, float]:
        """Report, since the last call, the attempts without answer or scores and the gains that counted as 0."""
        metrics = {f"credit/{self.label}/{what}": float(n) for what, n in self._counts.items()}
        self._counts = dict.fromkeys(self._counts, 0)
        return metrics

    def _texts(self, episode: Episode) -> list[str]:
        texts = self.texts(episode)
        if not texts:
            if self.strict:
                got: Any = episode.info.get("answer", "none")
                told = got if got == "none" else repr(got)
                raise ContractError(f"{self.name} needs info['answer'] from reset; {episode.env_id} gave {told}")
            self._counts["answers_missing"] += 1
        return texts


def mean_logprob(logprobs: FloatArray) -> float:
    """Return the length-normalised log-likelihood, in nats a token; nan where no token was scored."""
    return float(logprobs.sum(dtype=np.float64)) / len(logprobs) if len(logprobs) else float("nan")
