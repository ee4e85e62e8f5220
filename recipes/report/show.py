"""A run in the terminal: what it was and reached, and any of its episodes turn by turn with what each turn earned."""

from __future__ import annotations

import json
import unicodedata
from collections import deque
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.padding import Padding
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from milepost.envs import codec
from milepost.envs.core import Episode, Observation, Turn, Value
from milepost.envs.runs import read_metrics, read_newest, read_run
from milepost.recipes.report.table import stages_of, table

N_LISTED = 20
"""So many of the newest episodes are listed; ``--json`` lists them all."""


def show(
    run: str | Path,
    episode: int | None = None,
    as_json: bool = False,
    console: Console | None = None,
) -> None:
    """Print a run, or its episode number ``episode`` (from 0; a negative one counts from the end).

    Raises:
        ValueError: There is no such run or episode.
    """
    console = console or Console(highlight=False, markup=False, emoji=False)
    path = Path(run)
    if episode is not None:
        number, found = _find(path, episode)
        if as_json:
            console.file.write(json.dumps({"number": number} | codec.to_json(found), indent=2) + "\n")
        else:
            _transcript(console, number, found)
    elif as_json:
        _as_json(console, path)
    else:
        _overview(console, path)


def earned(turn: Turn) -> str:
    """Return what a turn earned in one line: reward, credit by label, advantage; a dash was never judged."""
    parts = [f"reward {_number(turn.reward)}"] if turn.reward else []
    parts += [f"{clean(label)} {_number(value)}" for label, value in turn.credit.items()]
    if turn.advantage is not None:
        parts.append(f"advantage {_number(turn.advantage)}")
    if turn.info.get("valid") is False:
        parts.append("not executed")
    return "   ".join(parts)


