"""ONI: a language model says which captions tell of progress; what it said is learned and rewarded."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from milepost.credit import prompts
from milepost.credit.annotator import Item
from milepost.credit.captions import ONI
from milepost.credit.moments import Moments
from milepost.credit.normalise import Floats
from milepost.envs.core import Episode, Message

if TYPE_CHECKING:
    from milepost.credit.oni_models import CaptionModel


class Retrieval(ONI):
    """``r_int`` is the caption's label, 0 or 1; a caption without one earns 0 and is asked about once.

    ``table`` has labels to begin with. See ``ONI`` for the equation, the source and the other options.
    """

    name: ClassVar[str] = "oni_retrieval"

    def __init__(self, *, table: Mapping[str, float] | None = None, **options: Any) -> None:
        super().__init__(**options)
        if bad := [text for text, value in (table or {}).items() if not math.isfinite(value)]:
            raise ValueError(f"oni_retrieval: table: expected a finite number for {bad[0]!r}")
        self.labels = {(text,): (float(value),) for text, value in (table or {}).items()}

    def intrinsic(self, captions: Sequence[str]) -> list[float]:
        """[n] the table's values."""
        return [self.labels.get((text,), (0.0,))[0] for text in captions]


class Learned(ONI):
    """``r_int`` is what a network says that ``fit`` trains when labels came; before it ever was, 0.

    ``model`` has options of ``oni_models.CaptionModel`` other than the published ones, ``device`` among them. See
    ``ONI`` for the rest.
    """

    published: ClassVar[Mapping[str, Any]] = {}

    def __init__(self, *, model: Mapping[str, Any] | None = None, **options: Any) -> None:
        super().__init__(**{"max_labels": 25_000, "every": 10, **options})
        self.options = {**self.published, "seed": self.seed, **(model or {})}
        self.model: CaptionModel | None = None
        self._scores: dict[str, float] = {}

    def scores(self, captions: Sequence[str]) -> list[float]:
        """[n] the network's scores; each caption is scored once between two trainings."""
        if self.model is not None and (new := [c for c in dict.fromkeys(captions) if c not in self._scores]):
            self._scores |= zip(new, self.model.scores(new), strict=True)
        return [self._scores[caption] for caption in captions]

    def fit(self, groups: Sequence[Sequence[Episode]]) -> dict[str, float]:
        """Learn the labels that came: the published 32 train steps, if any came."""
        metrics = super().fit(groups)
        if metrics[f"credit/{self.label}/annotated"]:
            self.model = self.model or self._new_model()
            targets: list[float | tuple[float, ...]] = [
                label if len(item) > 1 else label[0] for item, label in self.labels.items()
            ]
            metrics[f"credit/{self.label}/loss"] = self.model.fit(list(self.labels), targets)
            self._scores = {}
        return metrics

    def state_dict(self) -> dict[str, Any]:
        """Return the labels, what waits, the network with its optimizer, and the scores in use."""
        model = None if self.model is None else self.model.state_dict()
        return {**super().state_dict(), "model": model, "scores": dict(self._scores)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what ``state_dict`` returned."""
        super().load_state_dict(state)
        self.model = None
        if (model := state["model"]) is not None:
            self.model = self._new_model()
            self.model.load_state_dict(model)
        self._scores = dict(state["scores"])

    def _new_model(self) -> CaptionModel:
        from milepost.credit.oni_models import CaptionModel

        return CaptionModel(**self.options)


class Classification(Learned):
    """``r_int`` is 1 if the network's ``p > eta``, else 0. See ``ONI`` and ``Learned``."""

    name: ClassVar[str] = "oni_classification"
    published: ClassVar[Mapping[str, Any]] = {"head": "classification"}

    def __init__(self, *, eta: float = 0.5, **options: Any) -> None:
        super().__init__(**options)
        if not 0 < eta < 1:
            raise ValueError(f"oni_classification: eta: expected a probability between 0 and 1, got {eta}")
        self.log_odds = math.log(eta / (1 - eta))

    def intrinsic(self, captions: Sequence[str]) -> list[float]:
        """[n] 1 where progress is more likely than ``eta``; NaN where the network says NaN."""
        if self.model is None:
            return [0.0] * len(captions)
        return [score if math.isnan(score) else float(score > self.log_odds) for score in self.scores(captions)]


class Ranking(Learned):
    """``r_int`` is ``z = (r - mu) / sigma`` of the network's worth ``r`` if ``z > threshold``, else 0.

    Pairs of captions are compared: every new one with one of the newest ``capacity`` of before, and 10 random pairs
    where fewer than two batches wait. ``mu`` and ``sigma`` run over all turns. ``legacy_raw_ranking`` takes ``r`` for
    z, as the released code did (whether it thresholds that is unverified). See ``ONI`` and ``Learned``.

    Differs: the moments are updated by each group of episodes, the batch in which credit is asked for.
    """

    name: ClassVar[str] = "oni_ranking"
    published: ClassVar[Mapping[str, Any]] = {"head": "ranking", "clip": 10.0}
    n_random_pairs: ClassVar[int] = 10

    def __init__(self, *, threshold: float = -0.5, legacy_raw_ranking: bool = False, **options: Any) -> None:
        super().__init__(**options)
        self.threshold, self.legacy_raw_ranking = threshold, legacy_raw_ranking
        self.moments = Moments()
        self.seen: dict[str, None] = {}
        self._n_drawn = 0

    def intrinsic(self, captions: Sequence[str]) -> list[float]:
        """[n] the worths that exceed the threshold, in standard deviations; NaN where the network says NaN."""
        if self.model is None or not captions:
            return [0.0] * len(captions)
        scores = np.array(self.scores(captions))
        self.moments.update(scores)
        return thresholded(scores if self.legacy_raw_ranking else self.moments.normalised(scores), self.threshold)

    def fit(self, groups: Sequence[Sequence[Episode]]) -> dict[str, float]:
        """Compare some random pairs where few wait, and learn as ``Learned`` does."""
        if self.annotator is not None and len(self.seen) > 1 and len(self.queue.waiting) < 2 * self.queue.batch:
            seen = list(self.seen)
            for _ in range(self.n_random_pairs):
                first, second = self._random().choice(len(seen), 2, replace=False)
                self._offer_pair(seen[first], seen[second])
        return super().fit(groups)

    def state_dict(self) -> dict[str, Any]:
        """Return what ``Learned`` does, the moments and the captions to compare with."""
        more = {"moments": self.moments.state_dict(), "seen": list(self.seen), "n_drawn": self._n_drawn}
        return {**super().state_dict(), **more}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what ``state_dict`` returned."""
        super().load_state_dict(state)
        self.moments = Moments(**state["moments"])
        self.seen, self._n_drawn = dict.fromkeys(state["seen"]), state["n_drawn"]

    def _offer(self, caption: str) -> None:
        if caption in self.seen:
            return
        if self.seen:
            random = self._random()
            other = list(self.seen)[random.integers(len(self.seen))]
            self._offer_pair(*((caption, other) if random.random() < 0.5 else (other, caption)))
        self.seen[caption] = None
        if len(self.seen) > self.queue.capacity:
            del self.seen[next(iter(self.seen))]

    def _offer_pair(self, first: str, second: str) -> None:
        known = (self.labels, self.queue.waiting)
        if not any(pair in found for pair in ((first, second), (second, first)) for found in known):
            self.queue.offer((first, second))

    def _prompt(self, item: Item) -> list[Message]:
        first, second = item
        return prompts.ranking(first, second, self.goal)

    def _read(self, answer: str) -> tuple[tuple[float, ...], bool]:
        return prompts.read_ranking(answer)

    def _random(self) -> np.random.Generator:
        self._n_drawn += 1
        return np.random.default_rng([self.seed, self._n_drawn])


def thresholded(values: Floats, threshold: float) -> list[float]:
    """[n] the values that exceed the threshold, 0 for the others; NaN stays."""
    return [float(x) for x in np.where(values <= threshold, 0.0, values)]
