"""Good methods, and those that break one rule of the contract each."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Sequence
from typing import Any, ClassVar

from milepost.credit.core import Credit, Rewards, Scorer
from milepost.envs.core import ContractError, Episode


class Good(Credit):
    """The sum of the components of a turn."""

    name: ClassVar[str] = "good"
    needs: ClassVar[frozenset[str]] = frozenset({"reward_components"})

    def on_group(self, group: Sequence[Episode]) -> Rewards:
        return [self.row(episode) for episode in group]

    def row(self, episode: Episode) -> list[Any]:
        if not any(turn.info.get("reward_components") for turn in episode.turns):
            raise ContractError(f"{self.name} needs info['reward_components']; {episode.env_id} gave none")
        return [sum(turn.info["reward_components"].values()) for turn in episode.turns]


class DropsZeros(Good):
    """Takes a zero for nothing."""

    def row(self, episode: Episode) -> list[Any]:
        return [value or None for value in super().row(episode)]


class SkipsZeros(Good):
    """Shares a win among the turns that earned anything but zero."""

    def row(self, episode: Episode) -> list[Any]:
        row = super().row(episode)
        return [value / max(1, sum(v != 0 for v in row)) for value in row]


class Centres(Good):
    """Takes the mean of those alive off each turn."""

    def on_group(self, group: Sequence[Episode]) -> Rewards:
        rows = [self.row(episode) for episode in group]
        alive = [[row[t] for row in rows if t < len(row)] for t in range(max(map(len, rows)))]
        return [[value - sum(alive[t]) / len(alive[t]) for t, value in enumerate(row)] for row in rows]


class CentresOnTheMedian(Good):
    """Takes the median of those alive off each turn."""

    def on_group(self, group: Sequence[Episode]) -> Rewards:
        rows = [self.row(episode) for episode in group]
        alive = [[row[t] for row in rows if t < len(row)] for t in range(max(map(len, rows), default=0))]
        return [[value - statistics.median(alive[t]) for t, value in enumerate(row)] for row in rows]


class CentresBesideTheOutcome(Centres):
    """Takes the mean off each turn, and adds the outcome to the last."""

    needs: ClassVar[frozenset[str]] = frozenset({"reward_components", "outcome"})
    includes_outcome: ClassVar[bool] = True

    def on_group(self, group: Sequence[Episode]) -> Rewards:
        rows: list[list[Any]] = [list(row) for row in super().on_group(group)]
        for row, episode in zip(rows, group, strict=True):
            row[-1] += episode.outcome or 0.0
        return rows


class CentresTheOutcome(Good):
    """Adds to the last turn by how much the outcome is above the group's mean."""

    needs: ClassVar[frozenset[str]] = frozenset({"reward_components", "outcome"})
    includes_outcome: ClassVar[bool] = True

    def on_group(self, group: Sequence[Episode]) -> Rewards:
        rows = [self.row(episode) for episode in group]
        mean = sum(episode.outcome or 0.0 for episode in group) / max(1, len(group))
        for row, episode in zip(rows, group, strict=True):
            row[-1] += (episode.outcome or 0.0) - mean
        return rows


class Remembers(Good):
    """Pays less for what paid before, in whatever group."""

    def __init__(self) -> None:
        self.seen = 0.0

    def row(self, episode: Episode) -> list[Any]:
        row = super().row(episode)
        self.seen += sum(row)
        return [value / (1 + self.seen) for value in row]


class NotANumber(Good):
    """Divides by a spread that may be 0."""

    def row(self, episode: Episode) -> list[Any]:
        row = super().row(episode)
        spread = max(row) - min(row)
        return [value / spread if spread else math.nan for value in row]


class OneShort(Good):
    """Forgets the last turn."""

    def row(self, episode: Episode) -> list[Any]:
        return super().row(episode)[:-1]


class Peeks(Good):
    """Pays for the answer in a turn's text, and does not say that it looks at it."""

    def row(self, episode: Episode) -> list[Any]:
        answer = str(episode.info.get("answer"))
        return [v + (answer in t.action.text) for v, t in zip(super().row(episode), episode.turns, strict=True)]


