"""Source distributions by package: fetched once, checked, unpacked into the user's cache; nothing of them is executed.

``pip download`` would run a source distribution's build to learn its metadata, so the file is fetched from the index
itself, the one that pip is set to use. What is unpacked is moved into place last: several processes may fill one cache.
"""

from __future__ import annotations

import contextlib
import hashlib
import html
import io
import json
import os
import re
import shutil
import ssl
import stat
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urljoin, urlsplit

from milepost.envs.swe.packages import Package
from milepost.sandbox.core import MachineError

INDEX = "https://pypi.org/simple"
JSON = "application/vnd.pypi.simple.v1+json"
MAX_BYTES = 1 << 26
"""What an archive, and all that is in it, may have."""
LEFT_OUT = re.compile(r"(^|/)(\.git|\.hg|\.github|__pycache__|[^/]*\.egg-info|PKG-INFO|[^/]*\.py[co])(/|$)")
"""What a checkout would not have, or what could tell more than the sources."""


def cache_folder() -> Path:
    """Return where sources and test tools are kept: ``milepost/swe`` in the user's cache folder."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "milepost" / "swe"


def source(package: Package, folder: Path | None = None) -> Path:
    """Return a package's unpacked tree, fetched now if the cache has none. It is never to be changed.

    Raises:
        ValueError: No index has the file, it is another file than the one that was pinned, it has no tests, or has
            something in it that does not belong into a folder of its own.
        MachineError: The index does not answer.
    """
    home = (folder or cache_folder()) / "sources"
    target = home / f"{package.name}-{package.version}-{package.sha256[:12]}"
    if target.is_dir():
        return target
    data, url = _fetch(package)
    found = hashlib.sha256(data).hexdigest()
    if found != package.sha256:
        raise ValueError(f"{package.archive}: expected sha256 {package.sha256}, got {found} from {url}")
    home.mkdir(parents=True, exist_ok=True)
    sweep(home)
    with tempfile.TemporaryDirectory(prefix=".new-", dir=home) as scratch:
        tree = Path(scratch) / "tree"
        tree.mkdir()
        unpack(data, tree, package.archive)
        missing = [path for path in package.test_paths if not (tree / path).exists()]
        if missing or not package.test_paths:
            raise ValueError(f"{package.archive}: the source distribution has no tests at {', '.join(missing) or '.'}")
        if not package.files(tree):
            raise ValueError(f"{package.archive}: the source distribution has no {', '.join(package.modules)}")
        place(tree, target)
    return target


def place(tree: Path, target: Path) -> None:
    """Move a finished folder to its name, unless another process was there first."""
    with contextlib.suppress(FileExistsError):
        try:
            tree.rename(target)
        except OSError as error:
            if not target.is_dir():
                raise error


def sweep(folder: Path, older_than_s: float = 3600.0) -> None:
    """Remove what a killed process left unfinished."""
    for scratch in folder.glob(".new-*"):
        with contextlib.suppress(OSError):
            if time.time() - scratch.stat().st_mtime > older_than_s:
                shutil.rmtree(scratch)


def unpack(data: bytes, to: Path, name: str) -> None:
    """Unpack a gzipped tar of one folder, without that folder.

    Raises:
        ValueError: It is no such archive, is too large, or has a path that leads out, a link or a special file.
    """
    room = MAX_BYTES
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as archive:
            for member in archive:
                path = PurePosixPath(member.name)
                if path.is_absolute() or ".." in path.parts or "\0" in member.name:
                    raise ValueError(f"{name}: a path in it leads out of its folder: {member.name!r}")
                below = PurePosixPath(*path.parts[1:])
                if member.isdir() or not below.parts or LEFT_OUT.search(str(below)):
                    continue
                if not member.isfile():
                    raise ValueError(f"{name}: expected files and folders in it, got a link or device: {member.name!r}")
                room -= member.size
                if room < 0:
                    raise ValueError(f"{name}: expected at most {MAX_BYTES} bytes in it, got more")
                file = to / below
                file.parent.mkdir(parents=True, exist_ok=True)
                content = archive.extractfile(member)
                assert content is not None
                file.write_bytes(content.read())
                file.chmod(0o755 if member.mode & stat.S_IXUSR else 0o644)
    except (tarfile.TarError, EOFError, OSError) as error:
        raise ValueError(f"{name}: expected a gzipped tar of one folder: {error}") from None


def _fetch(package: Package) -> tuple[bytes, str]:
    """Return the archive and its address, from the first index that lists it."""
    indexes, problems, n_answers = _indexes(), [], 0
    for index in indexes:
        page = f"{index.rstrip('/')}/{package.name}/"
        url = ""
        try:
            url = dict(_links(page)).get(package.archive, "")
            if url:
                return _get(url)[0], url
            n_answers += 1
        except urllib.error.HTTPError as error:
            n_answers += not url and error.code in (404, 410)
            problems.append(f"{url or page}: {error.code} {error.reason}")
        except (OSError, ValueError) as error:
            problems.append(f"{url or page}: {getattr(error, 'reason', None) or error}")
    if n_answers < len(indexes):
        raise MachineError(f"{package.archive}: the package index does not answer ({'; '.join(problems)})")
    raise ValueError(f"{package.archive}: no package index has it; looked at {', '.join(indexes)}")


def _links(page: str) -> Iterator[tuple[str, str]]:
    """Yield (file name, address) of what an index has of a package; PEP 503 or 691."""
    at_disk = page.startswith("file:")
    try:
        data, kind = _get(page + "index.html" if at_disk else page)
    except urllib.error.URLError:
        if not at_disk or Path(unquote(urlsplit(page).path)).parent.is_dir() is False:
            raise
        return
    if kind.startswith(JSON):
        for file in json.loads(data)["files"]:
            yield file["filename"], urljoin(page, file["url"])
        return
    for link in re.findall(rb"<a\s[^>]*?href\s*=\s*[\"']([^\"']+)", data, re.I):
        url = urljoin(page, html.unescape(link.decode("utf-8", "replace"))).partition("#")[0]
        yield unquote(url.rpartition("/")[2]), url


def _get(url: str) -> tuple[bytes, str]:
    if urlsplit(url).scheme not in ("http", "https", "file"):
        raise ValueError(f"expected an http, https or file address, got {url}")
    request = urllib.request.Request(url, headers={"Accept": f"{JSON}, text/html;q=0.5, */*;q=0.1"})
    context = ssl.create_default_context(cafile=_pip_settings().get("cert"))
    with urllib.request.urlopen(request, timeout=60.0, context=context) as answer:
        data = answer.read(MAX_BYTES + 1)
        kind, size = (str(answer.headers.get(name, "")) for name in ("Content-Type", "Content-Length"))
    if size.isdigit() and len(data) < min(int(size), MAX_BYTES):
        raise OSError(f"the answer ended after {len(data)} of {size} bytes")
    if len(data) > MAX_BYTES:
        raise ValueError(f"expected at most {MAX_BYTES} bytes, got more from {url}")
    return data, kind


def _indexes() -> list[str]:
    settings = _pip_settings()
    return [settings.get("index-url", INDEX), *settings.get("extra-index-url", "").split()]


@cache
def _pip_settings() -> Mapping[str, Any]:
    """Return pip's settings by name, from wherever it has them; none where there is no pip."""
    command = [sys.executable, "-m", "pip", "config", "list"]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    rows = re.findall(r"^(?:global|install|download|:env:)\.([\w-]+)='(.*)'$", done.stdout, re.M)
    return dict(rows)
