"""Debian's Chromium through Playwright, offline and watched: what a page logs and asks for is kept.

Where it is absent its tests are skipped with the reason; in CI (``MILEPOST_CI=1``) they fail instead.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import pytest

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
FLAGS += ["--disable-component-update", "--disable-sync"]


@contextmanager
def chromium() -> Iterator[Any]:
    """Open the browser; skip, or fail in CI, where there is none."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError as error:
        _absent(f"no playwright: {error}")
    program = shutil.which("chromium")
    if program is None:
        _absent("no chromium: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, headless=True, args=FLAGS)
        try:
            yield browser
        finally:
            browser.close()


class Watched:
    """A page that is offline, with what it logged and asked for."""

    def __init__(self, browser: Any, width: int = 1280, height: int = 800, dark: bool = False) -> None:
        scheme = "dark" if dark else "light"
        self.context = browser.new_context(
            offline=True, viewport={"width": width, "height": height}, color_scheme=scheme
        )
        self.page = self.context.new_page()
        self.page.set_default_timeout(10_000)
        self.errors: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda m: self.errors.append(m.text) if m.type in ("error", "warning") else None)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))

    def open(self, file: Path, hash: str = "") -> Any:
        """Open a view from disk; return when it can be used."""
        self.page.goto(file.resolve().as_uri() + hash)
        self.page.wait_for_selector("html[data-ready=yes]", state="attached")
        return self.page

    def close(self) -> None:
        self.context.close()


def _absent(reason: str) -> NoReturn:
    if os.environ.get("MILEPOST_CI") == "1":
        pytest.fail(f"{reason}; CI needs the browser")
    pytest.skip(reason)
