"""The stages of a training run: evaluate, train, probe, save; stop anywhere and go on to the same result."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from rich.console import Console

from milepost.agents import distributed
from milepost.agents.core import Policy
from milepost.agents.driver import play
from milepost.agents.local import models, tiny
from milepost.agents.local.merge import merged
from milepost.agents.local.policy import LocalPolicy
from milepost.agents.objective import Objective
from milepost.agents.progress import bar
from milepost.agents.trainer import Trainer
from milepost.credit.core import Credit, restore
from milepost.envs.core import Episode, Task
from milepost.envs.files import clear_when_full
from milepost.envs.runs import Run, read_run, write_json
from milepost.recipes.bounds import check_numbers
from milepost.recipes.estimate import paired
from milepost.recipes.games import Games, env_kwargs
from milepost.recipes.parts import check_credits, credit_options, credits_file, credits_of, read_states, states_of
from milepost.recipes.ranks import everyones, over_ranks
from milepost.recipes.report import plot, table
from milepost.recipes.report.stats import wilson
from milepost.recipes.usage import Usage, give_back

if TYPE_CHECKING:
    from milepost.recipes.textworld_guide import Args

SHARED = (
    *("env", "option", "level", "max_turns", "model", "dtype", "lora", "max_new_tokens", "max_context"),
    *("packages", "tasks", "max_lines"),
)
"""Settings that a run and the one it takes its warm-up from have in common."""
Step = Callable[["Guide", Trainer, int], dict[str, float]]
"""One update of a stage: number of the update in, metrics out."""


class Guide:
    """What the stages share, and how an interrupted run finds its place again.

    Every rank plays its share of the groups and appends its episodes; rank 0 logs and saves. A checkpoint holds the
    trainer, the states of the credit methods, and ``done``: what every finished stage reached.

    What is particular to a recipe is overridden: its name, the environment's options, how credit methods are set, what
    is measured of test episodes beside success, and which metric its curve shows.
    """

    recipe: ClassVar[str] = "textworld_guide"
    metric: ClassVar[str | None] = None

    def __init__(self, args: Args) -> None:
        self.args, self.usage = args, Usage()
        self.run = self._open()
        self.done: dict[str, Any] = {}
        """Evaluations by name (as ``table.Stage`` has them), and the number of train steps of finished trainings."""
        self.trainer: Trainer | None = None
        self.training = ""
        """The stage that ``trainer`` belongs to."""
        self.n_saves = 0
        self.n_ended = self.n_raised = 0
        """Episodes so far, and those that an exception of their environment ended."""
        if self.run.finished:
            return
        try:
            self._prepare()
        except BaseException:
            self.run.withdraw()
            raise

    def env_kwargs(self) -> dict[str, Any]:
        """Return the environment's options; those of ``--option`` come on top."""
        return env_kwargs(self.args)

    def credit_options(self) -> dict[str, dict[str, Any]]:
        """Return the recipe's own options of credit methods, by name; those of ``--credit-option`` come on top."""
        return {}

    def compile(self) -> None:
        """Have ready what the games need, once on a machine."""
        self.games.compile()

    def measure(self, episodes: Sequence[Episode]) -> dict[str, float]:
        """Return what is told of test episodes beside success."""
        return {}

    def _prepare(self) -> None:
        check_numbers(self.args)
        self.estimator, names = paired(self.args.estimator, self.args.credit)
        self.credit_settings = credit_options(self.args.credit_option, names, self.credit_options())
        check_credits(names, self.credit_settings)
        self.credit_names = names
        self.credits: list[Credit] = []
        """Methods are made when RL begins, as models of their own begin as the policy is then."""
        self.games = Games(self.args, self.env_kwargs())
        with self.usage.timed("games"):
            if self.rank == 0:
                self.compile()
            distributed.barrier()
        self.missing = self.games.missing(names)
        """Stage to what the environment does not have and the stage needs."""
        self.policy = self._policy()
        self._restore()

    def __enter__(self) -> Guide:
        return self

    def __exit__(self, *error: object) -> None:
        self.run.close()

    def evaluate(self, stage: str, policy: Policy, first: int | None = None) -> None:
        """Play every test game once, the model greedily, and note what was solved."""
        if stage in self.done:
            return
        if stage in self.missing:
            self.say(f"{stage}: left out, as {self.args.env} has no {self.missing[stage]}")
            return
        with self.usage.timed(f"{stage}_games"):
            tasks = self.games.tasks(self.games.of["test"][:first], f"test/{stage}", split="test")
            episodes = self.play(tasks, policy, title=f"{stage}, on games never trained on", greedy=True, stage=stage)
        result = table.stage(stage, played := everyones(episodes))
        result.measured = self.measure(played)
        self.done[stage] = asdict(result)
        self.say(f"{stage}: {result.wins} of {result.games} games")
        self._keep_warmup(self.save())

    def train(self, stage: str, step: Step, n_updates: int) -> None:
        """Take the train steps of a stage that are not yet taken; a point of the curve now and then."""
        if f"{stage} updates" in self.done:
            return
        args = self.args
        trainer = self._trainer(stage)
        self._begin_credits(stage)
        first = sum(n for key, n in self.done.items() if key.endswith(" updates"))
        todo = range(trainer.n_updates, n_updates)
        with self.usage.timed(stage), bar(self._title(stage), todo, "updates") as tick:
            for update in todo:
                if update == 0 and (first == 0 or args.warmup_of):  # else the stage before ended with a probe
                    self.probe(first)
                start = time.monotonic()
                metrics = step(self, trainer, update)
                give_back()
                self.run.log(over_ranks(metrics) | {"time/update_s": time.monotonic() - start}, first + update)
                if (update + 1) % args.probe_every == 0 or update + 1 == n_updates:
                    self.probe(first + update + 1)
                if (update + 1) % args.save_every == 0 and update + 1 < n_updates:
                    self.save()
                tick()
        self.done[f"{stage} updates"] = n_updates
        self.save()

    def probe(self, update: int) -> None:
        """Play the fixed validation games greedily: a point of the curve."""
        tasks = self.games.tasks(self.games.of["valid"], f"probe/{update}", split="valid")
        result = table.stage("probe", everyones(self.play(tasks, self.policy, greedy=True, stage="probe")))
        low, high = wilson(result.wins, result.games)
        share = result.wins / max(1, result.games)
        self.run.log({"probe/success": share, "probe/low": low, "probe/high": high, "probe/n": result.games}, update)

    def batch(self, purpose: str, update: int, n_games: int, attempts: int) -> list[Task]:
        """Return the tasks of an update: games in an order drawn anew each epoch, several attempts at each."""
        return self.games.batch(purpose, update, n_games, attempts)

    def play(
        self,
        tasks: Sequence[Task],
        policy: Policy,
        credits: Sequence[Credit] = (),
        *,
        title: str | None = None,
        greedy: bool = False,
        stage: str = "",
    ) -> list[Episode]:
        """Play this rank's share of the groups and record the episodes."""
        groups = distributed.share(sorted({task.group for task in tasks}))
        mine = [task for task in tasks if task.group in groups]

        def record(episode: Episode) -> None:
            if stage:
                episode.runtime["policy"] = stage
            self.run.add(episode, tokens=not greedy)
            self.n_ended += 1
            self.n_raised += "raised" in episode.runtime
            if self.n_ended % 8 == 0:  # each takes a core for a third of a second
                give_back()

        before, self.policy.temperature = self.policy.temperature, 0.0 if greedy else 1.0
        try:
            episodes = play(
                mine, policy, credits, slots=16, seed=self.args.seed, on_end=record, progress=self._title(title)
            )
        finally:
            self.policy.temperature = before
            give_back()
        raised, ended = self.n_raised, self.n_ended
        if raised == ended >= 3 or (ended >= 20 and raised > 0.05 * ended):
            last = next((e for e in reversed(episodes) if "raised" in e.runtime), None)
            told = f"; the last, {last.id}: {(last.failure or '').splitlines()[-1]}" if last else ""
            raise ValueError(f"{raised} of {ended} episodes ended by an exception in {self.args.env}{told}")
        return episodes

    def keep(self, groups: Sequence[Sequence[Episode]]) -> None:
        """Write what was assigned after play beside the episodes."""
        for label in [c.label for c in self.credits if not c.live] + ["advantage"]:
            self.run.write_credit(label, groups, {"settings": self.args.credit, "estimator": self.estimator})

    def save(self) -> Path:
        """Write a checkpoint: from here a resumed run goes on."""
        self.n_saves += 1
        state = {
            "done": self.done,
            "training": self.training,
            "seconds": self.usage.seconds,
            "peak": self.usage.peak_rss_bytes,
        }

        credits_of_ranks = distributed.gather(states_of(self.credits, self.rank))

        def write(folder: Path) -> None:
            write_json(folder / "state.json", state)
            for rank, states in enumerate(credits_of_ranks):
                torch.save(states, folder / credits_file(rank))
            if self.trainer is not None:
                self.trainer.save(folder / "trainer.safetensors")

        distributed.barrier()
        folder = self.run.checkpoint(self.n_saves, write)
        distributed.barrier()
        return folder

    def finish(self) -> None:
        """Write the model, the summary, the curve, and show the table."""
        if self.rank:
            return
        stages = [table.Stage(**value) for key, value in self.done.items() if not key.endswith(" updates")]
        gain = table.compare(*(table.Stage(**self.done[name]) for name in ("warmup", "trained")))
        with models.quiet(), clear_when_full(self.run.path / "model"):
            for part in (merged(self.policy.model), self.policy.tokenizer):
                part.save_pretrained(self.run.path / "model")
        curve = plot.plot(self.run.path, metric=self.metric)
        write_json(self.run.path / "stages.json", self.done)
        self.run.finish(
            {
                "games": len(self.games.of["test"]),
                "success": {s.policy: s.wins / max(1, s.games) for s in stages},
                "stages": {s.policy: s.to_json() for s in stages},
                "gain": gain and asdict(gain),
                "paired_p": gain and gain.p,
                "seconds": {name: round(seconds, 1) for name, seconds in self.usage.seconds.items()},
                "peak_rss_bytes": self.usage.peak_rss_bytes,
                "seed": self.args.seed,
                "estimator": self.estimator,
                "settings": self.run.info.settings,
                "versions": self.run.info.versions,
            }
        )
        self.say(f"curve: {curve}    model: {self.run.path / 'model'}")
        Console().print(table.table(stages, against="warmup", title=str(self.run.path)))

    def say(self, line: str) -> None:
        """Tell whoever watches, once."""
        if self.rank == 0:
            print(line, flush=True)

    # --- below: how the above finds its parts

    def _open(self) -> Run:
        """Open the run folder: rank 0 first, which cuts it back to its checkpoint, then the others."""
        self.rank = distributed.rank()
        for _ in range(self.rank):
            distributed.barrier()
        run = Run.open(self.args.out, self.recipe, plain(self.args), resume=self.args.resume, rank=self.rank)
        if not run.finished and run.rewind() is None and self.args.resume:
            self.say(f"{self.args.out} has no checkpoint; starting over")
        for _ in range(self.rank, distributed.world()):
            distributed.barrier()
        return run

    def _policy(self) -> LocalPolicy:
        args = self.args
        if not args.lora and args.dtype == "bf16":
            raise ValueError("--lora 0 trains the weights themselves, too coarse in bf16: give --dtype fp32")
        with self.usage.timed("model"):
            if args.model == "smollm2" and self.rank == 0:
                models.smollm2()
            distributed.barrier()
            with models.quiet(), tempfile.TemporaryDirectory() as folder:
                if args.model == "tiny" and self.rank == 0:
                    with clear_when_full(Path(folder)):
                        tiny.build(folder)
                name = distributed.gather(folder)[0] if args.model == "tiny" else args.model
                model, tokenizer = models.load(
                    name, device=args.device, dtype=args.dtype, lora=args.lora, seed=args.seed
                )
                distributed.barrier()
        return LocalPolicy(model, tokenizer, max_new_tokens=args.max_new_tokens, max_context=args.max_context)

    def _trainer(self, stage: str) -> Trainer:
        """Return the trainer of a stage: the one that was restored, or a new one on the present weights."""
        if self.trainer is None or self.training != stage:
            objective = Objective(importance_cap=2.0, constant=self.args.loss_constant)
            self.trainer = Trainer(
                self.policy,
                seed=self.args.seed,
                warmup_updates=3,
                objective=objective,
                **self._settings(stage),
            )
            self.training = stage
        return self.trainer

    def _restore(self) -> None:
        """Take over this run's checkpoint, or what ``--warmup-of`` names: another run's state after its warm-up."""
        checkpoint = self.run.latest_checkpoint()
        folder = checkpoint or (self.args.warmup_of and self.args.warmup_of / "warmup")
        if folder is None:
            return
        if not checkpoint:
            check_warmup_of(self.args)
        try:
            state = json.loads((folder / "state.json").read_text())
            states = read_states(folder, self.rank)
        except (OSError, EOFError, RuntimeError, ValueError, UnpicklingError) as error:
            raise ValueError(f"{folder} is not a whole checkpoint: {error}") from error
        self.done, training = state["done"], state["training"]
        if checkpoint:
            self.n_saves = int(checkpoint.name)
            self.usage.seconds, self.usage.peak_rss_bytes = state["seconds"], state["peak"]
        if training:
            self._trainer(training).load(folder / "trainer.safetensors")
        if checkpoint and states:
            self._begin_credits(training)
            for method, its in zip(self.credits, states, strict=True):
                restore(method, its)
        if checkpoint:
            self._keep_warmup(checkpoint)

    def _keep_warmup(self, checkpoint: Path) -> None:
        """Copy the checkpoint behind the evaluated warm-up to where ``--warmup-of`` finds it, all of it or nothing."""
        target, half = self.run.path / "warmup", self.run.path / ".warmup"
        if self.rank or self.training != "warmup" or "warmup" not in self.done or target.exists():
            return
        with clear_when_full(target):
            shutil.rmtree(half, ignore_errors=True)
            shutil.copytree(checkpoint, half)
            half.rename(target)

    def _begin_credits(self, stage: str) -> None:
        if stage == "trained" and self.args.after == "rl" and not self.credits:
            a = self.args
            options = self.credit_settings
            self.credits = credits_of(
                self.credit_names, self.policy, seed=a.seed, lr=a.credit_lr, gamma=a.gamma, options=options
            )

    def _settings(self, stage: str) -> dict[str, Any]:
        """Return how a stage's trainer is set."""
        args = self.args
        if stage == "warmup" or args.after == "cloning":
            n = args.warmup_updates if stage == "warmup" else args.updates
            return {"lr": args.warmup_lr, "total_updates": n, "max_tokens": 512}  # all layers: a row at a time
        layers = min(args.rl_layers, self.policy.model.config.num_hidden_layers)
        return {"lr": args.lr, "total_updates": args.updates, "top_layers": layers or None, "max_tokens": 640}

    def _title(self, title: str | None) -> str | None:
        return title if self.rank == 0 else None


def check_warmup_of(args: Args) -> None:
    """Refuse a ``--warmup-of`` whose warm-up this run cannot go on from, or whose games it could not be compared on."""
    assert args.warmup_of is not None
    if not (args.warmup_of / "warmup" / "state.json").exists():
        raise ValueError(
            f"--warmup-of {args.warmup_of}: expected a run folder of this recipe that finished its warm-up"
        )
    theirs, ours = read_run(args.warmup_of).settings, plain(args)
    if changed := [key for key in SHARED if theirs.get(key) != ours.get(key)]:
        pairs = [(key, *(repr(its[key]) if key in its else "not set" for its in (theirs, ours))) for key in changed]
        told = "; ".join(f"{key} is {there} there, {here} here" for key, there, here in pairs)
        raise ValueError(f"--warmup-of {args.warmup_of} was run with other settings: {told}")


def plain(args: Args) -> dict[str, Any]:
    """Return the settings that make two runs the same, as ``run.json`` has them."""
    told = {key: value for key, value in asdict(args).items() if key != "device"}
    return dict(json.loads(json.dumps(told, default=str)))