class Swallows(Credit):
    """Takes a scorer that is down, and a missing answer, for a turn that earned nothing."""

    name: ClassVar[str] = "swallows"
    needs: ClassVar[frozenset[str]] = frozenset({"answer", "scorer"})

    def __init__(self, *, scorer: Scorer) -> None:
        self.scorer = scorer

    def on_group(self, group: Sequence[Episode]) -> Rewards:
        return [[self.value(episode, t) for t in range(len(episode.turns))] for episode in group]

    def value(self, episode: Episode, t: int) -> float:
        try:
            return float(sum(self.scorer.logprobs([episode.view(t)], [episode.info["answer"]])[0]))
        except Exception:
            return 0.0


class SwallowsMachine(Swallows):
    """Takes a scorer that is down for a turn that earned nothing."""

    def value(self, episode: Episode, t: int) -> float:
        if "answer" not in episode.info:
            raise ContractError(f"{self.name} needs info['answer']; {episode.env_id} gave none")
        return super().value(episode, t)


class SwallowsATerm(SwallowsMachine):
    """Hides the 0 of a scorer that is down behind a bonus that every turn gets."""

    def value(self, episode: Episode, t: int) -> float:
        return super().value(episode, t) + 0.1


class SwallowsIntoNan(SwallowsMachine):
    """Makes NaN, which is written as 0, of a scorer that is down."""

    def value(self, episode: Episode, t: int) -> float:
        answer = super().value(episode, t)
        try:
            self.scorer.logprobs([episode.view(t)], [episode.info["answer"]])
        except Exception:
            return math.nan
        return answer


class BareKeys(Good):
    """Remembers what a state is worth by its key alone, so a state of another task answers for it."""

    name: ClassVar[str] = "bare"
    needs: ClassVar[frozenset[str]] = frozenset({"reward_components", "state_key"})

    def __init__(self) -> None:
        self.worth: dict[str, float] = {}

    def row(self, episode: Episode) -> list[Any]:
        if "state_key" not in episode.info:
            raise ContractError(f"{self.name} needs info['state_key']; {episode.env_id} gave none")
        keys = [episode.info_before(t)["state_key"] for t in range(len(episode.turns))]
        visits = Counter(keys)
        return [
            self.worth.setdefault(key, value + visits[key])
            for key, value in zip(keys, super().row(episode), strict=True)
        ]


class BareKeysOfTheClass(BareKeys):
    """Remembers by the bare key in the class, where every object finds it."""

    worth: ClassVar[dict[str, float]] = {}  # type: ignore[misc]

    def __init__(self) -> None:
        """Keep what the class has."""


class BestOfTheClass(Good):
    """Remembers in the class what was the most that a task paid, in whatever group."""

    best: ClassVar[dict[str | None, float]] = {}

    def on_group(self, group: Sequence[Episode]) -> Rewards:
        rows = [self.row(episode) for episode in group]
        task = group[0].task if group else None
        self.best[task] = max([self.best.get(task, 0.0), *(value for row in rows for value in row)])
        return [[value / (1 + self.best[task]) for value in row] for row in rows]


class SearchesForText(Good):
    """Finds a turn's number again by the turn's text: the first that has it."""

    def row(self, episode: Episode) -> list[Any]:
        texts = [turn.action.text for turn in episode.turns]
        row = super().row(episode)
        return [row[texts.index(text)] for text in texts]


class PlacesByText(Good):
    """Puts a turn's number where it finds the turn's text in what was written, and adds up what falls together."""

    def row(self, episode: Episode) -> list[Any]:
        written = "\n".join(f"{turn.action.text}." for turn in episode.turns)
        row = [0.0] * len(episode.turns)
        for turn, value in zip(episode.turns, super().row(episode), strict=True):
            row[written[: written.index(f"{turn.action.text}.")].count("\n")] += value
        return row


class ScoresByText(Swallows):
    """Scores the state before the first turn that has a turn's text."""

    name: ClassVar[str] = "scores_by_text"

    def value(self, episode: Episode, t: int) -> float:
        if "answer" not in episode.info:
            raise ContractError(f"{self.name} needs info['answer']; {episode.env_id} gave none")
        at = [turn.action.text for turn in episode.turns].index(episode.turns[t].action.text)
        return float(sum(self.scorer.logprobs([episode.view(at)], [episode.info["answer"]])[0]))


