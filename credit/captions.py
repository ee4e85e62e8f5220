"""What captions earn, whoever says what one is worth: counted in the episode, asked about, learned between batches."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from milepost.credit import prompts
from milepost.credit.annotator import Item, Queue
from milepost.credit.core import Annotator, Credit, Rewards
from milepost.envs.core import ContractError, Episode, Message


class ONI(Credit):
    """A turn earns what its caption is worth, less each time it comes again: ``r_t = llm_coef * r_int / N_t^p``.

    ``N_t`` counts the caption in the episode so far, this time included. ``credit.oni`` has the three classes that say
    what ``r_int`` is. The environment's own reward is added by the recipe. Rewards read what ``fit`` last learned, so
    that a label never changes the rewards of the batch that is being judged.

    Args:
        annotator: Who labels captions (Llama-3.1-8B-Instruct, temperature 0.1, in the paper). None: what was
            learned before stays as it is.
        llm_coef: The paper has 0.4 for Score with ``Retrieval``; for other tasks and models it is unverified.
        exponent: p; 0 pays the same every time.
        goal: A variant of ``prompts.GOALS``, or what the player wants, in words.
        caption: Another text than ``info["caption"]`` of the state that turn t led to, from ``(episode, t)``.
        skip_blank: Leave blank captions out: their turns are not judged. Else they are captions like others.
        max_labels: Stop asking when there are so many.
        seed: For which pairs are compared and how a model begins.
        queue: Options of ``annotator.Queue``: ``batch``, ``capacity``, ``every``, ``background``.

    Source: Zheng et al. 2024, arXiv 2410.23022. Needs: ``info["caption"]`` at every step, an annotator.
    Pair with: ``peers.ppo`` (gamma 0.99).
    Differs: with several ranks each asks and learns by itself, from the episodes that it plays.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"caption", "annotator"})
    paper: ClassVar[str] = "arXiv 2410.23022"
    trains: ClassVar[bool] = True
    pair: ClassVar[str] = "ppo"

    def __init__(
        self,
        *,
        annotator: Annotator | None = None,
        llm_coef: float = 0.4,
        exponent: float = 3.0,
        goal: str = "score",
        caption: Callable[[Episode, int], str] | None = None,
        skip_blank: bool = False,
        max_labels: int | None = None,
        seed: int = 0,
        **queue: Any,
    ) -> None:
        if exponent < 0:
            raise ValueError(f"{self.name}: exponent: expected at least 0, got {exponent}")
        if unknown := queue.keys() - {"batch", "capacity", "every", "background"}:
            raise ValueError(f"{self.name} has no option {min(unknown)!r}")
        self.annotator, self.llm_coef, self.exponent, self.goal = annotator, llm_coef, exponent, goal
        self.caption, self.skip_blank, self.max_labels, self.seed = caption, skip_blank, max_labels, seed
        self.labels: dict[Item, tuple[float, ...]] = {}
        self.queue = Queue(**queue)

    def on_group(self, group: Sequence[Episode]) -> Rewards:
        """[G][T] what the captions were worth; those without a label begin to wait for one."""
        if self.annotator is None and not self.labels:
            raise ContractError(f"{self.name} needs an annotator: the recipe gives it (a model that answers prompts)")
        rows = [[self._caption(episode, t) for t in range(len(episode.turns))] for episode in group]
        judged = [[text for text in row if text is not None] for row in rows]
        values = iter(self.intrinsic([text for row in judged for text in row]))
        if self.annotator is not None and not self._full:
            for text in (text for row in judged for text in row):
                if self.queue.due():
                    self._offer(text)
        earned = iter([r for row in judged for r in self._earned(row, [next(values) for _ in row])])
        return [[None if text is None else next(earned) for text in row] for row in rows]

    def intrinsic(self, captions: Sequence[str]) -> list[float]:
        """[n] ``r_int`` of the captions of one group of episodes."""
        raise NotImplementedError

    def fit(self, groups: Sequence[Sequence[Episode]]) -> dict[str, float]:
        """Have a batch of captions annotated and learn the labels that came; see ``Queue`` for ``background``."""
        failed, answers = self.queue.n_failed, []
        if self.annotator is not None and not self._full:
            answers = self.queue.work(self.annotator, self._prompt)
        read = [self._read(answer) for _, answer in answers]
        self.labels |= {item: label for (item, _), (label, _) in zip(answers, read, strict=True)}
        counts = {
            "labels": len(self.labels),
            "annotated": len(answers),
            "unparsed": sum(bad for _, bad in read),
            "waiting": len(self.queue.waiting),
            "annotator_failed": self.queue.n_failed - failed,
        }
        return {f"credit/{self.label}/{name}": float(n) for name, n in counts.items()}

    def state_dict(self) -> dict[str, Any]:
        """Return the labels and what waits for one."""
        return {"labels": [[list(i), list(y)] for i, y in self.labels.items()], "queue": self.queue.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what ``state_dict`` returned."""
        self.labels = {tuple(item): tuple(label) for item, label in state["labels"]}
        self.queue.load_state_dict(state["queue"])

    @property
    def _full(self) -> bool:
        return self.max_labels is not None and len(self.labels) >= self.max_labels

    def _offer(self, caption: str) -> None:
        if (caption,) not in self.labels:
            self.queue.offer((caption,))

    def _prompt(self, item: Item) -> list[Message]:
        return prompts.classification(item[0], self.goal)

    def _read(self, answer: str) -> tuple[tuple[float, ...], bool]:
        label, failed = prompts.read_classification(answer)
        return (label,), failed

    def _earned(self, captions: Sequence[str], values: Sequence[float]) -> list[float]:
        return combined(values, episodic_counts(captions), llm_coef=self.llm_coef, exponent=self.exponent)

    def _caption(self, episode: Episode, t: int) -> str | None:
        text = self.caption(episode, t) if self.caption else episode.turns[t].info.get("caption")
        if not isinstance(text, str):
            raise ContractError(
                f"{self.name} needs info['caption'] at every step; {episode.env_id} gave {text!r} at turn {t}"
            )
        return None if self.skip_blank and not text.strip() else text


def episodic_counts(captions: Sequence[str]) -> list[int]:
    """[T] how often each caption of an episode came so far, this time included."""
    seen: Counter[str] = Counter()
    counts = []
    for caption in captions:
        seen[caption] += 1
        counts.append(seen[caption])
    return counts


def combined(
    intrinsic: Sequence[float],
    counts: Sequence[int],
    extrinsic: Sequence[float] | None = None,
    *,
    llm_coef: float,
    ext_coef: float = 1.0,
    exponent: float = 3.0,
) -> list[float]:
    """[T] ``ext_coef * r_ext + llm_coef * r_int / N^p``, the total reward; without ``extrinsic`` its second term."""
    earned = [llm_coef * r / n**exponent for r, n in zip(intrinsic, counts, strict=True)]
    return earned if extrinsic is None else [ext_coef * e + r for e, r in zip(extrinsic, earned, strict=True)]
