"""The page about evaluation is true: its commands run in its order, and its tables name what there is."""

from __future__ import annotations

import json
import os
import re
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import fields
from pathlib import Path

import fine_tuning
import pytest

from milepost.envs.completions import read_prices
from milepost.recipes.evaluate import evaluate
from milepost.recipes.evaluate.panel import METRICS, Entry, Panel

PAGE = (Path(__file__).parents[1] / "docs" / "evaluate.md").read_text(encoding="utf-8")
MILEPOST = [sys.executable, "-m", "milepost.recipes.cli"]
SERVERS = ("serve", "mcp")
PLACE = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


def free_port() -> str:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return str(found.getsockname()[1])


def blocks() -> Iterator[tuple[str, str]]:
    """Yield the page's blocks with their languages; the ports that it names become free ones."""
    page = PAGE
    for port in dict.fromkeys(re.findall(r"--port (\d+)", PAGE)):
        page = re.sub(rf"\b{port}\b", free_port(), page)
    yield from re.findall(r"^```(\w*)\n(.*?)^```$", page, re.S | re.M)


def run(command: list[str], folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, env=PLACE, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, f"{shlex.join(command)}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
    return done.stdout


@contextmanager
def serving(command: list[str], folder: Path) -> Iterator[None]:
    """Have a server run until the end, from when it takes connections."""
    port = int(command[command.index("--port") + 1])
    with open(folder / "server.log", "w+") as log, subprocess.Popen(command, cwd=folder, stderr=log) as process:
        try:
            for _ in range(600):
                with socket.socket() as tried:
                    if tried.connect_ex(("127.0.0.1", port)) == 0:
                        break
                assert process.poll() is None, (folder / "server.log").read_text()
                time.sleep(0.2)
            yield
        finally:
            process.terminate()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_file_and_every_command_works_in_the_order_of_the_page(tmp_path):
    pytest.importorskip("torch")
    printed = []
    with ExitStack() as servers:
        for language, block in blocks():
            if named := re.match(r"# ([\w.]+)\n", block):
                (tmp_path / named[1]).write_text(block, encoding="utf-8")
            elif language == "python":
                printed.append(run([sys.executable, "-W", "ignore", "-c", block], tmp_path))
            else:
                assert language == "bash"
                for line in block.splitlines():
                    words = shlex.split(line)
                    assert words[0] == "milepost"
                    command = [*MILEPOST, *words[1:]]
                    if words[1] in SERVERS:
                        servers.enter_context(serving(command, tmp_path))
                    else:
                        run(command, tmp_path)
    one, tools, exported = printed
    # two of five rungs and two of six
    assert one == "1.0 [5, 6, 5, 6]\n"
    assert tools.splitlines()[:2] == ["3 of chair", "there is no table"]
    assert tools.splitlines()[-1] == "{'results': [{'id': 'a', 'text': '3 of lamp'}]}"
    names = ("oracle", "tiny", "smoke", "function", "program", "shop")
    found = {name: json.loads((tmp_path / f"runs/{name}/results.json").read_text()) for name in names}
    assert {name: (r["complete"], r["success"]["rate"]) for name, r in found.items() if name != "function"} == {
        "oracle": (True, 1.0),
        "tiny": (True, 0.0),
        "smoke": (True, 1.0),
        "program": (True, 1.0),
        "shop": (True, 1.0),
    }
    assert found["function"]["complete"]
    # 2 ladders of 5 rungs three times each, 2 games
    assert found["oracle"]["n"] == 8
    assert exported == "8 1.0 climb\n"
    chats = fine_tuning.checked(tmp_path / "chats.jsonl")
    assert len(chats) == 8
    assert (tmp_path / "runs/oracle/view.html").exists()
    assert json.loads((tmp_path / "runs/desk/results.json").read_text())["complete"]
    assert set(read_prices(tmp_path / "my_prices.toml")) == {"gpt-x.y"}


def test_the_page_names_every_field_of_a_panel_and_no_other():
    (table,) = re.findall(r"\| field \| of \|.*?\n\n", PAGE, re.S)
    entry, panel = {f.name for f in fields(Entry)}, {f.name for f in fields(Panel)} - {"entries"}
    named = {
        of: {name for cell in cells for name in re.findall(r"`(\w+)`", cell)}
        for of in ("the panel", "an entry")
        for cells in [re.findall(rf"^\| (.*?) \| {of} \|", table, re.M)]
    }
    assert named["an entry"] == entry
    assert named["the panel"] - {"limits", "max_turns", "timeout_s"} == panel - {"versions"}
    assert "[versions]" in table
    assert all(f"`{metric}`" in table for metric in METRICS)


def test_the_page_names_every_field_of_the_results(tmp_path):
    results = evaluate("milepost/Ladder-v0", "oracle", out=tmp_path / "run", watch="nothing")
    (table,) = re.findall(r"^## Results\n.*?(?=^## )", PAGE, re.S | re.M)
    told = set(re.findall(r"`([\w^]+)`", table))
    assert set(results.to_json()) <= told
