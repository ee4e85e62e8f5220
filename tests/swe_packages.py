"""A package of two files on an index that lies on the disk, and the real test tools."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
from pathlib import Path

import pytest

from milepost.envs.swe import sources, test_tools
from milepost.envs.swe.packages import PACKAGES, Package
from milepost.sandbox.core import MachineError

TINY = '''"""Two functions, of which one has a branch that no test sees."""


def total(numbers, start=0):
    result = start
    for number in numbers:
        if number > 100 and number < 50:
            result += 1
        result = result + number
    return result


def middle(low, high):
    if low > high:
        low, high = high, low
    return (low + high) // 2
'''
TESTS = """from tiny import middle, total

def test_total(): assert total([1, 2, 3]) == 6
def test_start(): assert total([1], 5) == 6
def test_middle(): assert middle(2, 6) == 4
def test_turned(): assert middle(9, 3) == 6
"""


def archive(files: dict[str, str], *members: tarfile.TarInfo) -> bytes:
    """Return a gzipped tar of texts by name, and of members without content."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz") as tar:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(text.encode())
            tar.addfile(member, io.BytesIO(text.encode()))
        for member in members:
            tar.addfile(member)
    return data.getvalue()


def offer(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Package:
    """Enter the package ``tiny`` into the list, on an index and with a cache below a folder."""
    data = archive(
        {
            "tiny-1.0/tiny.py": TINY,
            "tiny-1.0/test_tiny.py": TESTS,
            "tiny-1.0/setup.py": "raise SystemExit('executed')",
            "tiny-1.0/tiny.egg-info/SOURCES.txt": "",
            "tiny-1.0/.git/HEAD": "",
            "tiny-1.0/PKG-INFO": "",
        }
    )
    page = folder / "index" / "tiny"
    page.mkdir(parents=True)
    (page / "tiny-1.0.tar.gz").write_bytes(data)
    (page / "index.html").write_text('<a class="x" href="tiny-1.0.tar.gz#sha256=0">tiny</a>')
    digest = hashlib.sha256(data).hexdigest()
    package = Package("tiny", "1.0", digest, "MIT", "train", ("tiny.py",), ("test_tiny.py",))
    monkeypatch.setitem(PACKAGES, "tiny", package)
    monkeypatch.setattr(sources, "_pip_settings", lambda: {"index-url": (folder / "index").as_uri()})
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    return package


def real_tools() -> Path:
    """Return the test tools, or skip the test where no package index answers; CI does not skip."""
    try:
        return test_tools.tools()
    except MachineError as error:
        if os.environ.get("MILEPOST_CI") == "1":
            raise
        pytest.skip(str(error))
