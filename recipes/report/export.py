"""Write the episodes of a run for other tools: parquet with all that turns earned, or chats to fine-tune on.

``parquet`` has one row an episode (one for each agent where several act), in columns of one type each, so that
``datasets.load_dataset("parquet", data_files=FILE)``, pandas and DuckDB read it as it is; unknown is null, zero is 0.
``openai-chat`` has one line an episode that counts, ``{"messages": [...], "tools": [...]}``, as fine-tuning takes it.
Both read the newest record of an id, episode by episode, and replace their file only when all of it is written.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Literal

import tyro

from milepost.envs.core import Episode
from milepost.envs.files import Images, replacing
from milepost.envs.names import did_you_mean
from milepost.envs.runs import read_newest, read_run
from milepost.recipes.console import parse
from milepost.recipes.report.chats import fine_tuning_record
from milepost.recipes.report.rows import columns, row

Form = Literal["parquet", "openai-chat"]
FILES: dict[Form, str] = {"parquet": "episodes.parquet", "openai-chat": "openai-chat.jsonl"}
"""Where a form goes in the run's folder when no file is named."""
GROUP_BYTES = 32_000_000
"""So much is kept before it is written as one row group."""


@dataclass
class Args:
    """Write the episodes of a run for other tools."""

    run: Annotated[Path, tyro.conf.Positional]
    """The run's folder."""
    to: Form
    """``parquet``: a row an episode with what every turn earned, FAILED ones too. ``openai-chat``: JSON lines for
    fine-tuning, only episodes that count."""
    out: Path | None = None
    """The file; without it, ``episodes.parquet`` or ``openai-chat.jsonl`` in the run's folder."""
    only: Literal["all", "solved"] = "all"
    """Which episodes: all, or those that succeeded."""
    split: str | None = None
    """Only episodes of this split."""
    agent: str | None = None
    """Where several agents act: only this one's share."""
    json: bool = False
    """Print JSON for a machine."""


@dataclass(frozen=True)
class Exported:
    """What ``export`` wrote."""

    path: Path
    n_records: int
    left_out: dict[str, int]
    """How many were left out, by reason."""


def export(
    run: str | Path,
    to: Form,
    out: str | Path | None = None,
    *,
    only: Literal["all", "solved"] = "all",
    split: str | None = None,
    agent: str | None = None,
) -> Exported:
    """Write the episodes of a run folder into one file; see ``Args``.

    Raises:
        ValueError: There is no such run, or nothing in it is to be written; then no file is touched.
        ModuleNotFoundError: ``parquet`` without pyarrow.
    """
    folder = Path(run)
    read_run(folder)
    path = Path(out) if out is not None else folder / FILES[to]
    if path.is_dir():
        raise ValueError(f"--out: expected a file to write, got the folder {path}")
    left_out: Counter[str] = Counter()
    chosen = _chosen(folder, to, only, split, agent, left_out)
    first = next(chosen, None)
    if first is None:
        reasons = ", ".join(f"{n} {reason}" for reason, n in left_out.items())
        raise ValueError(f"{folder} has no episode to export{f': {reasons}' if reasons else ' yet'}")
    images = Images(folder / "images")
    path.parent.mkdir(parents=True, exist_ok=True)
    n_records = 0
    with (_parquet if to == "parquet" else _json_lines)(path, images) as write:
        while first is not None:
            write(first)
            n_records += 1
            first = next(chosen, None)
    return Exported(path, n_records, dict(left_out))


def command(argv: Sequence[str]) -> int:
    """Run ``milepost export``."""
    args = parse(Args, argv, prog="milepost export")
    done = export(args.run, args.to, args.out, only=args.only, split=args.split, agent=args.agent)
    if args.json:
        print(json.dumps({"out": str(done.path), "n_records": done.n_records, "left_out": done.left_out}))
    else:
        reasons = ", ".join(f"{n} {reason}" for reason, n in done.left_out.items())
        print(f"{done.path}: {done.n_records} episodes{f' (left out: {reasons})' if reasons else ''}")
    return 0


def _chosen(
    folder: Path, to: Form, only: str, split: str | None, agent: str | None, left_out: Counter[str]
) -> Iterator[Episode]:
    """Yield what is to be written, each agent's share by itself."""
    found: dict[str, set[str]] = {"split": set(), "agent": set()}
    for episode in read_newest(folder, images=False):
        for part in [episode.part(name) for name in episode.agents] or [episode]:
            own = {"split": part.split, "agent": part.turns[0].agent if part.turns else "agent"}
            for key, value in own.items():
                found[key].add(value)
            other = next((k for k, v in (("split", split), ("agent", agent)) if v not in (None, own[k])), None)
            if reason := f"of another {other}" if other else _reason(part, to, only):
                left_out[reason] += 1
            else:
                yield part
    for key, asked in (("split", split), ("agent", agent)):
        if asked is not None and found[key] and asked not in found[key]:
            known = sorted(found[key])
            close = did_you_mean(asked, known)
            raise ValueError(f"{folder} has no episode of the {key} {asked!r}{close}; it has: {', '.join(known)}")


def _reason(part: Episode, to: Form, only: str) -> str | None:
    """Return why an episode is not written."""
    whole = part.whole or part
    if whole.stop is None or not whole.stop.counts:
        return str(whole.stop or "not ended") if to == "openai-chat" or only == "solved" else None
    if only == "solved" and not part.success:
        return "not solved"
    return "without a turn" if to == "openai-chat" and not part.turns else None


Write = Callable[[Episode], None]


@contextmanager
def _json_lines(path: Path, images: Images) -> Iterator[Write]:
    with replacing(path) as file:
        yield lambda part: _line(file, fine_tuning_record(part, images.read))


def _line(file: BinaryIO, record: dict[str, Any]) -> None:
    file.write(json.dumps(record).encode() + b"\n")


@contextmanager
def _parquet(path: Path, images: Images) -> Iterator[Write]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = columns(pa)
    kept: list[Any] = []

    def flush() -> None:
        writer.write_table(pa.Table.from_batches(kept, schema))
        kept.clear()

    def write(part: Episode) -> None:
        kept.append(pa.RecordBatch.from_pylist([row(part, images.read)], schema))
        if sum(batch.nbytes for batch in kept) >= GROUP_BYTES:
            flush()

    with replacing(path) as file, pq.ParquetWriter(file, schema, compression="zstd") as writer:
        yield write
        if kept:
            flush()
