"""The run folder: one form for training and evaluation, written so that a kill or a full disk loses nothing.

    RUN/  run.json   metrics.jsonl   summary.json   model/   episodes/00000.jsonl   images/<digest>.png
          credit/<label>.jsonl   checkpoints/000040/

Lines are appended whole, everything else is replaced atomically. An episode is written once, when it ends, with its
live credit; what is assigned later goes to ``credit/`` by episode id and turn, and ``read_episodes`` joins the two.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

from milepost.envs import codec
from milepost.envs.core import Episode
from milepost.envs.files import Images, Lock, append_line, clear_when_full, cut_off, sync, write_json
from milepost.envs.records import ADVANTAGE, RunInfo, read_episodes, read_metrics, read_newest, read_run

__all__ = ["Run", "RunInfo", "differences", "read_episodes", "read_metrics", "read_newest", "read_run", "write_json"]

SHARD_BYTES = 64_000_000
"""No shard of episodes grows beyond this, unless one episode does."""
N_TOLD = 5
"""So many settings that differ are told, and of each value the beginning."""
N_SHOWN = 70
_OWN_SETTINGS = ("out", "resume")
_PACKAGES = ("milepost", "gymnasium", "numpy", "torch", "transformers", "peft", "textworld")


class Run:
    """A run folder that this process writes. Use ``Run.open``; as a context manager it closes itself."""

    def __init__(self, path: Path, info: RunInfo, rank: int, lock: Lock | None) -> None:
        self.path = path
        self.info = info
        self.rank = rank
        """With several ranks, rank 0 writes everything but the others' episodes and credit."""
        self._images = Images(path / "images")
        self._lock = lock
        self._shard = 0

    @classmethod
    def open(
        cls,
        out: str | Path,
        kind: str,
        settings: Mapping[str, Any] | None = None,
        resume: bool = False,
        rank: int = 0,
    ) -> Run:
        """Begin a run in the folder ``out``, or go on with the one that is there.

        With several ranks open rank 0 first, let it rewind, then open the others. The settings ``out`` and ``resume``
        are not compared with those of before.

        Raises:
            ValueError: The folder has a run and ``resume`` is off, or it is of another kind, has other settings, has
                a newer schema, has a live writer, or holds something else.
        """
        path = Path(out)
        info = RunInfo(kind, _plain(settings or {}), _versions())
        own = {key: value for key, value in info.settings.items() if key not in _OWN_SETTINGS}
        info.digest = hashlib.blake2b(json.dumps([kind, own], sort_keys=True).encode()).hexdigest()[:16]
        if path.exists() and not path.is_dir():
            raise ValueError(f"{path} is a file: expected a folder for the run")
        if rank == 0:
            _refuse_mismatch(path, info, resume)
        with clear_when_full(path):
            (path / "episodes").mkdir(parents=True, exist_ok=True)
        lock = Lock(path / (".lock" if rank == 0 else f".lock-r{rank}"))
        try:
            info = _begin(path, info, resume) if rank == 0 else read_run(path)
        except BaseException:
            lock.release()
            raise
        return cls(path, info, rank, lock)

    @property
    def resumed(self) -> bool:
        """Whether the run was begun before, by a process that is gone."""
        return self.info.starts > 1

    @property
    def finished(self) -> bool:
        """Whether the run has come to its end; then there is nothing to go on with."""
        return self.info.status == "finished"

    def add(self, episode: Episode, tokens: bool = True) -> None:
        """Append an episode that has ended; with ``tokens=False`` without token ids and log-probabilities."""
        line = codec.dumps(codec.to_json(episode, self._images.save, tokens=tokens))
        shard = self._shard_path()
        while (size := _size(shard)) and size + len(line) >= SHARD_BYTES:
            self._shard += 1
            shard = self._shard_path()
        append_line(shard, line)

    def log(self, metrics: Mapping[str, Any], update: int) -> None:
        """Append one flat row of metrics; ranks above 0 leave that to rank 0."""
        if self.rank == 0:
            row = codec.pack({"update": update} | dict(metrics) | {"update": update})
            append_line(self.path / "metrics.jsonl", codec.dumps(row))

    def write_credit(self, label: str, groups: Iterable[Sequence[Episode]], lineage: Mapping[str, Any]) -> None:
        """Append what turns earned under ``label``, one line an episode; ``advantage`` writes their advantages.

        Args:
            label: The label of ``turn.credit``; the first line of its file names it.
            groups: Turns without the label are left out, which is not the same as None.
            lineage: Where the numbers come from (method, settings, model); kept when the file is begun.
        """
        name = quote(label, safe="#").replace(".", "%2E") + (f".r{self.rank}" if self.rank else "")
        path = self.path / "credit" / f"{name}.jsonl"
        with clear_when_full(path):
            path.parent.mkdir(exist_ok=True)
        if not _size(path):
            head = {"schema": codec.SCHEMA, "label": label, "lineage": _plain(lineage)}
            append_line(path, codec.dumps(head))
        for episode in (e for group in groups for e in group):
            whole = episode.whole or episode
            place = {id(turn): t for t, turn in enumerate(whole.turns)} if whole is not episode else None
            at = [t for t, turn in enumerate(episode.turns) if label == ADVANTAGE or label in turn.credit]
            turns = [episode.turns[t] for t in at]
            values = [turn.advantage if label == ADVANTAGE else turn.credit[label] for turn in turns]
            line: dict[str, Any] = {"episode": episode.id, "values": codec.pack(values)}
            if place is not None:
                line["turns"] = [place[id(turn)] for turn in turns]
            elif len(at) < len(episode.turns):
                line["turns"] = at
            if at:
                append_line(path, codec.dumps(line))

    def position(self) -> dict[str, int]:
        """Return the size in bytes of every appended file of every rank."""
        return {str(file.relative_to(self.path)): _size(file) for file in _appended(self.path)}

    def rewind(self, position: Mapping[str, int] | None = None) -> Path | None:
        """Cut metrics, episodes and credit back, byte by byte, to ``position``; by default to the latest checkpoint's.

        Return that checkpoint; None means that there is none and the run starts over. Ranks above 0 change nothing:
        call it on rank 0, then let the others go on.

        Raises:
            ValueError: A file is shorter than it was.
        """
        checkpoint = self.latest_checkpoint()
        if self.rank == 0:
            sizes: dict[str, int] = dict(position or {})
            if position is None and checkpoint:
                sizes = json.loads((checkpoint / "position.json").read_bytes())
            for name, size in sizes.items():
                if _size(self.path / name) < size:
                    raise ValueError(
                        f"{self.path / name}: the checkpoint expects {size} bytes, got {_size(self.path / name)}: "
                        "the folder was changed since"
                    )
            for file in _appended(self.path):
                size = sizes.get(str(file.relative_to(self.path)), 0)
                if size == 0:
                    file.unlink()
                elif _size(file) > size:
                    os.truncate(file, size)
        self._shard = 0
        return checkpoint

    def checkpoint(self, update: int, write: Callable[[Path], None]) -> Path:
        """Write ``checkpoints/<update>/`` through ``write(folder)``: all of it or nothing; the newest two are kept.

        The position of the appended files goes with it. With several ranks wait for them all before; rank 0 writes.
        """
        parent = self.path / "checkpoints"
        target = parent / f"{update:06d}"
        if self.rank:
            return target
        temporary = parent / f".new-{update:06d}"
        with clear_when_full(target):
            parent.mkdir(exist_ok=True)
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir()
            try:
                for file in _appended(self.path):
                    sync(file)
                write(temporary)
                write_json(temporary / "position.json", self.position())
                for file in temporary.rglob("*"):
                    sync(file)
                sync(temporary)
                _remove(target)
                temporary.rename(target)
                sync(parent)
            except BaseException:
                shutil.rmtree(temporary, ignore_errors=True)
                raise
        for old in self._checkpoints()[:-2]:
            _remove(old)
        return target

    def latest_checkpoint(self) -> Path | None:
        """Return the folder of the newest whole checkpoint."""
        whole = self._checkpoints()
        return whole[-1] if whole else None

    def finish(self, summary: Mapping[str, Any], name: str = "summary.json") -> None:
        """Write the summary under its name and say that the run is finished."""
        if self.rank == 0:
            write_json(self.path / name, dict(summary))
            self.info.status = "finished"
            write_json(self.path / "run.json", asdict(self.info))

    def close(self) -> None:
        """Let go of the folder; a run that was not finished is ``stopped``."""
        if self._lock is None:
            return
        if self.rank == 0 and not self.finished:
            self.info.status = "stopped"
            with suppress(OSError):
                write_json(self.path / "run.json", asdict(self.info))
        self._lock.release()
        self._lock = None

    def withdraw(self) -> None:
        """Close; where nothing was recorded, forget that the run was begun, and leave no folder that has nothing."""
        if self._lock is not None and not (_appended(self.path) or self._checkpoints()):
            if self.rank == 0:
                (self.path / "run.json").unlink(missing_ok=True)
            self._lock.path.unlink(missing_ok=True)
            self._lock.release()
            self._lock = None
            for folder in (self.path / "episodes", self.path):
                with suppress(OSError):  # it holds something else
                    folder.rmdir()
        self.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _shard_path(self) -> Path:
        return self.path / "episodes" / f"{f'r{self.rank}-' if self.rank else ''}{self._shard:05d}.jsonl"

    def _checkpoints(self) -> list[Path]:
        return sorted((p for p in self.path.glob("checkpoints/*") if p.name.isdigit()), key=lambda p: int(p.name))


