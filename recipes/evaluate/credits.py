"""The credit methods of an evaluation: asked during play, or about all attempts at a task after it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing

from milepost.credit import methods
from milepost.credit.core import Credit, assign
from milepost.envs.core import INFO_KEYS, Task, groups_of
from milepost.envs.make import make
from milepost.envs.runs import Run, read_newest
from milepost.recipes.evaluate.agents import Agent
from milepost.recipes.evaluate.settings import Settings
from milepost.recipes.parts import PARTS, SETTINGS, check_credits, credit_options, credits_of


def made(settings: Settings, agent: Agent, tasks: Sequence[Task]) -> list[Credit]:
    """Return the methods, each with what it needs.

    Raises:
        ValueError: An unknown method, an option that cannot be, a method that needs a model in this process where the
            agent is none, or something that an environment's reset does not give.
    """
    names = settings.credit
    options = credit_options(settings.credit_option, names)
    check_credits(names, options)
    for name in names:
        needs = sorted(methods.find(name).needs & set(PARTS))
        if needs and agent.local is None:
            what = " and ".join(need.replace("_", " ") for need in needs)
            raise ValueError(f"--credit {name} needs a {what}, made of a model in this process; {agent.name} is none")
    _look(names, tasks)
    if agent.local is not None:
        return credits_of(names, agent.local, seed=settings.seed, lr=1e-4, gamma=1.0, options=options)
    return [methods.resolve(name, **{**SETTINGS.get(name, {}), **options.get(name, {})}) for name in names]


def write(run: Run, credits: Sequence[Credit]) -> None:
    """Ask the methods that judge after play about every group of the run, and write their files anew."""
    late = [credit for credit in credits if not credit.live]
    if not late:
        return
    for file in run.path.glob("credit/*.jsonl"):
        file.unlink()
    groups = groups_of(read_newest(run.path))
    assign(late, groups)
    for credit in late:
        run.write_credit(credit.label, groups, {"method": credit.name, "version": credit.version})


def _look(names: Sequence[str], tasks: Sequence[Task]) -> None:
    """Refuse a method whose needs the reset of an environment does not answer, before anything is played."""
    needed = {need: name for name in names for need in methods.find(name).needs}
    needed = {need: name for need, name in needed.items() if need in INFO_KEYS and "reset" in INFO_KEYS[need].at}
    seen: set[str] = set()
    for task in tasks if needed else ():
        if task.env_id in seen:
            continue
        seen.add(task.env_id)
        with closing(make(task.env_id, **task.env_kwargs)) as env:
            _, info = env.reset(seed=task.seed, options={"task": task.task} if task.task else None)
        for need, name in needed.items():
            if need not in info:
                raise ValueError(f"--credit {name} needs info[{need!r}] from reset; {task.env_id} gave none")