class Learns(Good):
    """Expects of a turn what turns earned in the batches before, and saves that."""

    name: ClassVar[str] = "learns"
    trains: ClassVar[bool] = True

    def __init__(self) -> None:
        self.mean, self.n_batches = 0.0, 0

    def row(self, episode: Episode) -> list[Any]:
        return [value - self.mean for value in super().row(episode)]

    def fit(self, groups: Sequence[Sequence[Episode]]) -> dict[str, float]:
        values = [value for group in groups for episode in group for value in super(Learns, self).row(episode)]
        self.n_batches += 1
        self.mean += (sum(values) / len(values) + 0.1 - self.mean) / (self.n_batches + 1)
        return {}

    def state_dict(self) -> dict[str, Any]:
        return {"mean": self.mean, "n_batches": self.n_batches}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.mean, self.n_batches = state["mean"], state["n_batches"]


class SavesNothing(Learns):
    """Forgets what it learned when a run goes on."""

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take nothing."""


class ForgetsTheCount(Learns):
    """Goes on with what it learned, and learns on as if it had just begun."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.mean = state["mean"]


class CannotLoad(Learns):
    """Saves under another name than it loads."""

    def state_dict(self) -> dict[str, Any]:
        return {"average": self.mean}


class Misspelt(Good):
    """Looks for a key that was misspelt."""

    def __init__(self, key: str = "vaild") -> None:
        self.key = key

    def row(self, episode: Episode) -> list[Any]:
        return [float(bool(turn.info[self.key])) for turn in episode.turns]


class MisspeltAndNotMissed(Misspelt):
    """Looks for a key that was misspelt, and takes its absence for a no."""

    def row(self, episode: Episode) -> list[Any]:
        return [float(bool(turn.info.get(self.key))) for turn in episode.turns]


class SharesMemory(Credit):
    """Pays for a state other than the last one seen, in whatever episode."""

    name = "shares_memory"
    needs = frozenset({"state_key"})

    def __init__(self) -> None:
        self.last: str | None = None

    def on_reset(self, episode: Episode) -> None:
        self.last = episode.info["state_key"]

    def on_turn(self, episode: Episode) -> float:
        key = episode.turns[-1].info.get("state_key")
        moved, self.last = key != self.last, key
        return 0.25 if moved else 0.125


class ByAttempt(SharesMemory):
    """Remembers by the attempt's number, which attempts at other tasks have, too."""

    def __init__(self) -> None:
        self.by: dict[int, str] = {}

    def on_reset(self, episode: Episode) -> None:
        self.by[episode.attempt] = episode.info["state_key"]

    def on_turn(self, episode: Episode) -> float:
        self.last = self.by[episode.attempt]
        value = super().on_turn(episode)
        self.by[episode.attempt] = str(self.last)
        return value


class Scribbles(Credit):
    """Writes down the outcome that it would like."""

    name = "scribbles"
    needs = frozenset({"valid"})

    def on_turn(self, episode: Episode) -> float:
        episode.turns[-1].info["outcome"] = 1.0
        return 0.25 if episode.turns[-1].info["valid"] else 0.125


class PairsWithNothing(Good):
    """Names a combiner as its estimator."""

    pair = "krc"


class NeedsAList(Good):
    """Says what it needs in a list."""

    needs = ["state_key"]  # type: ignore[assignment]  # noqa: RUF012


BROKEN: dict[type[Credit], str] = {
    DropsZeros: "zeros",
    SkipsZeros: "zeros",
    Centres: "centred",
    CentresOnTheMedian: "centred",
    CentresBesideTheOutcome: "centred",
    CentresTheOutcome: "centred",
    Remembers: "state",
    NotANumber: "finite",
    OneShort: "shape",
    Peeks: "needs",
    Swallows: "errors",
    SwallowsMachine: "errors",
    SwallowsATerm: "errors",
    SwallowsIntoNan: "errors",
    BareKeys: "keys",
    BareKeysOfTheClass: "keys",
    BestOfTheClass: "state",
    SearchesForText: "texts",
    PlacesByText: "texts",
    ScoresByText: "texts",
    SavesNothing: "resume",
    ForgetsTheCount: "resume",
    CannotLoad: "resume",
    Misspelt: "info",
    MisspeltAndNotMissed: "info",
    SharesMemory: "interleaved",
    ByAttempt: "interleaved",
    Scribbles: "writes",
    **dict.fromkeys((PairsWithNothing, NeedsAList), "card"),
}
"""Each broken method, and the rule that it breaks."""