def _refuse_mismatch(path: Path, info: RunInfo, resume: bool) -> None:
    if not (path / "run.json").exists():
        other = [name for name in ("metrics.jsonl", "summary.json", "model", "checkpoints") if (path / name).exists()]
        if other:
            raise ValueError(f"{path} holds {other[0]} but no run.json: choose another folder")
        return
    there = read_run(path)
    if there.kind != info.kind:
        raise ValueError(f"{path} holds a run of {there.kind}, expected one of {info.kind}: choose another folder")
    if not resume:
        raise ValueError(f"{path} already holds a run ({there.status}): go on with --resume, or choose another folder")
    old, new = there.settings, info.settings
    old, new = ({k: v for k, v in sorted(settings.items()) if k not in _OWN_SETTINGS} for settings in (old, new))
    if changed := differences(old, new):
        told = "; ".join(f"{name} was {_short(was)}, is {_short(now)}" for name, was, now in changed[:N_TOLD])
        more = f"; and {len(changed) - N_TOLD} more" if len(changed) > N_TOLD else ""
        raise ValueError(f"{path} was begun with other settings: {told}{more}: give the same, or another folder")


def differences(old: Any, new: Any, name: str = "") -> list[tuple[str, Any, Any]]:
    """Return where two settings differ: the dotted name, and both values; None where one has nothing.

    Objects in lists go by their ``name``, what is in lists of one length by its place.
    """
    found: list[tuple[str, Any, Any]] = []
    ours, theirs = _parts(old), _parts(new)
    if ours is not None and theirs is not None:
        keys = {**ours, **theirs}
        by_place = any(key.startswith("[") for key in keys)
        for key in keys if not by_place or len(ours) == len(theirs) else ():
            found += differences(ours.get(key), theirs.get(key), f"{name}{key}")
    return [(name.lstrip("."), was, now) for name, was, now in found] or ([] if old == new else [(name, old, new)])


