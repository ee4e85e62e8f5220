"""Train a language model to mend bugs with gated, direct or no stepwise rewards, and show what each does to it.

Reproduces the shape of the software-engineering instance of *Stabilizing Long-term Multi-turn Reinforcement Learning
with Gated Rewards* (G-RA, arXiv 2508.10548) on two CPU cores: after one warm-up by cloning, three methods at equal
budget. All pay the outcome (resolved 1, another patch 0.5, an empty one 0, no submission -0.5). ``gra`` adds three
stepwise critics (the turn parses, was carried out, asked for a tool that there is) where the outcome is above 0;
``dra`` adds them always; ``outcome`` never. The same file trains a bigger model on a GPU by flags alone.

Departs from the paper in:
1. SmolLM2-135M with LoRA, 5 turns and 1,000 tokens an episode, bugs of ``milepost/SWE-v0`` on the level that names
   the file, in four packages whose tests take half a second;
2. magnitudes, which the paper does not publish: ``credit.gra.SWE_PROFILE``, the stepwise ones by ``--step-weight``;
3. return-to-go minus the mean of the other attempts alive at that turn; ``--estimator grpo`` compares totals;
4. the warm-up imitates a teacher that opens the place of the bug, edits it and submits, with random turns between.
   No text names that line: such a model can only guess it, or know it from bugs that it was shown before.

CPU smoke run:  milepost train swe_gra --model tiny --packages voluptuous --n-train 2 --n-test 0 --n-probe 0 --updates 2
Two CPU cores:  make swe
One arm:        milepost train swe_gra --method dra --seed 0 --warmup-of runs/gra-s0 --out runs/dra-s0
One GPU:        milepost train swe_gra --device cuda --model Qwen/Qwen2.5-Coder-7B-Instruct --lora 32 --lr 1e-5
                --warmup-lr 1e-4 --rl-layers 28 --packages --level medium --max-turns 30 --max-context 16384
                --max-new-tokens 512 --max-lines 40 --n-train 135 --games 16 --updates 200
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any, ClassVar, Literal

import tyro

from milepost.agents import distributed
from milepost.agents.progress import bar
from milepost.agents.samples import to_samples
from milepost.agents.scripted import OraclePolicy
from milepost.agents.trainer import Trainer
from milepost.credit.gra import SWE_PROFILE
from milepost.envs.core import Episode, groups_of
from milepost.envs.swe import places, trials
from milepost.recipes import textworld_guide
from milepost.recipes.console import parse, read_option
from milepost.recipes.demonstrator import Demonstrator
from milepost.recipes.guide import Guide
from milepost.recipes.report import arms

CRITICS = tuple(SWE_PROFILE.terms)
"""The stepwise critics."""
PACKAGES = ("cachetools", "h11", "parse", "voluptuous", "webcolors", "schema", "unidiff")
"""Four to train on, one for the probe, two for the test: their tests take 0.3 to 0.8 s, the shortest there are."""


@dataclass
class Args(textworld_guide.Args):
    """Mend bugs of real packages: zero-shot, warm-up by cloning, RL with gated, direct or no stepwise rewards."""

    method: Literal["gra", "dra", "outcome"] = "gra"
    """Gated, direct, or the outcome alone."""
    step_weight: float = 0.1
    """What a turn earns for each of the three critics that it passes, where they count."""
    packages: tuple[str, ...] = PACKAGES
    """Only bugs of these packages; none: of all."""
    tasks: Path | None = None
    """A file of tasks instead of the list, as ``milepost swe build`` writes it or in the form of SWE-bench."""
    backend: str = "auto"
    """Of ``milepost sandbox list``: ``auto`` is docker where an engine answers, else bubblewrap."""
    allow: tuple[str, ...] = ()
    """Limits that may go unenforced where the backend cannot enforce them, as landlock the disk."""
    max_lines: int = 10
    """Most lines that a tool answers; 60 characters each."""
    env: str = "milepost/SWE-v0"
    level: str = "easy"
    """Which bugs: ``easy`` (one edit, the file is named), ``medium`` or ``hard``."""
    max_turns: int = 5
    estimator: str = "turn"
    """``turn``: return-to-go minus the other attempts alive at that turn; ``grpo``: totals; any of ``milepost credit
    list``. The same for all methods."""
    gamma: float = 1.0
    """Discount per turn."""
    warmup_updates: int = 30
    updates: int = 16
    games: int = 2
    """Bugs in a batch."""
    group: int = 8
    """Attempts at each bug of a batch (G)."""
    loss_constant: float = 80.0
    n_train: int = 41
    """Bugs to train on."""
    n_test: int = 19
    """Held-out bugs, of packages that are never trained on."""
    n_probe: int = 4
    """Fixed validation bugs behind the curve."""
    probe_every: int = 50
    max_new_tokens: int = 96
    max_context: int = 1000
    noise: float = 0.2
    """Share of random turns in demonstrations; they are shown and not imitated."""
    out: Path = Path("runs/swe_gra")
    credit: Annotated[tuple[str, ...], tyro.conf.Suppress] = field(default=(), init=False)
    after: Annotated[Literal["rl", "cloning"], tyro.conf.Suppress] = field(default="rl", init=False)
    patience: Annotated[int, tyro.conf.Suppress] = field(default=0, init=False)
    haste: Annotated[float, tyro.conf.Suppress] = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        self.credit = (self.method,)


class SweGuide(Guide):
    """The stages of the Guide on software engineering."""

    args: Args
    recipe: ClassVar[str] = "swe_gra"
    metric: ClassVar[str | None] = "swe/outcome"

    def env_kwargs(self) -> dict[str, Any]:
        """Return what makes the environment small, and pays by G-RA's magnitudes."""
        args = self.args
        form = dict(map(read_option, args.option)).get("actions", "tools")
        if form != "tools" and args.warmup_updates:
            raise ValueError(
                f"--option actions={form}: the teacher of the warm-up calls tools: expected actions=tools, "
                "or --warmup-updates 0"
            )
        self.backend = places.found(args.backend)
        room = {"max_lines": args.max_lines, "max_chars": 60 * args.max_lines, "max_episode_steps": args.max_turns}
        which = {"level": args.level, "packages": list(args.packages), "tasks": args.tasks and str(args.tasks)}
        where = {"backend": self.backend, "allow": list(args.allow)}
        return which | room | where | {"outcome": "gra"}

    def credit_options(self) -> dict[str, dict[str, Any]]:
        """Return the profile with this run's weight of the critics: in this alone methods differ."""
        terms = dict.fromkeys(CRITICS, self.args.step_weight)
        return {name: {"profile": "swe", "terms": terms} for name in ("gra", "dra")}

    def measure(self, episodes: Sequence[Episode]) -> dict[str, float]:
        """Return what ``measure`` does."""
        return measure(episodes, self.args.step_weight)

    def compile(self) -> None:
        """Say where commands run; have the list's tests run without and with their bugs, where the cache lacks that."""
        self.say(f"sandboxes: {self.backend}")
        if self.args.tasks:
            return
        ids = [str(task) for tasks in self.games.of.values() for task in tasks]
        with ThreadPoolExecutor(2) as pool, bar(self._title("tests of the bugs"), ids, "bugs") as tick:
            for _ in pool.map(lambda task: trials.task(task, self.backend, self.args.allow), ids):
                tick()


