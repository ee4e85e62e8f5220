"""How fast a view opens: 2,000 episodes of 12 turns in Chromium, from disk, offline.

    python benchmarks/view.py                   a minute; needs Debian's chromium and playwright
    python benchmarks/view.py --episodes 200    a glance

Every episode has texts of its own (about 1,500 characters a turn), calls, reasoning and three methods' credit. Told are
the seconds that ``milepost view`` takes and the memory of its process, the size of the file, and, as the median of
repeated openings in a fresh context each, the seconds from asking for the page until its list can be used, until a
first episode stands on the screen, until the filter has answered, and until all texts were searched.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

from milepost.envs.core import Action, Call, Episode, Stop, Turn, Usage
from milepost.envs.runs import Run
from milepost.recipes.report.view import view

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
WORDS = ["door", "key", "lamp", "north", "customer", "order", "refund", "voucher", "policy", "number", "report"]
WORDS += ["total", "value", "error", "result", "open"]


def episodes(n: int, n_turns: int) -> Iterator[Episode]:
    """Yield made-up episodes, alike in nothing but their form."""
    draw = random.Random(0)

    def text(n_words: int) -> str:
        return " ".join(f"{draw.choice(WORDS)}{draw.randrange(1000)}" for _ in range(n_words))

    for number in range(n):
        turns = []
        for t in range(n_turns):
            call = Call(f"c{t}", draw.choice(WORDS), json.dumps({"about": text(8)}))
            seen = {"results": [{"id": f"c{t - 1}", "text": text(90)}]} if t else text(90)
            usage = Usage(1000 + 200 * t, 0, 60, 0.5)
            turn = Turn(seen, Action("", calls=(call,), reasoning=text(40), usage=usage), info={"valid": True})
            turn.info["reward_components"] = {"step": draw.random()}
            turn.credit = {"gra": draw.random(), "progress": draw.gauss(0, 1), "outcome": None}
            turns.append(turn)
        turns[-1].info["outcome"] = float(draw.random() < 0.6)
        yield Episode(
            id=f"0:desk/{number}:0",
            env_id="milepost/ToolDesk-v0",
            task=f"task-{number}",
            split="test",
            group=f"desk/task-{number}",
            instructions="Serve the customer. " * 100,
            turns=turns,
            last=text(60),
            stop=Stop.TERMINATED,
            runtime={"policy": "openai:some-model"},
        )


def opened(browser: Any, file: Path) -> dict[str, float]:
    """Return the seconds of one opening."""
    context = browser.new_context(offline=True, viewport={"width": 1360, "height": 900})
    page = context.new_page()
    began = time.perf_counter()
    took = {}
    page.goto(file.resolve().as_uri(), wait_until="commit")
    page.wait_for_selector("html[data-ready=yes]", state="attached")
    took["list"] = time.perf_counter() - began
    page.keyboard.press("j")
    page.wait_for_selector(".turn-row")
    took["first episode"] = time.perf_counter() - began
    for name, deep in (("filter", False), ("search of all texts", True)):
        page.locator("#deep").set_checked(deep)
        began = time.perf_counter()
        page.locator("#search").fill("task-17" if not deep else "refund500")
        page.wait_for_selector("#shown:not([aria-busy]) button")
        took[name] = time.perf_counter() - began
        page.locator("#search").fill("")
        page.wait_for_selector("#shown button", state="detached")
    context.close()
    return took


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--episodes", type=int, default=2000)
    parser.add_argument("--turns", type=int, default=12)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as folder:
        with Run.open(Path(folder) / "run", "evaluate") as run:
            for episode in episodes(args.episodes, args.turns):
                run.add(episode)
        n_bytes = sum(file.stat().st_size for file in run.path.glob("episodes/*"))
        began = time.perf_counter()
        files = view(run.path)
        seconds = time.perf_counter() - began
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        size = files[0].stat().st_size / 1e6
        print(f"{args.episodes} episodes x {args.turns} turns, {n_bytes / 1e6:.1f} MB of records")
        print(f"written in {seconds:.1f} s, peak {peak:.0f} MB; {len(files)} file(s), the first {size:.1f} MB")
        with sync_playwright() as playwright:
            program = shutil.which("chromium")
            browser = playwright.chromium.launch(executable_path=program, headless=True, args=FLAGS)
            rows = [opened(browser, files[0]) for _ in range(args.repeats)]
            browser.close()
        for name in rows[0]:
            print(
                f"{name:<22}{median(row[name] for row in rows):7.2f} s   (worst {max(row[name] for row in rows):.2f})"
            )


if __name__ == "__main__":
    main()