def _parts(value: Any) -> dict[str, Any] | None:
    """Return the parts of a setting by what is added to its name; None where it has none."""
    if isinstance(value, dict):
        return {f".{key}": part for key, part in value.items()}
    if isinstance(value, list):
        return {
            f".{part['name']}" if isinstance(part, dict) and "name" in part else f"[{place}]": part
            for place, part in enumerate(value)
        }
    return None


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= N_SHOWN else f"{text[:N_SHOWN]}..."


def _begin(path: Path, info: RunInfo, resume: bool) -> RunInfo:
    """Say in ``run.json`` that a process writes now, and clear away what a kill left half done."""
    _refuse_mismatch(path, info, resume)  # again, now that the lock is held
    if (path / "run.json").exists():
        there = read_run(path)
        info = replace(there, starts=there.starts + 1, status="finished" if there.status == "finished" else "running")
    for file in _appended(path):
        if n_bytes := cut_off(file):
            warnings.warn(f"{file}: removed a last line that was cut off after {n_bytes} bytes", stacklevel=4)
    for leftover in path.glob("checkpoints/.*"):
        shutil.rmtree(leftover, ignore_errors=True)
    write_json(path / "run.json", asdict(info))
    return info


def _appended(path: Path) -> list[Path]:
    patterns = ("metrics.jsonl", "episodes/*.jsonl", "credit/*.jsonl")
    return sorted(file for pattern in patterns for file in path.glob(pattern))


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _remove(folder: Path) -> None:
    """Remove a checkpoint so that no half of it is ever taken for a whole one."""
    if folder.exists():
        doomed = folder.with_name(f".old-{folder.name}")
        shutil.rmtree(doomed, ignore_errors=True)
        folder.rename(doomed)
        shutil.rmtree(doomed, ignore_errors=True)


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads(json.dumps(dict(settings), default=str))
    return plain


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for name in _PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions
