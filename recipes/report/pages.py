"""The viewer's files: one page or several linked ones, written as the episodes come and put in place at the end.

A page is static markup, style and script around data blocks that the browser never runs: deflated JSON in base64 (the
index, and chunks of episodes that are inflated when one is opened) and pictures in base64.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import os
import re
import zlib
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from milepost.envs.files import clear_when_full, sync

CHUNK_EPISODES, CHUNK_BYTES = 20, 1_500_000
"""A chunk is closed at so many episodes, or bytes of JSON."""
PAGE_EPISODES, PAGE_BYTES = 2_000, 60_000_000
"""Another page is begun at so many episodes, or bytes of the file."""
SCRIPTS = ("data.js", "text.js", "chart.js", "episode.js", "list.js", "view.js")
_ASSETS = Path(__file__).parent / "viewer"
_PICTURE = re.compile(r"[0-9a-f]{32}\.png")


class Page:
    """One file while it is written."""

    def __init__(self, file: Path, title: str) -> None:
        self.file = file
        self.rows: list[list[dict[str, Any]]] = [[], []]
        """Of the run, and of the one beside it."""
        self.n_episodes = 0
        self.n_bytes = 0
        self._temporary = file.with_name(f".{file.name}.{os.getpid()}")
        self._pictures: set[str] = set()
        self._n_chunks = 0
        self._begin_chunk()
        head, self._tail = _markup(title)
        with clear_when_full(file):
            self._out = open(self._temporary, "wb")  # noqa: SIM115
        try:
            self._write(head)
        except BaseException:
            self.discard()
            raise

    def add(self, run: int, row: dict[str, Any], record: Any) -> None:
        """Take one episode; ``record`` is called with a function that keeps a value once a chunk."""
        self._episodes.append(json.dumps(record(self._share)))
        self._size += len(self._episodes[-1])
        self.n_episodes += 1
        self.rows[run].append(row | {"chunk": self._n_chunks, "place": len(self._episodes) - 1})
        if len(self._episodes) >= CHUNK_EPISODES or self._size >= CHUNK_BYTES:
            self._end_chunk()

    def picture(self, name: str, folder: Path) -> str | None:
        """Keep a picture once; return what is wrong with it, if anything."""
        if name in self._pictures:
            return None
        if not _PICTURE.fullmatch(name):
            return f"expected a picture named <digest>.png, got {name!r}"
        try:
            data = (folder / name).read_bytes()
        except OSError as error:
            return f"picture {folder / name}: {error.strerror}"
        self._pictures.add(name)
        self._block(f"picture-{name[:-4]}", base64.b64encode(data))
        return None

    def finish(self, index: Mapping[str, Any]) -> None:
        """Write the index and what follows it; the file has its name only after ``place``."""
        self._end_chunk()
        self._block("index", _deflated(json.dumps({"rows": self.rows, **index}).encode()))
        self._write(self._tail)
        with clear_when_full(self.file):
            self._out.flush()
            os.fsync(self._out.fileno())
            self._out.close()

    def place(self) -> None:
        """Give the finished file its name."""
        os.replace(self._temporary, self.file)

    def discard(self) -> None:
        """Remove what was not put in place."""
        with suppress(OSError):  # what is buffered still: the disk is full
            self._out.close()
        self._temporary.unlink(missing_ok=True)

    def _share(self, value: Any) -> int:
        return self._shared.setdefault(json.dumps(value), len(self._shared))

    def _begin_chunk(self) -> None:
        self._episodes: list[str] = []
        self._shared: dict[str, int] = {}
        self._size = 0

    def _end_chunk(self) -> None:
        if self._episodes:
            text = f'{{"shared": [{",".join(self._shared)}], "episodes": [{",".join(self._episodes)}]}}'
            self._block(f"chunk-{self._n_chunks}", _deflated(text.encode()))
            self._n_chunks += 1
            self._begin_chunk()

    def _block(self, name: str, data: bytes) -> None:
        self._write(b'<script type="text/plain" id="%s">%s</script>\n' % (name.encode(), data))

    def _write(self, data: bytes) -> None:
        with clear_when_full(self.file):
            self.n_bytes += self._out.write(data)


class Pages:
    """A view in one folder, ``view.html``, ``view-2.html`` and so on; as a context manager, all or none."""

    def __init__(self, folder: Path, title: str, n_runs: int = 1) -> None:
        self.folder = folder
        self._title = title
        self._n_runs = n_runs
        self.pages: list[Page] = []
        self._places: dict[Any, Page] = {}

    def page(self, keys: Iterable[Any], run: int) -> Page:
        """Return the page for an episode: where one with the first known key is, else the newest that has room."""
        keys = list(keys)
        found = next((self._places[key] for key in keys if key in self._places), None) if run else None
        if found is None:
            found = self.pages[-1] if self.pages else None
            if found is None or found.n_episodes >= self._cap(PAGE_EPISODES) or found.n_bytes >= self._cap(PAGE_BYTES):
                number = len(self.pages) + 1
                name = "view.html" if number == 1 else f"view-{number}.html"
                found = Page(self.folder / name, self._title)
                self.pages.append(found)
        for key in keys:
            self._places.setdefault(key, found)
        return found

    def finish(self, index: Mapping[str, Any]) -> list[Path]:
        """Put all pages in place, the first one last, and remove those of an earlier, longer view; return the files."""
        links = [{"file": page.file.name, "episodes": [len(rows) for rows in page.rows]} for page in self.pages]
        for number, page in enumerate(self.pages):
            page.finish({"pages": links, "page": number, **index})
        for page in reversed(self.pages):
            page.place()
        files = [page.file for page in self.pages]
        for old in self.folder.glob("view-*.html"):
            if re.fullmatch(r"view-\d+\.html", old.name) and old not in files:
                old.unlink()
        sync(self.folder)
        return files

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for page in self.pages:
            page.discard()

    def _cap(self, limit: int) -> float:
        """Return the limit of a page while the first run is read: as much again comes from the other one."""
        return limit / self._n_runs


def _markup(title: str) -> tuple[bytes, bytes]:
    """Return a page's text before and after its data."""
    style = (_ASSETS / "view.css").read_text(encoding="utf-8")
    script = "".join((_ASSETS / name).read_text(encoding="utf-8") for name in SCRIPTS)
    policy = (
        f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)}; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    text = (_ASSETS / "view.html").read_text(encoding="utf-8")
    parts = {"policy": policy, "style": style, "title": html.escape(title), "script": script}
    page = re.sub(r"\{\{(policy|style|title|script)\}\}", lambda match: parts[match[1]], text)
    head, _, tail = page.partition("{{data}}\n")
    return head.encode("utf-8", "backslashreplace"), tail.encode()


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _deflated(data: bytes) -> bytes:
    return base64.b64encode(zlib.compress(data, 6))
