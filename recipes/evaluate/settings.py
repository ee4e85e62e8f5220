"""How an evaluation is played: the settings of ``evaluate`` and the flags of ``milepost eval``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from milepost.envs.make import env_ids
from milepost.envs.names import did_you_mean
from milepost.recipes.console import read_option
from milepost.recipes.evaluate.panel import Entry, Panel, checked, whole
from milepost.recipes.evaluate.panel_file import panel_names, read_panel, read_seeds


@dataclass(kw_only=True)
class Settings:
    """What may be said about an evaluation beside its tasks and its agent."""

    option: Annotated[list[str], tyro.conf.UseAppendAction] = field(default_factory=list)
    """An option of the environments as ``name=value``; may be given several times."""
    split: str = "test"
    """Which of the environments' tasks."""
    episodes: int | None = None
    """Only the first so many tasks (seeds, where an environment has no list); of each entry of a panel."""
    attempts: int | None = None
    """How often each task is played; pass^k needs several."""
    seeds: str | None = None
    """Play these seeds, such as ``0-9,20``, instead of the list of tasks."""
    tasks: str | None = None
    """Play these tasks alone: ids, separated by commas."""
    max_turns: int | None = None
    """Turn limit of an episode; by default the environment's own."""
    timeout_s: float | None = None
    """Wall time of an episode, looked at between two turns."""
    concurrency: int = 16
    """Episodes that are played at the same time."""
    env_threads: int = 8
    """Threads that environments step in; more help where their steps wait for something."""
    max_cost: float | None = None
    """Stop when so much is spent, in the currency of the prices; what is finished is kept."""
    credit: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """What turns earn: methods of ``milepost credit list`` or ``module:Class``, separated by commas."""
    credit_option: Annotated[list[str], tyro.conf.UseAppendAction] = field(default_factory=list)
    """An option of one of these methods as ``method.name=value``; may be given several times."""
    scaffold: str | None = None
    """How the agent is asked: ``act``, ``react`` or ``tools``."""
    context: str | None = None
    """What the agent is shown of a long episode: ``last:8`` turns, or ``tokens:4000``; all of it without."""
    base_url: str | None = None
    """Where the endpoint of ``openai:MODEL`` is, up to ``/v1``; the key comes from OPENAI_API_KEY."""
    prices: Path | None = None
    """TOML file of what models cost, per million tokens."""
    per_minute: int | None = None
    """Requests per minute that the endpoint is asked at most."""
    temperature: float | None = None
    """Of sampling; by default the endpoint's own, and 0 for a local model."""
    max_tokens: int | None = None
    """Most tokens of one answer."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where a local model runs."""
    seed: int = 0
    """Of the tasks' randomness and of each request's seed."""
    out: Path | None = None
    """Run folder; by default ``runs/eval-AGENT-TIME``."""
    resume: bool = False
    """Go on in ``--out``: play only what is missing, failed or was cancelled."""

    def checked(self) -> Settings:
        """Return the settings as they are used.

        Raises:
            ValueError: A number is out of range, or there is nothing to resume.
        """
        least = ("episodes", "attempts", "max_turns", "concurrency", "env_threads", "per_minute", "max_tokens")
        for name in least:
            if (number := getattr(self, name)) is not None and number < 1:
                raise ValueError(f"{_flag(name)}: expected 1 or more, got {number}")
        for name in ("timeout_s", "max_cost"):
            if (amount := getattr(self, name)) is not None and not amount > 0:
                raise ValueError(f"{_flag(name)}: expected more than 0, got {amount:g}")
        if self.temperature is not None and not self.temperature >= 0:
            raise ValueError(f"--temperature: expected 0 or more, got {self.temperature:g}")
        if self.resume and self.out is None:
            raise ValueError("--resume needs --out DIR: which run to go on with")
        texts = (self.credit,) if isinstance(self.credit, str) else self.credit
        names = [name.strip() for text in texts for name in text.split(",") if name.strip()]
        out, prices = (None if path is None else Path(path) for path in (self.out, self.prices))
        return replace(self, credit=tuple(dict.fromkeys(names)), out=out, prices=prices)


def settings_of(said: dict[str, Any]) -> Settings:
    """Return settings from keyword arguments.

    Raises:
        ValueError: There is no such setting, or a number is out of range.
    """
    known = [f.name for f in fields(Settings)]
    for name in said:
        if name not in known:
            raise ValueError(f"evaluate: no setting {name!r}{did_you_mean(name, known)}; there are: {', '.join(known)}")
    return Settings(**said)


def panel_of(what: str | Panel | Sequence[str], settings: Settings) -> Panel:
    """Return what is to be played: a panel, shipped or of a file, or environments by id, as a panel of their own.

    Raises:
        ValueError: There is no such panel or environment, or a flag contradicts what the panel pins.
    """
    if isinstance(what, Panel):
        return _limited(whole(what, f"panel {what.name}"), settings)
    words = [what] if isinstance(what, str) else list(what)
    if not words:
        raise ValueError(f"expected tasks: the id of an environment, or a panel: {', '.join(panel_names())}")
    panels = [word for word in words if word.endswith(".toml") or word in panel_names()]
    if panels and len(words) > 1:
        raise ValueError(f"a panel is played alone, got {' '.join(words)}")
    if panels:
        return _limited(read_panel(panels[0]), settings)
    for word in words:
        if "/" not in word and ":" not in word:
            known = [*panel_names(), *env_ids()]
            short = [name for name in env_ids() if word.lower() in name.lower()]
            guess = f" (did you mean {short[0]!r}?)" if short else did_you_mean(word, known)
            raise ValueError(f"no panel or environment {word!r}{guess}; there are: {', '.join(known)}")
    entries = tuple(_entry(word, settings) for word in words)
    return whole(Panel(name=" ".join(words), entries=entries), "tasks")


def _entry(env: str, settings: Settings) -> Entry:
    name = env.rpartition(":")[2]
    entry = Entry(
        name=name,
        env=env,
        options=dict(read_option(text) for text in settings.option),
        split=settings.split,
        tasks=tuple(task.strip() for task in settings.tasks.split(",")) if settings.tasks else (),
        seeds=read_seeds(settings.seeds) if settings.seeds else (),
        episodes=settings.episodes,
        attempts=settings.attempts or 1,
        max_turns=settings.max_turns,
        timeout_s=settings.timeout_s,
    )
    return checked(entry, name)


def _limited(panel: Panel, settings: Settings) -> Panel:
    """Return the panel under limits that are said beside it; they are part of the digest."""
    for name in ("option", "seeds", "tasks"):
        if getattr(settings, name):
            raise ValueError(f"{_flag(name)}: the panel {panel.name} says which tasks are played, and how")
    if settings.split != "test":
        raise ValueError(f"--split: the panel {panel.name} says which tasks are played, and how")
    said = {name: getattr(settings, name) for name in ("attempts", "max_turns", "timeout_s")}
    said = {name: value for name, value in said.items() if value is not None}
    entries = [replace(checked(entry, f"panel {panel.name}, entry {entry.name}"), **said) for entry in panel.entries]
    return replace(panel, entries=tuple(entries))


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"
