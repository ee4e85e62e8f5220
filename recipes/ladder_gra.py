"""Train a tiny language model from scratch on the ladder, with one credit method and one seed.

Shows in half a minute on one core why small rewards are gated (G-RA, arXiv 2508.10548): the ladder's distractor pays
more than the win if all that turns earn is summed. With ``--credit gra`` it counts only in episodes that win, and the
model climbs; with ``--credit dra``, the plain sum, it farms.

Departs from the paper in:
1. a toy that can be enumerated instead of software engineering;
2. return-to-go minus that of the other attempts alive at the turn, instead of one number per attempt;
3. a warm-up that imitates random valid moves, which teaches the words and nothing of the task.

    milepost train ladder_gra                                       gated: wins
    milepost train ladder_gra --credit dra --out runs/ladder_dra    ungated: farms
    milepost plot runs/ladder_gra runs/ladder_dra
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.progress import track

from milepost.agents.core import stable_seed
from milepost.agents.driver import play
from milepost.agents.local import models, tiny
from milepost.agents.local.policy import LocalPolicy
from milepost.agents.samples import Sample, to_samples
from milepost.agents.scripted import RandomPolicy
from milepost.agents.trainer import Trainer
from milepost.credit import advantage, methods
from milepost.credit.core import Credit, assign, restore, saved
from milepost.envs.core import Episode, Task, groups_of
from milepost.envs.runs import Run
from milepost.recipes.console import parse
from milepost.recipes.report import plot


@dataclass
class Args:
    """Train a tiny model from scratch on the ladder, with one credit method and one seed."""

    env: str = "milepost/Ladder-v0"
    """Gymnasium id; ``module:id`` imports the module first, so your own environment needs no change here."""
    credit: str = "gra"
    """What turns earn: ``gra``, ``dra``, ``outcome`` or another method's name, or ``module:Class``."""
    gamma: float = 1.0
    """Discount per turn."""
    group: int = 8
    """Attempts at each task (G)."""
    groups: int = 8
    """Tasks in a batch."""
    warmup_updates: int = 30
    """Train steps that imitate random valid moves, before the others."""
    warmup_lr: float = 1e-2
    """Learning rate of these."""
    updates: int = 20
    """Train steps of reinforcement learning."""
    lr: float = 3e-3
    """Learning rate of these."""
    seed: int = 0
    """Of everything: weights, tasks, sampling."""
    out: Path = Path("runs/ladder_gra")
    """Run folder."""
    resume: bool = False
    """Go on in ``--out`` after its last checkpoint."""


def main(args: Args) -> None:
    """Imitate random valid moves for a moment, then reinforce what the method says was earned."""
    credit = methods.resolve(args.credit)
    with Run.open(args.out, "ladder_gra", asdict(args), args.resume) as run:
        if run.finished:
            print(f"{run.path} is finished; nothing to do")
            return
        start = time.monotonic()
        policy = new_policy(args, run.path / "untrained")
        trainer = Trainer(policy, lr=args.lr, max_tokens=4096, seed=args.seed)
        if checkpoint := run.rewind():
            restore(credit, torch.load(checkpoint / "credit.pt", weights_only=True))
            trainer.load(checkpoint / "trainer.safetensors")
        else:
            if run.resumed:
                print(f"{run.path} has no checkpoint; starting over")
            warm_up(args, policy)

        for update in track(range(trainer.n_updates, args.updates), "reinforcement"):
            groups = groups_of(play(batch(args, update), policy, [credit], seed=args.seed, on_end=run.add))
            metrics = assign([credit], groups)
            earned = advantage.rewards(groups, credit.label, outcome=float(not credit.includes_outcome))
            advantage.write(groups, advantage.turn_rtg(earned, args.gamma))
            metrics |= trainer.update(rows(e for group in groups for e in group)) | credit.fit(groups)
            run.write_credit(credit.label, groups, {"method": args.credit})
            run.log(measure([e for group in groups for e in group]) | metrics, update)
            if update % 5 == 4:
                run.checkpoint(update, partial(save, trainer, credit))

        for part in (policy.model, policy.tokenizer):
            part.save_pretrained(run.path / "model")
        played = play(batch(args, 0, split="test"), policy, seed=args.seed, on_end=run.add)
        summary = measure(played) | {"credit": args.credit, "seed": args.seed, "seconds": time.monotonic() - start}
        run.finish(summary)
        plot.plot(run.path, metric="outcome/success")
        print("  ".join(f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in summary.items()))


def save(trainer: Trainer, credit: Credit, folder: Path) -> None:
    """Write what a resumed run needs to go on as if never stopped."""
    trainer.save(folder / "trainer.safetensors")
    torch.save(saved(credit), folder / "credit.pt")


def new_policy(args: Args, folder: Path) -> LocalPolicy:
    """Return an untrained model of a hundred thousand parameters whose words are those of the environment."""
    texts = [
        str(message["content"])
        for episode in play(batch(args, 0), RandomPolicy(), seed=args.seed)
        for message in episode.view(len(episode.turns))
    ]
    tiny.build(folder, texts, args.seed, hidden_size=48, intermediate_size=128, num_hidden_layers=2)
    return LocalPolicy(*models.load(folder), temperature=1.0, max_new_tokens=4)


def warm_up(args: Args, policy: LocalPolicy) -> None:
    """Teach the words: imitate random valid moves."""
    trainer = Trainer(policy, lr=args.warmup_lr, max_tokens=4096, seed=args.seed)
    for update in track(range(args.warmup_updates), "warm-up"):
        episodes = play(batch(args, update, attempts=2), RandomPolicy(), seed=args.seed)
        for episode in episodes:
            policy.encode(episode)
        trainer.clone(rows(episodes))


def batch(args: Args, update: int, split: str = "train", attempts: int | None = None) -> list[Task]:
    """Return the tasks of an update: ``groups`` times ``group`` attempts, or so many."""
    kwargs = {} if split == "train" else {"split": split}
    return [
        Task(
            args.env,
            kwargs,
            split=split,
            seed=stable_seed(args.seed, split, update, n) % 2**31,
            group=f"{split}:{update}:{n}",
            attempt=attempt,
        )
        for n in range(args.groups)
        for attempt in range(attempts or args.group)
    ]


def rows(episodes: Iterable[Episode]) -> list[Sample]:
    """Return the rows to train on."""
    return [sample for episode in episodes for sample in to_samples(episode)]


def measure(episodes: Sequence[Episode]) -> dict[str, Any]:
    """Return the share of wins, and what each component of the reward came to in an episode."""
    ended = [e for e in episodes if e.success is not None]
    sums: dict[str, float] = {}
    for turn in (turn for episode in ended for turn in episode.turns):
        for name, value in turn.info.get("reward_components", {}).items():
            sums[name] = sums.get(name, 0.0) + value
    return {
        "outcome/success": sum(bool(e.success) for e in ended) / max(1, len(ended)),
        "episode/turns": sum(len(e.turns) for e in ended) / max(1, len(ended)),
    } | {f"earned/{name}": value / len(ended) for name, value in sums.items()}


if __name__ == "__main__":
    main(parse(Args))
