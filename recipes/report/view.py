"""The command ``milepost view``: a run, or two side by side, as one HTML file that works from disk and asks no network.

Every turn shows what was seen, what was done and what each credit method says that it earned. Texts of episodes are
data for the page, never markup or script.
"""

from __future__ import annotations

import json
import warnings
import webbrowser
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro

from milepost.agents.progress import bar
from milepost.envs.core import Episode
from milepost.envs.runs import RunInfo, read_newest, read_run
from milepost.recipes.console import parse
from milepost.recipes.report import embed
from milepost.recipes.report.pages import Pages
from milepost.recipes.report.stats import paired, wilson

BAR_BYTES = 10_000_000
"""Reading fewer bytes of episodes takes no two seconds and needs no progress bar."""
N_NOTES = 20
RESULT_BYTES = 200_000
"""A longer results.json is not repeated in the page."""
_RESULTS = ("results.json", "summary.json")


@dataclass
class ViewArgs:
    """Write RUN/view.html: every turn of a run, or of two runs side by side by task, in a browser."""

    run: Annotated[Path, tyro.conf.Positional]
    """The run's folder."""
    other: Annotated[Path | None, tyro.conf.Positional] = None
    """A second run, shown beside the first."""
    open: bool = False
    """Open the page in the browser."""


@dataclass
class Tally:
    """How the episodes of one policy on one split and entry ended."""

    policy: str | None
    split: str
    entry: str
    episodes: int = 0
    counted: int = 0
    """Those that say whether the task was solved."""
    solved: int = 0
    failed: int = 0
    """Failed or cancelled: left out of every share."""
    turns: int = 0

    def add(self, row: dict[str, Any]) -> None:
        """Count one episode."""
        self.episodes += 1
        self.counted += row["success"] is not None
        self.solved += bool(row["success"])
        self.failed += row["stop"] in ("failed", "cancelled")
        self.turns += row["turns"]


@dataclass
class _Source:
    """One of the runs while it is read."""

    path: Path
    place: int
    info: RunInfo
    notes: list[str] = field(default_factory=list)
    tallies: dict[tuple[str | None, str, str], Tally] = field(default_factory=dict)
    seen: dict[str, list[Any]] = field(default_factory=dict)
    """Keys of every episode by its id."""
    counts: Counter[Any] = field(default_factory=Counter)

    def keys(self, episode: Episode) -> list[Any]:
        """Return by what an episode finds its like in the other run: with the environment's options, and without."""
        played = (episode.env_id, episode.task if episode.task is not None else episode.seed, episode.attempt)
        kinds = [(*played, json.dumps(episode.env_kwargs, sort_keys=True, default=str)), played]
        self.counts.update(kinds)
        return [(kind, self.counts[kind]) for kind in kinds]

    def tally(self, row: dict[str, Any]) -> None:
        key = (row["policy"], row["split"], row["entry"])
        self.tallies.setdefault(key, Tally(*key)).add(row)

    def entry(self, episode: Episode) -> str:
        """Return what an episode was played as: the panel's entry in an evaluation, else the environment."""
        played = episode.task if episode.task is not None else episode.seed
        own = self.info.kind == "evaluate" and episode.group.endswith(f"/{played}")
        return episode.group[: -len(f"/{played}")] if own else episode.env_id


def command(argv: Sequence[str]) -> int:
    """Write a run's view: ``milepost view RUN [OTHER] [--open]``."""
    args = parse(ViewArgs, argv, prog="milepost view")
    files = view(args.run, args.other)
    print(files[0] if len(files) == 1 else f"{files[0]} and {len(files) - 1} more that it links to")
    if args.open:
        webbrowser.open(files[0].resolve().as_uri())
    return 0


def view(run: str | Path, other: str | Path | None = None) -> list[Path]:
    """Write the view of a run, or of two side by side, into the first one's folder; return its files, the first first.

    What cannot be read of a damaged run is left out, with a warning, and named in the page.

    Raises:
        ValueError: There is no such run, or it has no episodes.
        DiskFullError: There is no room; an earlier view is untouched.
    """
    paths = [Path(path) for path in (run, other) if path is not None]
    sources = [_Source(path, place, read_run(path)) for place, path in enumerate(paths)]
    names = _names(paths)
    with Pages(paths[0], " and ".join(names), len(paths)) as pages:
        for source in sources:
            _read(source, pages)
            if not source.seen:
                raise ValueError(f"{source.path} has no episodes yet{_more(source.notes)}")
        runs = [_about(source, name) for source, name in zip(sources, names, strict=True)]
        files = pages.finish({"runs": runs, "paired": _pair(pages, sources) if len(sources) > 1 else None})
    for note in (note for source in sources for note in source.notes):
        warnings.warn(note, stacklevel=2)
    return files


def _read(source: _Source, pages: Pages) -> None:
    with _noted(source), _progress(source.path) as advance:
        episodes = read_newest(source.path, images=False, broken=lambda error: _note(source, str(error)))
        for number, episode in enumerate(episodes):
            advance()
            source.seen[episode.id] = keys = source.keys(episode)
            page = pages.page(keys, source.place)
            for name in embed.pictures(episode):
                if wrong := page.picture(name, source.path / "images"):
                    _note(source, wrong)
            row = embed.listed(number, episode, source.entry(episode))
            page.add(source.place, row, lambda share, episode=episode: embed.record(episode, share))
            source.tally(row)


def _pair(pages: Pages, sources: Sequence[_Source]) -> str | None:
    """Note in every row which row of the other run is its like; return the comparison of those that count."""
    outcomes: list[tuple[bool, bool]] = []
    for page in pages.pages:
        keyed = [[(row, s.seen[row["id"]]) for row in page.rows[s.place]] for s in sources]
        for level in (0, 1):
            theirs = {keys[level]: place for place, (row, keys) in enumerate(keyed[1]) if "pair" not in row}
            for place, (row, keys) in enumerate(keyed[0]):
                if "pair" not in row and (like := theirs.get(keys[level])) is not None:
                    row["pair"], page.rows[1][like]["pair"] = like, place
        for row in page.rows[0]:
            before, after = row["success"], page.rows[1][row["pair"]]["success"] if "pair" in row else None
            if before is not None and after is not None:
                outcomes.append((before, after))
    return str(paired([a for a, _ in outcomes], [b for _, b in outcomes])) if outcomes else None


def _about(source: _Source, name: str) -> dict[str, Any]:
    info, tallies = source.info, list(source.tallies.values())
    whole = Tally(None, "", "")
    for tally in tallies:
        for key in ("episodes", "counted", "solved", "failed", "turns"):
            setattr(whole, key, getattr(whole, key) + getattr(tally, key))
    about: dict[str, Any] = {
        "name": name,
        "kind": info.kind,
        "status": info.status,
        "digest": info.digest,
        "settings": info.settings,
        "versions": info.versions,
        "notes": source.notes,
        "policies": list(dict.fromkeys(tally.policy for tally in tallies if tally.policy is not None)),
        "whole": _shares(whole),
        "tallies": [_shares(tally) for tally in tallies],
        "results": {},
    }
    for file in (source.path / name for name in _RESULTS):
        if file.exists() and file.stat().st_size <= RESULT_BYTES:
            try:
                about["results"][file.name] = json.loads(file.read_bytes())
            except ValueError:
                _note(source, f"{file} is no JSON")
    return about


def _shares(tally: Tally) -> dict[str, Any]:
    low, high = wilson(tally.solved, tally.counted)
    success = tally.solved / tally.counted if tally.counted else None
    return {**vars(tally), "success": success, "low": low, "high": high}


@contextmanager
def _noted(source: _Source) -> Iterator[None]:
    """Keep warnings of reading (a last line that was cut off) as notes."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        yield
    for warning in told:
        _note(source, str(warning.message))


def _note(source: _Source, text: str) -> None:
    if text not in source.notes and len(source.notes) < N_NOTES:
        source.notes.append(text)


def _more(notes: Sequence[str]) -> str:
    return f" ({notes[0]})" if notes else ""


@contextmanager
def _progress(path: Path) -> Iterator[Callable[[], None]]:
    shards = sorted(path.glob("episodes/*.jsonl"))
    if sum(shard.stat().st_size for shard in shards) < BAR_BYTES:
        yield lambda: None
        return
    n_episodes = 0
    for shard in shards:
        with open(shard, "rb") as lines:
            n_episodes += sum(1 for _ in lines)
    with bar(f"view of {path.name}", range(n_episodes)) as advance:
        yield advance


def _names(paths: Sequence[Path]) -> list[str]:
    """Return the folders' names, with their parent's where two are equal."""
    whole = [path.resolve() for path in paths]
    twice = len({path.name for path in whole}) < len(whole)
    return [f"{path.parent.name}/{path.name}" if twice else path.name for path in whole]
