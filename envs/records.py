"""Reading a run folder: what it is, its metrics, its episodes joined with what they earned later."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from milepost.envs import codec
from milepost.envs.core import Episode
from milepost.envs.files import Images, read_lines

ADVANTAGE = "advantage"
"""The label under which a run keeps ``turn.advantage``."""


@dataclass
class RunInfo:
    """What ``run.json`` says."""

    kind: str
    """The recipe or tool that writes the folder; only the same one may go on in it."""
    settings: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    digest: str = ""
    """Of kind and settings: equal digests are equal runs."""
    status: str = "running"
    """``running`` (or killed), ``stopped`` or ``finished``."""
    starts: int = 1
    """How often a process began to write it."""
    schema: int = codec.SCHEMA


def read_run(path: str | Path) -> RunInfo:
    """Return what a run folder says about itself.

    Raises:
        ValueError: It is no run folder, or its schema is newer.
    """
    file = Path(path) / "run.json"
    try:
        record = json.loads(file.read_bytes())
        codec.check_schema(record, str(path))
        return RunInfo(**{key: value for key, value in record.items() if key in RunInfo.__dataclass_fields__})
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError(f"{path} is no run folder: expected a run.json in it") from None
    except (json.JSONDecodeError, TypeError, AttributeError) as error:
        raise ValueError(f"{file}: expected the description of a run: {error}") from None


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """Return the rows of metrics, in the order in which they were written."""
    file = Path(path) / "metrics.jsonl"
    return [codec.unpack(row) for row in read_lines(file)] if file.exists() else []


def read_episodes(
    path: str | Path,
    credit: bool = True,
    images: bool = True,
    broken: Callable[[ValueError], None] | None = None,
) -> Iterator[Episode]:
    """Yield the episodes of a run folder, or of one ``.jsonl`` file of episodes.

    Where an id was recorded again, what was assigned after play belongs to the newest record alone.

    Args:
        path: The folder or file.
        credit: Whether to join what was assigned after play (``credit/*.jsonl``), advantages too.
        images: Whether to load pictures; without them an observation keeps ``{"$image": name}``.
        broken: Told what is wrong with a line that cannot be read, which is then left out; without it that raises.

    Raises:
        ValueError: There is no such run, a line is broken, or the schema is newer.
    """
    return _read(Path(path), credit, images, broken, newest=False)


def read_newest(
    path: str | Path,
    credit: bool = True,
    images: bool = True,
    broken: Callable[[ValueError], None] | None = None,
) -> Iterator[Episode]:
    """Yield the newest record of every episode id, otherwise like ``read_episodes``; the older ones are superseded.

    A resumed evaluation plays again what FAILED or was CANCELLED, and records it under the same id.
    """
    return _read(Path(path), credit, images, broken, newest=True)


def _read(
    path: Path, credit: bool, images: bool, broken: Callable[[ValueError], None] | None, newest: bool
) -> Iterator[Episode]:
    single = path.is_file()
    if not single:
        read_run(path)
    folder = path.parent.parent if single else path
    shards = [path] if single else sorted(path.glob("episodes/*.jsonl"))
    load = Images(folder / "images").load if images else None
    earned = _read_credit(folder, broken) if credit else {}
    last = {_id(record): place for place, record in _records(shards, _ignore)} if newest or earned else {}
    for place, record in _records(shards, broken):
        superseded = last.get(_id(record), place) != place
        if newest and superseded:
            continue
        episode = None
        with _left_out(broken, str(place[0])):
            episode = codec.from_json(record, load)
        if episode is None:
            continue
        for label, line in () if superseded else earned.get(episode.id, ()):
            with _left_out(broken, f"credit of {episode.id}"):
                _join(episode, label, line)
        yield episode


def _records(
    shards: Iterable[Path], broken: Callable[[ValueError], None] | None
) -> Iterator[tuple[tuple[Path, int], Any]]:
    """Yield the records with their places."""
    for shard in shards:
        for number, record in enumerate(read_lines(shard, broken)):
            yield (shard, number), record


def _id(record: Any) -> str | None:
    """Return the id of a record, of one that is none too."""
    return str(record.get("id")) if isinstance(record, dict) else None


def _ignore(error: ValueError) -> None:
    pass


@contextmanager
def _left_out(broken: Callable[[ValueError], None] | None, what: str) -> Iterator[None]:
    """Tell ``broken`` what cannot be read instead of raising it."""
    try:
        yield
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        if broken is None:
            raise
        broken(ValueError(f"{what}: {type(error).__name__}: {error}"))


def _read_credit(
    folder: Path, broken: Callable[[ValueError], None] | None
) -> dict[str, list[tuple[str, dict[str, Any]]]]:
    """Return the lines of all credit files by episode id."""
    earned: dict[str, list[tuple[str, dict[str, Any]]]] = {}
    for file in sorted(folder.glob("credit/*.jsonl")):
        with _left_out(broken, str(file)):
            lines = read_lines(file, broken)
            head = next(lines, None)
            if head is None:
                continue
            codec.check_schema(head, str(file))
            for line in lines:
                earned.setdefault(line["episode"], []).append((head["label"], line))
    return earned


def _join(episode: Episode, label: str, line: Mapping[str, Any]) -> None:
    values = codec.unpack(line["values"])
    at = line.get("turns", range(len(values)))
    if len(at) != len(values) or (len(at) and max(at) >= len(episode.turns)):
        raise ValueError(
            f"credit {label!r}: {len(values)} values do not fit the {len(episode.turns)} turns of {episode.id}"
        )
    for t, value in zip(at, values, strict=True):
        if label == ADVANTAGE:
            episode.turns[t].advantage = value
        else:
            episode.turns[t].credit[label] = value
