"""Play what a run folder does not have yet, record it, count it."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from milepost.agents.core import Policy
from milepost.agents.driver import stream
from milepost.credit.core import Credit
from milepost.envs.core import Episode, Stop, Task
from milepost.envs.files import write_json
from milepost.envs.runs import Run
from milepost.recipes.evaluate import credits as credit_methods
from milepost.recipes.evaluate.agents import Agent, agent_of, name_of
from milepost.recipes.evaluate.live import Live, Watch
from milepost.recipes.evaluate.meter import BudgetSpent, Meter, metered
from milepost.recipes.evaluate.panel import Panel
from milepost.recipes.evaluate.results import UNPLAYED, Results, read_results
from milepost.recipes.evaluate.settings import Settings, panel_of, settings_of
from milepost.recipes.evaluate.tasks import entry_of, id_of, prepare, resolved, tasks_of, versions_of

RESULTS = "results.json"


def evaluate(
    tasks: str | Panel | Sequence[str],
    /,
    agent: str | Policy | Callable[..., Any],
    *,
    watch: Watch = "auto",
    **settings: Any,
) -> Results:
    """Play the tasks with the agent and return what it reached; every episode is on disk as soon as it ends.

    Args:
        tasks: A panel (its name, its TOML file, or a ``Panel``), or ids of environments.
        agent: ``oracle``, ``random``, ``openai:MODEL``, ``local:FOLDER``, ``module:function``, ``exec:COMMAND``, a
            policy, or a function of OpenAI-style messages and tools.
        watch: What standard error shows meanwhile: ``auto``, ``table``, ``lines`` or ``nothing``.
        settings: Fields of ``Settings``, such as ``out``, ``resume``, ``episodes``, ``concurrency``, ``max_cost``.

    Raises:
        ValueError: What the caller did wrong, in one line; nothing has been played then.
        KeyboardInterrupt: Ctrl-C; ``results.json`` counts what is finished, and ``resume`` goes on.
    """
    return Evaluation(tasks, agent, settings_of(settings)).play(watch)


class Evaluation:
    """A run that is planned: which tasks, which agent, which folder."""

    def __init__(self, tasks: str | Panel | Sequence[str], agent: Any, settings: Settings) -> None:
        self.settings = settings = settings.checked()
        self.agent_name = name_of(agent)
        self._agent = agent
        self.panel = resolved(panel_of(tasks, settings), settings.episodes)
        self.tasks = tasks_of(self.panel)
        self.entries = entry_of(self.tasks, self.panel, settings.seed)
        self.out = settings.out or _new_folder(self.agent_name)
        self.played = False
        """Whether the folder has anything to go on with."""

    def play(self, watch: Watch) -> Results:
        """Play what is missing and return what the whole run reached."""
        try:
            return self._opened(watch)
        finally:
            if self.settings.out is None and not self.played:
                shutil.rmtree(self.out, ignore_errors=True)  # a folder that nobody chose, and nothing in it

    def _opened(self, watch: Watch) -> Results:
        with Run.open(self.out, "evaluate", self._pinned(), resume=self.settings.resume) as run:
            try:
                before = read_results(run.path)
                todo = self._todo(before)
                self.played = bool(before.rows)
                if run.finished or not (todo or self.settings.credit):
                    return self._count(run, None)
                agent = agent_of(self._agent, self.settings)
            except BaseException:
                run.withdraw()
                raise
            with closing(agent):
                try:
                    credits = credit_methods.made(self.settings, agent, todo)
                    prepare(todo)
                    return self._play(run, agent, credits, todo, before, watch)
                except BaseException:
                    run.withdraw()
                    raise

    def _play(
        self, run: Run, agent: Agent, credits: Sequence[Credit], todo: list[Task], before: Results, watch: Watch
    ) -> Results:
        """Play and count; whatever ends it, ``results.json`` says what there is."""
        settings = self.settings
        meter = Meter(settings.max_cost, before.paid["cost"] or 0.0)
        stopped: str | None = None
        runtime: dict[str, Any] = {"agent": agent.name, "policy": agent.name}
        if settings.base_url:
            runtime["base_url"] = settings.base_url
        live = Live(self.panel, before, meter, len(todo), watch)

        def record(episode: Episode) -> None:
            unplayed = meter.unplayed(episode)
            if episode.stop is Stop.CANCELLED and not (episode.turns or unplayed):
                return  # nothing was seen and nothing paid
            episode.runtime |= runtime | {"entry": self.entries[episode.id]}
            if unplayed:
                episode.runtime[UNPLAYED] = list(unplayed)
            if asked := agent.scaffold_of(episode):
                episode.runtime["scaffold"] = asked
            run.add(episode, tokens=bool(credits))
            self.played = True
            live.ended(episode, self.entries[episode.id])

        playing = stream(
            _counted(todo, live),
            metered(agent.policy, meter),
            credits,
            gather=agent.gather,
            slots=min(settings.concurrency, max(1, len(todo))),
            seed=settings.seed,
            n_threads=settings.env_threads,
            first_must_fit=False,
            on_end=record,
        )
        try:
            with live, closing(playing):
                for _ in playing:
                    pass
        except BudgetSpent as spent:
            stopped = str(spent)
        except BaseException:
            self._count(run, None)
            raise
        credit_methods.write(run, credits)
        return self._count(run, stopped)

    def _count(self, run: Run, stopped: str | None) -> Results:
        results = read_results(run.path, stopped)
        if results.complete:
            run.finish(results.to_json(), RESULTS)
        elif self.played:
            write_json(run.path / RESULTS, results.to_json())
        return results

    def _todo(self, before: Results) -> list[Task]:
        """Return the tasks without an episode that counts."""
        done = {row.id for row in before.rows if row.counts}
        return [task for task in self.tasks if id_of(task, self.settings.seed) not in done]

    def _pinned(self) -> dict[str, Any]:
        """Return what must be the same for a run to go on."""
        settings = self.settings
        same = ("seed", "scaffold", "context", "max_tokens", "temperature")
        return {
            "panel": self.panel.to_json(),
            "versions": versions_of(self.panel),
            "agent": self.agent_name,
            "credit": list(settings.credit),
            "credit_option": list(settings.credit_option),
            **{name: getattr(settings, name) for name in same},
        }


def _counted(tasks: Sequence[Task], live: Live) -> Iterator[Task]:
    for task in tasks:
        live.begun()
        yield task


def _new_folder(agent: str) -> Path:
    """Return a folder that is not there yet, named after the agent and the time."""
    name = f"eval-{re.sub(r'[^A-Za-z0-9._-]+', '-', agent)[:40].strip('-.')}-{time.strftime('%Y%m%d-%H%M%S')}"
    taken = [f"-{n}" for n in range(2, 1000)]
    return next(path for end in ("", *taken) if not (path := Path("runs") / f"{name}{end}").exists())
