"""Files that survive a kill and a full disk: appended lines, atomic documents, a lock, pictures by digest."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import io
import json
import os
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import gymnasium as gym
import numpy as np

from milepost.envs import codec

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_HELD: set[int] = set()
"""Descriptors of locks that a forked child must not keep alive."""


class DiskFullError(OSError):
    """A file could not grow; what was written before is whole."""


@contextmanager
def clear_when_full(path: Path) -> Iterator[None]:
    """Turn the errors of a full disk, those of libraries in other languages too, into one clear line."""
    try:
        yield
    except DiskFullError:
        raise
    except Exception as error:
        texts = {code: os.strerror(code) for code in _FULL}
        code = (
            error.errno if isinstance(error, OSError) else next((c for c, t in texts.items() if t in str(error)), None)
        )
        if code not in texts:
            raise
        raise DiskFullError(
            f"cannot write {path}: {texts[code].lower()}; all that was written before is kept: free some space and go "
            "on with --resume"
        ) from error


def append_line(path: Path, line: bytes) -> None:
    """Append a whole line or nothing; it is with the kernel on return, so a killed process loses none.

    Raises:
        DiskFullError: There is no room.
    """
    with clear_when_full(path):
        handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        size = os.fstat(handle).st_size
        try:
            rest = memoryview(line + b"\n")
            while rest:
                rest = rest[os.write(handle, rest) :]
        except BaseException:
            if os.fstat(handle).st_size > size:
                os.ftruncate(handle, size)
            raise
        finally:
            os.close(handle)


def read_lines(path: Path, broken: Callable[[ValueError], None] | None = None) -> Iterator[Any]:
    """Yield the packed JSON of every whole line; a last line that was cut off is left out, with a warning.

    Raises:
        ValueError: A line before the last is broken; with ``broken`` it is told and left out instead.
    """
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                warnings.warn(
                    f"{path}: the last line is cut off after {len(line)} bytes; the {number - 1} whole lines are read",
                    stacklevel=2,
                )
                return
            try:
                yield codec.loads(line)
            except ValueError as error:
                told = ValueError(f"{path}, line {number}: expected a line of JSON, got {line[:40]!r}")
                if broken is None:
                    raise told from error
                broken(told)


def cut_off(path: Path) -> int:
    """Remove a last line that was cut off; return how many bytes went."""
    with open(path, "r+b") as file:
        size = start = file.seek(0, os.SEEK_END)
        keep = 0
        while start and not keep:
            end, start = start, max(0, start - 65536)
            file.seek(start)
            place = file.read(end - start).rfind(b"\n")
            keep = start + place + 1 if place >= 0 else 0
        if keep < size:
            file.truncate(keep)
    return size - keep


def write_json(path: str | Path, value: Any) -> None:
    """Write a JSON document atomically: a reader sees the old or the new one, never half.

    Raises:
        DiskFullError: There is no room; the old one is untouched.
        ContractError: A value is not plain JSON.
    """
    path = Path(path)
    text = json.dumps(codec.pack(value), indent=2, allow_nan=False)
    write_bytes(path, text.encode() + b"\n")


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file atomically and make it last."""
    with replacing(path) as file:
        file.write(data)


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Give a file to write into that takes the place of ``path`` at the end; after an error the old one is there."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with clear_when_full(path):
        try:
            with open(temporary, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    sync(path.parent)


def sync(path: Path) -> None:
    """Make a file, or the names in a folder, last through a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class Lock:
    """The right to write, held until ``release`` or the death of the process, however it dies."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(self._handle, 20, 0).decode(errors="replace").strip()
            os.close(self._handle)
            raise ValueError(
                f"{path.parent} is being written by another live process{f' ({owner})' if owner else ''}: "
                "wait for it, stop it, or choose another folder"
            ) from None
        _HELD.add(self._handle)
        os.ftruncate(self._handle, 0)
        os.pwrite(self._handle, f"pid {os.getpid()}".encode(), 0)

    def release(self) -> None:
        """Let others write; more than once does no harm."""
        if self._handle in _HELD:
            _HELD.discard(self._handle)
            os.close(self._handle)


def _forget_locks() -> None:
    for handle in _HELD:
        os.close(handle)
    _HELD.clear()


os.register_at_fork(after_in_child=_forget_locks)


class Images:
    """Pictures as ``<digest>.png`` in a folder; equal ones are kept once. Needs Pillow."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(self, image: Any) -> str:
        """Keep a uint8 ``[H, W, 3]`` array; return its name."""
        digest = hashlib.blake2b(repr(image.shape).encode(), digest_size=16)
        digest.update(np.ascontiguousarray(image).tobytes())
        name = f"{digest.hexdigest()}.png"
        path = self.folder / name
        if not path.exists():
            picture = png(image)
            self.folder.mkdir(parents=True, exist_ok=True)
            write_bytes(path, picture)
        return name

    def load(self, name: str) -> Any:
        """Return the array of a name; see ``read``."""
        with _pillow().open(io.BytesIO(self.read(name))) as picture:
            return np.asarray(picture.convert("RGB")).copy()

    def read(self, name: str) -> bytes:
        """Return the PNG of a name; this needs no Pillow.

        Raises:
            ValueError: The name is none that ``save`` gives, or the picture is missing.
        """
        if not re.fullmatch(r"[0-9a-f]{32}\.png", name):
            raise ValueError(f"{self.folder}: expected a picture named <digest>.png, got {name!r}")
        try:
            return (self.folder / name).read_bytes()
        except FileNotFoundError:
            raise ValueError(f"{self.folder / name} is missing; the record refers to it") from None


def png(image: Any) -> bytes:
    """Return a uint8 ``[H, W, 3]`` array as a PNG file. Needs Pillow."""
    buffer = io.BytesIO()
    _pillow().fromarray(image).save(buffer, "png")
    return buffer.getvalue()


def _pillow() -> Any:
    try:
        from PIL import Image
    except ImportError:
        raise gym.error.DependencyNotInstalled("Pictures need pillow: pip install 'milepost[images]'") from None
    return Image