def main(args: Args) -> None:
    """Run every stage that is not yet in the run folder, then write its table, curve and summary."""
    distributed.init(args.device)
    with SweGuide(args) as guide:
        if guide.run.finished:
            guide.say(f"{args.out} is finished; nothing to do")
            return
        guide.evaluate("oracle", OraclePolicy())
        guide.evaluate("zero_shot", guide.policy)
        guide.train("warmup", clone, args.warmup_updates)
        guide.evaluate("warmup", guide.policy)
        guide.train("trained", reinforce, args.updates)
        guide.evaluate("trained", guide.policy)
        guide.finish()
        if guide.rank == 0:
            arms.draw([arms.read(args.out)], args.out / "curve.png")
    distributed.barrier()  # a rank that leaves early takes the others with it
    distributed.close()


def clone(guide: Guide, trainer: Trainer, update: int) -> dict[str, float]:
    """Let the teacher play; imitate its turns but for slips, and what is longer than the model may answer."""
    args, teacher = guide.args, Demonstrator(guide.args.noise)
    episodes = guide.play(guide.batch("demos", update, args.warmup_demos, attempts=1), teacher)
    for episode in episodes:
        guide.policy.encode(episode)
        for t, turn in enumerate(episode.turns):
            assert turn.action.tokens is not None
            short = len(turn.action.tokens.ids) <= args.max_new_tokens
            turn.advantage = float(short and (episode.id, t) not in teacher.slips)
    return trainer.clone([sample for episode in episodes for sample in to_samples(episode)])


def reinforce(guide: Guide, trainer: Trainer, update: int) -> dict[str, float]:
    """Play a batch of bugs, several attempts at each, pay every turn by the method, take a train step."""
    args = guide.args
    tasks = guide.batch("rl", update, args.games, args.group)
    groups = groups_of(guide.play(tasks, guide.policy, guide.credits))
    metrics = textworld_guide.learn(guide, trainer, groups)
    measured = guide.measure([episode for group in groups for episode in group])
    return metrics | {f"swe/{name}": value for name, value in measured.items()}


def measure(episodes: Sequence[Episode], step_weight: float) -> dict[str, float]:
    """Return rates and rewards an episode, of those that were scored; nothing where none was.

    ``completion``: submitted; ``modification``: submitted with a patch that is not empty; ``resolution``: all tests
    pass; ``stepwise``: what the critics would add without a gate. What the method pays is ``credit/<method>/total``.
    """
    scored = [episode for episode in episodes if episode.outcome is not None]
    if not scored:
        return {}
    results = [episode.turns[-1].info.get("result") for episode in scored]
    parts = [turn.info.get("reward_components", {}) for episode in scored for turn in episode.turns]
    stepwise = step_weight * sum(part.get(name, 0.0) for part in parts for name in CRITICS) / len(scored)
    return {
        "completion": fmean(result is not None for result in results),
        "modification": fmean(result in ("patch", "resolved") for result in results),
        "resolution": fmean(result == "resolved" for result in results),
        "edited": fmean(any(t.info["reward_components"]["patch"] for t in e.turns) for e in scored),
        "stepwise": stepwise,
        "outcome": fmean(float(episode.outcome or 0.0) for episode in scored),
        "turns": fmean(len(episode.turns) for episode in scored),
    }


if __name__ == "__main__":
    main(parse(Args))
