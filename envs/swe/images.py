"""Repositories that are in Docker images: their files, without history."""

from __future__ import annotations

import hashlib
import os
import shutil
import tarfile
import tempfile
from pathlib import Path
from typing import IO, Any, cast

from milepost.envs.swe.sources import cache_folder, place, sweep
from milepost.sandbox.bases import prepare
from milepost.sandbox.core import MachineError

HISTORY = frozenset({".git", ".hg", ".svn", "__pycache__"})
"""What a workspace has not: it could tell the fix."""


def repository(image: str, folder: str) -> Path:
    """Return a copy of a folder of an image, made once; nothing of the image is executed.

    Raises:
        ValueError: There is no such image, or no such folder in it.
        MachineError: No engine answers.
    """
    import docker.errors

    from milepost.sandbox.docker import engine

    client: Any = engine()
    try:
        found = client.images.get(image)
        home = cache_folder() / "images"
        target = home / hashlib.sha256(f"{found.id} {folder}".encode()).hexdigest()[:32]
        if target.is_dir():
            return target
        home.mkdir(parents=True, exist_ok=True)
        sweep(home)
        container = client.containers.create(found.id, ["true"], network_disabled=True)
        try:
            with tempfile.TemporaryDirectory(prefix=".new-", dir=home) as scratch:
                with tempfile.TemporaryFile() as file:
                    for part in container.get_archive(folder)[0]:
                        file.write(part)
                    file.seek(0)
                    _unpack(file, Path(scratch) / "tree")
                place(Path(scratch) / "tree", target)
        finally:
            container.remove(force=True)
    except docker.errors.ImageNotFound:
        raise ValueError(f"docker: no image {image!r} here: docker pull {image}, or name another") from None
    except docker.errors.NotFound:
        raise ValueError(f"docker: image {image!r} has no folder {folder}") from None
    except (docker.errors.DockerException, tarfile.TarError, KeyError, OSError) as error:
        raise MachineError(f"docker: image {image!r}: {str(error).splitlines()[0]}") from None
    return target


def without_history(folder: Path) -> Path:
    """Return a base with a folder's content but its history; see ``prepare``."""
    if not any(HISTORY & {*folders, *files} for _, folders, files in os.walk(folder)):
        return prepare(folder)
    with tempfile.TemporaryDirectory(prefix="milepost-swe-") as scratch:
        tree = Path(scratch) / "tree"
        shutil.copytree(folder, tree, symlinks=True, ignore=lambda _, names: HISTORY & set(names))
        return prepare(tree)


def _unpack(file: object, to: Path) -> None:
    to.mkdir()
    with tarfile.open(fileobj=cast(IO[bytes], file)) as archive:
        for member in archive:
            parts = Path(member.name).parts[1:]
            if parts and not HISTORY & set(parts):
                member.name = str(Path(*parts))
                if member.islnk():  # by the name that its other name has in the archive
                    member.linkname = str(Path(*Path(member.linkname).parts[1:]))
                archive.extract(member, to, filter="tar", set_attrs=not member.issym())
