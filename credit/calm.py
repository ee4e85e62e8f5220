"""CALM: a language model watches every transition and says which sub-goals it achieved."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, get_args

from milepost.credit import prompts
from milepost.credit.core import Annotator, Credit, Rewards
from milepost.credit.subgoals import Mode, Verdict, bonus
from milepost.envs.core import ContractError, Episode, Message, Observation, Stop
from milepost.sandbox.core import MachineError


class CALM(Credit):
    """``r_t = sum_k w_k * 1[sub-goal k achieved by transition t]``; the environment's reward is added by the recipe.

    Args:
        annotator: Who judges: for each transition what was seen before, the action, and what was seen after.
        subgoals: Their names; None: ``info["subgoals"]``.
        identify: Have the annotator name the sub-goals of each task first (they are kept for the run).
        weights: Of each sub-goal; None: equal ones that add up to 1.
        mode: ``first_only``: each pays once an episode. ``every_termination`` is literal, and can be farmed by doing
            and undoing. ``pbrs``: ``F = gamma * Phi(s') - Phi(s)`` with the weights achieved so far as Phi, 0 in a
            terminal state, so that the best policy stays the best (``credit.shaping``).
        crop: Show only so many rows and columns around ``symbol`` (9 in the paper, unverified); None: the whole.
        environment, legend, task: Texts of the prompt; the task's default is the episode's instructions.
        batch: Transitions that go to the annotator together. If it fails, their turns stay unjudged; with ``pbrs``
            their whole episodes do, whose sum would not telescope.

    Only texts are shown to the annotator. An answer that cannot be read counts as "not achieved". Metrics come with
    ``fit``.

    Source: Pignatelli et al. 2024, arXiv 2409.12798. Needs: ``info["subgoals"]`` at reset, an annotator.
    Pair with: any estimator on turns.
    Differs: the paper measures the judgements (``subgoals.confusion``) and trains no agent; the modes are ours, and
    sub-goals are identified once a task, not anew in each prompt, so that a sub-goal keeps its name.
    """

    name: ClassVar[str] = "calm"
    needs: ClassVar[frozenset[str]] = frozenset({"subgoals", "annotator"})
    paper: ClassVar[str] = "arXiv 2409.12798"

    def __init__(
        self,
        *,
        annotator: Annotator | None = None,
        subgoals: Sequence[str] | None = None,
        identify: bool = False,
        weights: Mapping[str, float] | None = None,
        mode: Mode = "first_only",
        gamma: float = 1.0,
        crop: int | None = None,
        symbol: str = "@",
        environment: str = "",
        legend: str = "",
        task: str | None = None,
        batch: int = 64,
    ) -> None:
        if mode not in get_args(Mode):
            raise ValueError(f"calm: mode: expected one of {', '.join(get_args(Mode))}, got {mode!r}")
        if batch < 1 or (crop is not None and crop < 1):
            raise ValueError(f"calm: batch and crop: expected at least 1, got {batch} and {crop}")
        for name, weight in (weights or {}).items():
            if not math.isfinite(weight):
                raise ValueError(f"calm: weights: expected a finite number for {name!r}, got {weight}")
        self.annotator, self.subgoals, self.identify, self.weights = annotator, subgoals, identify, weights
        self.mode: Mode = mode
        self.gamma, self.crop, self.symbol = gamma, crop, symbol
        self.environment, self.legend, self.task, self.batch = environment, legend, task, batch
        self.identified: dict[str, list[str]] = {}
        """Task -> the names that the annotator gave its sub-goals."""
        self._counts = dict.fromkeys(("asked", "unjudged", "unparsed", "unidentified"), 0)

    def on_group(self, group: Sequence[Episode]) -> Rewards:
        """[G][T] bonuses; None where the annotator failed."""
        names = [self._subgoals(episode) for episode in group]
        verdicts = iter(self._verdicts(group, names))
        return [self._row(e, n, [next(verdicts) for _ in e.turns]) for e, n in zip(group, names, strict=True)]

    def fit(self, groups: Sequence[Sequence[Episode]]) -> dict[str, float]:
        """Report, since the last call, the transitions asked about, not answered and not readable."""
        counts, self._counts = self._counts, dict.fromkeys(self._counts, 0)
        return {f"credit/{self.label}/{name}": float(n) for name, n in counts.items()}

    def state_dict(self) -> dict[str, Any]:
        """Return the sub-goals that were identified, and the counts that ``fit`` did not report yet."""
        return {"identified": {k: list(v) for k, v in self.identified.items()}, "counts": dict(self._counts)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what ``state_dict`` returned."""
        self.identified = {k: list(v) for k, v in state["identified"].items()}
        self._counts = dict(state["counts"])

    def _row(self, episode: Episode, names: list[str], verdicts: list[Verdict | None]) -> list[float | None]:
        weights = self.weights or dict.fromkeys(names, 1 / max(1, len(names)))
        if missing := [name for name in names if name not in weights]:
            raise ContractError(f"calm: weights has no {missing[0]!r}; it has {', '.join(weights)}")
        terminated = episode.stop is Stop.TERMINATED
        return bonus(verdicts, weights, self.mode, gamma=self.gamma, terminated=terminated)

    def _verdicts(self, group: Sequence[Episode], names: list[list[str]]) -> list[Verdict | None]:
        """[sum of T] the judgement of every transition; the same transition is asked about once."""
        asked: list[tuple[str, ...]] = []
        chats: dict[tuple[str, ...], list[Message]] = {}
        for episode, own in zip(group, names, strict=True):
            views, texts = [self._view(episode, t) for t in range(len(episode.turns) + 1)], self._texts(episode)
            for t, turn in enumerate(episode.turns):
                transition = (*own, texts["task"], views[t], turn.action.text, views[t + 1])
                asked.append(transition)
                if own and transition not in chats:
                    chats[transition] = prompts.transition(own, views[t], turn.action.text, views[t + 1], **texts)
        read: dict[tuple[str, ...], tuple[Verdict, bool]] = {}
        for transition, answer in zip(chats, self._ask(list(chats.values())), strict=True):
            if answer is not None:
                read[transition] = prompts.read_transition(answer, transition[:-4])
        self._counts["asked"] += len(asked)
        self._counts["unjudged"] += sum(transition not in read for transition in asked)
        self._counts["unparsed"] += sum(read[transition][1] for transition in asked if transition in read)
        return [read[transition][0] if transition in read else None for transition in asked]

    def _ask(self, chats: list[list[Message]]) -> list[str | None]:
        """[n] the answers; None for the chats of a batch that the annotator failed at."""
        if self.annotator is None:
            raise ContractError("calm needs an annotator: the recipe gives it (a model that answers prompts)")
        answers: list[str | None] = []
        for start in range(0, len(chats), self.batch):
            batch = chats[start : start + self.batch]
            try:
                found = self.annotator.annotate(batch)
            except MachineError:
                answers += [None] * len(batch)
                continue
            if len(found) != len(batch):
                raise ContractError(f"calm: the annotator: expected {len(batch)} answers, got {len(found)}")
            answers += found
        return answers

    def _subgoals(self, episode: Episode) -> list[str]:
        """Return the names; none where the annotator could not identify any: the turns are then not judged."""
        if not self.identify:
            names = self.subgoals if self.subgoals is not None else episode.info.get("subgoals")
            if not names:
                raise ContractError(f"calm needs info['subgoals'] from reset; {episode.env_id} gave none")
            return list(names)
        ids = (episode.info.get("task_id"), episode.task, episode.seed, episode.group)
        options = " ".join(f"{name}={value}" for name, value in sorted(episode.env_kwargs.items()))
        key = f"{episode.env_id} {options} {next(id for id in ids if id is not None)}"
        if key not in self.identified and episode.turns:
            (answer,) = self._ask([prompts.identify(self._view(episode, 0), **self._texts(episode))])
            if names := prompts.read_subgoals(answer or ""):
                self.identified[key] = names
            else:
                self._counts["unidentified"] += 1
        return self.identified.get(key, [])

    def _texts(self, episode: Episode) -> dict[str, str]:
        told = episode.instructions
        own = told.get(episode.agents[0], "") if isinstance(told, dict) else told
        return {"environment": self.environment, "legend": self.legend, "task": own if self.task is None else self.task}

    def _view(self, episode: Episode, t: int) -> str:
        shown = episode.turns[t].observation if t < len(episode.turns) else episode.last
        text = _text("" if shown is None else shown)
        return text if self.crop is None else cropped(text, self.crop, self.symbol)


def cropped(screen: str, size: int, symbol: str = "@") -> str:
    """Return ``size`` rows and columns of a screen around the first ``symbol``; the whole where there is none."""
    rows = screen.splitlines()
    for y, row in enumerate(rows):
        if (x := row.find(symbol)) >= 0:
            top, left = max(0, y - size // 2), max(0, x - size // 2)
            return "\n".join(r[left : x - size // 2 + size] for r in rows[top : y - size // 2 + size])
    return screen


def _text(observation: Observation) -> str:
    """Return the text of an observation; an image is not shown."""
    if isinstance(observation, str):
        return observation
    return "\n".join([*(r.get("text", "") for r in observation.get("results", ())), observation.get("text", "")])
