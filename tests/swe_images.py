"""A Docker image with a Python, pytest and a repository, made of what this machine and the test tools have."""

from __future__ import annotations

import glob
import io
import re
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from milepost.envs.swe import test_tools
from milepost.envs.swe.testing import PYTHON
from milepost.sandbox import skeleton
from milepost.sandbox.docker import engine

PROGRAMS = ("bash", "cat", "cp", "env", "true", "sh")
EDITABLE = b"/testbed/src\n"
"""What an installation for development leaves: where its sources are."""


@contextmanager
def image_with(repository: Path | None) -> Iterator[str]:
    """Import an image with a folder at ``/testbed``, or without one, and remove it again."""
    client, name = engine(), "milepost/testbed" if repository else "milepost/nothing"
    client.api.import_image_from_data(_files(repository), repository=name, tag="1")
    try:
        yield f"{name}:1"
    finally:
        client.images.remove(f"{name}:1", force=True)


def _files(repository: Path | None) -> bytes:
    data = io.BytesIO(skeleton.files())
    python = Path(PYTHON).resolve()
    library = f"/usr/lib/{python.name}"
    programs = [str(python), *(f"/usr/bin/{name}" for name in PROGRAMS)]
    told = subprocess.run(["ldd", *programs, *glob.glob(f"{library}/lib-dynload/*.so")], capture_output=True, text=True)
    libraries = set(re.findall(r"(?:=> )?(/\S+) \(0x", told.stdout))
    named = {f"/usr/{path.removeprefix('/usr').lstrip('/')}" for path in (PYTHON, *programs, *libraries)}
    with tarfile.open(fileobj=data, mode="a") as tar:
        for path in sorted(named | {str(Path(path).resolve()) for path in named}):
            tar.add(path, path.lstrip("/"), recursive=False)
        tar.add(library, library.lstrip("/"), filter=lambda one: None if "/test/" in one.name else one)
        tar.add(test_tools.tools(), "usr/lib/python3/dist-packages")
        if repository:
            tar.add(repository, "testbed")
            link = tarfile.TarInfo("usr/lib/python3/dist-packages/__editable__.pth")
            link.size = len(EDITABLE)
            tar.addfile(link, io.BytesIO(EDITABLE))
    return data.getvalue()