def clean(text: str) -> str:
    """Return text that cannot command a terminal: control characters and lone surrogates as escapes."""
    return "".join(c if c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cf", "Cs") else _escape(c) for c in text)


def _transcript(console: Console, number: int, episode: Episode) -> None:
    facts = {
        "task": episode.task,
        "seed": episode.seed,
        "split": episode.split,
        "group": episode.group,
        "attempt": episode.attempt,
        "parent": episode.parent,
        "policy": episode.runtime.get("policy"),
    }
    console.print(Text(f"episode {number}: {clean(episode.id)}  {clean(episode.env_id)}", style="bold"))
    console.print(Text(clean("  ".join(f"{k} {v}" for k, v in facts.items() if v not in (None, ""))), style="dim"))
    texts = episode.instructions if isinstance(episode.instructions, dict) else {"": episode.instructions}
    for agent, text in texts.items():
        if text:
            console.print(Rule(clean(f"instructions {agent}".strip()), align="left", style="dim"))
            console.print(Text(clean(text)))
    scaffold = episode.runtime.get("scaffold") or {}
    if scaffold.get("text"):
        console.print(Rule(clean(f"scaffold {scaffold.get('name')}"), align="left", style="dim"))
        console.print(Text(clean(str(scaffold["text"]))))
    several = len(episode.agents) > 1
    for t, turn in enumerate(episode.turns):
        who = f" {clean(turn.agent)}" if several else ""
        console.print(Rule(f"turn {t}{who}", align="left", style="dim"))
        console.print(Text(_shown(turn.observation)))
        if turn.view is not None:
            console.print(Padding(Text(clean(_seen(turn.view)), style="dim"), (0, 0, 0, 2)))
        action = turn.action
        if action.reasoning:
            console.print(Padding(Text(clean(action.reasoning), style="dim italic"), (0, 0, 0, 2)))
        if action.text or not action.calls:
            console.print(Text(f"> {clean(action.text)}", style="bold cyan"))
        for call in action.calls:
            console.print(Text(clean(f"> {call.name} {call.arguments}  [call {call.id}]"), style="bold cyan"))
        if action.move not in (action.text, None) and not action.calls:
            console.print(Padding(Text(f"move: {clean(str(action.move))}", style="cyan"), (0, 0, 0, 2)))
        if line := earned(turn):
            console.print(Padding(Text(line, style="yellow"), (0, 0, 0, 2)))
    console.print(Rule("end", align="left", style="dim"))
    if episode.last is not None:
        console.print(Text(_shown(episode.last)))
    console.print(Text(_ending(episode), style="bold"))
    if episode.failure:
        console.print(Text(clean(episode.failure), style="red"))


def _overview(console: Console, path: Path) -> None:
    info = read_run(path)
    console.print(Text(f"{path}: {info.kind}, {info.status}", style="bold"))
    said = {key: _setting(value) for key, value in info.settings.items()}
    console.print(Text(clean("  ".join(f"{key}={text}" for key, text in said.items() if text)), style="dim"))
    if rows := read_metrics(path):
        console.print(Text(f"{len(rows)} rows of metrics, the newest of update {rows[-1]['update']}"))
    newest: deque[tuple[int, Episode]] = deque(maxlen=N_LISTED)

    def passing() -> Iterator[Episode]:
        for numbered in _episodes(path):
            newest.append(numbered)
            yield numbered[1]

    if stages := stages_of(passing()):
        console.print(table(stages, "warmup" if any(s.policy == "warmup" for s in stages) else None))
    if not newest:
        console.print(Text("no episodes yet"))
        return
    n_episodes = newest[-1][0] + 1
    drawn = Table(title=f"the newest {len(newest)} of {n_episodes} episodes (--episode N shows one)")
    for name in ("N", "task", "policy", "end", "outcome", "turns", "earned in sum"):
        drawn.add_column(name, justify="right" if name in ("N", "outcome", "turns") else "left")
    for number, episode in newest:
        row = summary(number, episode)
        task = row["task"] if row["task"] is not None else f"seed {row['seed']}"
        sums = "  ".join(f"{clean(label)} {_number(value)}" for label, value in row["credit"].items())
        cells = [str(number), task, row["policy"] or row["split"], row["stop"], _result(row["outcome"])]
        drawn.add_row(*(Text(clean(str(cell))) for cell in (*cells, row["turns"], sums)))
    console.print(drawn)


def _as_json(console: Console, path: Path) -> None:
    """Write the run's description, summary and list of episodes as one document."""
    info, rows = read_run(path), read_metrics(path)
    kept = path / ("results.json" if info.kind == "evaluate" else "summary.json")
    document: dict[str, Any] = {
        "run": str(path),
        **asdict(info),
        "summary": json.loads(kept.read_bytes()) if kept.exists() else None,
        "last_metrics": codec.pack(rows[-1]) if rows else None,
        "episodes": [codec.pack(summary(number, episode)) for number, episode in _episodes(path)],
    }
    console.file.write(json.dumps(document, indent=2) + "\n")


def _episodes(path: Path) -> Iterator[tuple[int, Episode]]:
    return enumerate(read_newest(path, images=False))


def _find(path: Path, number: int) -> tuple[int, Episode]:
    n_episodes = 0
    tail: deque[tuple[int, Episode]] = deque(maxlen=max(1, -number))
    for place, episode in _episodes(path):
        n_episodes += 1
        if place == number:
            return place, episode
        tail.append((place, episode))
    if number < 0 and len(tail) == -number:
        return tail[0]
    if not n_episodes:
        raise ValueError(f"{path} has no episodes yet")
    raise ValueError(f"{path} has {n_episodes} episodes: expected a number of 0..{n_episodes - 1}, got {number}")


def summary(number: int, episode: Episode) -> dict[str, Any]:
    """Return an episode in a line of a list: what it was, how it ended, what its turns earned by label."""
    labels = dict.fromkeys(label for turn in episode.turns for label in turn.credit)
    values = {label: [v for t in episode.turns if (v := t.credit.get(label)) is not None] for label in labels}
    return {
        "number": number,
        "id": episode.id,
        "env_id": episode.env_id,
        "task": episode.task,
        "seed": episode.seed,
        "split": episode.split,
        "policy": episode.runtime.get("policy"),
        "stop": None if episode.stop is None else str(episode.stop),
        "outcome": _outcome(episode),
        "turns": len(episode.turns),
        "credit": {label: float(sum(np.sum(v) for v in row)) if row else None for label, row in values.items()},
    }


def _outcome(episode: Episode) -> Any:
    if len(episode.agents) > 1:
        return {agent: episode.part(agent).outcome for agent in episode.agents}
    return _whole(episode).outcome


def _whole(episode: Episode) -> Episode:
    """Return the episode as its only agent's, whose outcome may be one of several."""
    return episode.part(episode.agents[0]) if episode.agents else episode


def _ending(episode: Episode) -> str:
    end = "not ended" if episode.stop is None else str(episode.stop)
    success = None if len(episode.agents) > 1 else _whole(episode).success
    solved = {True: ", solved", False: ", not solved", None: ""}[success]
    return f"{end}, outcome {_result(_outcome(episode))}{solved}, {len(episode.turns)} turns"


def _result(outcome: Any) -> str:
    if isinstance(outcome, dict):
        return "  ".join(f"{clean(agent)} {_result(value)}" for agent, value in outcome.items())
    return "-" if outcome is None else f"{outcome:.3g}"


def _setting(value: Any) -> str:
    """Return a setting in a word or two; empty where nothing was said. A panel is its name."""
    if isinstance(value, dict):
        return str(value["name"]) if "name" in value else ", ".join(f"{k} {v}" for k, v in value.items())
    return "" if value in (None, [], "") else str(value)


def _seen(view: dict[str, Any]) -> str:
    """Return what of the history the agent was shown."""
    turns = [f"{first}-{end - 1}" if end - first > 1 else str(first) for first, end in view["turns"] if end > first]
    summary = f"; {view['summary']}" if view.get("summary") else ""
    return f"of the turns before, shown: {', '.join(turns) or 'none'}{summary}"


def _shown(observation: Observation) -> str:
    if isinstance(observation, str):
        return clean(observation)
    lines = [f"[result of {r.get('id')}] {r.get('text', '')}" for r in observation.get("results", ())]
    lines += [observation["text"]] if "text" in observation else []
    lines += [f"[picture {image.get('$image')}]" for image in observation.get("images", ()) if isinstance(image, dict)]
    return clean("\n".join(lines))


def _number(value: Value) -> str:
    if value is None:
        return "-"
    if isinstance(value, np.ndarray):
        return f"{np.sum(value):+.3g} over {len(value)} tokens"
    return f"{value:+.3g}"


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode() if ord(character) < 0xD800 else f"\\u{ord(character):04x}"
