"""Two thousand episodes at once, and what a turn of an evaluation costs beside bare loops over the same server.

    python benchmarks/evaluate.py                 five minutes, two cores; needs milepost[eval]
    python benchmarks/evaluate.py --only cpu      two minutes
    pip install --target /tmp/aiohttp aiohttp; PYTHONPATH=/tmp/aiohttp:$PYTHONPATH python benchmarks/evaluate.py

*Crowd*: ``milepost eval``, as a user runs it, plays 2,000 Ladder episodes at once against a server in a process of its
own that answers each request after 10 to 20 s, drawn uniformly, and always says "rest", so that an episode has 8 turns.
What the latency implies: the turns of an episode come one after another, so as long as n episodes have not ended, n
requests are in flight and n / 15 s turns a second are taken. Twice a second the server is asked how many are in
flight, and the episodes on disk are counted; the share of the implied rate is the sum of the one over the sum of what
has not ended. It is given over the whole run, from the first request to the last record, and without the ramp, which
ends when every episode has asked once. Beside it stand the server's mean latency, which is late itself on a busy
machine, and for how long threads of the evaluation were ready and had no core. The ideal wall time is that of the
slowest of as many sums of 8 draws (the mean of 200 simulations); starting the interpreter and counting the results are
in the wall time reached.

*CPU*: user and system seconds a turn of one process for the same turns, 200 in flight, answers after 1 to 2 s: an
evaluation (environment, record on disk, table of results), then loops without any of it: our client, the ``openai``
client as it comes, ``aiohttp`` if it is installed. Medians of the repeats, which alternate.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from milepost.envs.scripted_endpoint import serve_in_process
from milepost.sandbox.process import room_for

N_TURNS, N_TASKS = 8, 4
"""Of a Ladder episode that only rests; ladders in the split ``test``."""
LOOPS = ("milepost eval", "our client", "openai", "aiohttp")
TEXT = "A {wood} ladder of 5 rungs. You are on rung 0."
Ask = Callable[[list[dict[str, Any]], int], Awaitable[str]]


def crowd(n_episodes: int, latency: tuple[float, float]) -> dict[str, float]:
    """Play so many episodes at once with the command; return what was reached."""
    with tempfile.TemporaryDirectory() as folder, serve_in_process("rest", latency=latency) as base_url:
        run = Path(folder) / "run"
        command = [sys.executable, "-m", "milepost.recipes.cli", "eval", "milepost/Ladder-v0", "--json"]
        command += ["--attempts", str(n_episodes // N_TASKS), "--concurrency", str(n_episodes), "--out", str(run)]
        command += ["--agent", "openai:scripted", "--base-url", base_url]
        began = time.monotonic()
        samples: list[tuple[float, int, int, int]] = []
        with open(Path(folder) / "results.json", "w+") as out:
            pid = subprocess.Popen(command, stdout=out).pid
            waited_s = 0.0
            while True:
                waited_s = max(waited_s, waited(pid))
                done, status, used = os.wait4(pid, os.WNOHANG)
                counted = stats(base_url)
                n_ended = sum(file.read_bytes().count(b"\n") for file in run.glob("episodes/*.jsonl"))
                samples.append((time.monotonic() - began, counted["n_in_flight"], counted["n_requests"], n_ended))
                if done:
                    break
                time.sleep(0.5)
            out.seek(0)
            results = json.load(out)
        t, in_flight, asked, ended = np.array(samples).T
        steps = np.diff(t, prepend=0.0)
        playing = (asked > 0) & (ended < n_episodes)
        steady = playing & (asked >= n_episodes)
        share, share_without_ramp = (
            float(np.sum((in_flight * steps)[part]) / np.sum(((n_episodes - ended) * steps)[part]))
            for part in (playing, steady)
        )
        n_turns = n_episodes * N_TURNS
        return {
            "episodes": n_episodes,
            "exit_code": os.waitstatus_to_exitcode(status),
            "lost": n_episodes - results["played"],
            "failed": results["failed"],
            "max_in_flight": counted["max_in_flight"],
            "ramp_s": float(t[steady][0] - t[playing][0]),
            "share_of_implied_rate": share,
            "share_without_ramp": share_without_ramp,
            "server_latency_s": float(np.sum(in_flight * steps)) / n_turns,
            "wall_s": float(t[-1]),
            "ideal_wall_s": ideal_wall_s(n_episodes, latency),
            "peak_rss_MB": used.ru_maxrss / 1e3,
            "cpu_ms_per_turn": 1e3 * (used.ru_utime + used.ru_stime) / n_turns,
            "waited_for_cpu_s": waited_s,
        }


def waited(pid: int) -> float:
    """Return how long the threads of a process were ready and had no core, in all: others used the machine (Linux)."""
    files = Path(f"/proc/{pid}/task").glob("*/schedstat")
    with suppress(OSError):
        return sum(int(file.read_text().split()[1]) for file in files) / 1e9
    return 0.0


def stats(base_url: str) -> dict[str, int]:
    with urllib.request.urlopen(f"{base_url}/stats", timeout=30) as reply:
        counted: dict[str, int] = json.load(reply)
    return counted


def ideal_wall_s(n_episodes: int, latency: tuple[float, float]) -> float:
    rng = np.random.default_rng(0)
    return float(np.mean([rng.uniform(*latency, (n_episodes, N_TURNS)).sum(1).max() for _ in range(200)]))


def cpu(n_episodes: int, n_in_flight: int, latency: tuple[float, float], repeats: int) -> dict[str, dict[str, float]]:
    """Return the CPU of a turn, and how many there were a second, by loop; each in a process of its own."""
    loops = [name for name in LOOPS if name != "aiohttp" or importlib.util.find_spec("aiohttp")]
    found: dict[str, list[dict[str, float]]] = {name: [] for name in loops}
    for _ in range(repeats):
        for name in loops:
            with serve_in_process("rest", latency=latency) as base_url:
                words = ["--loop", name, base_url, str(n_episodes), str(n_in_flight)]
                done = subprocess.run([sys.executable, __file__, *words], capture_output=True, text=True, check=True)
                assert stats(base_url)["n_requests"] == n_episodes * N_TURNS, "each turn is asked once"
            found[name].append(json.loads(done.stdout.splitlines()[-1]))
    return {name: {key: median(run[key] for run in runs) for key in runs[0]} for name, runs in found.items()}


def loop(name: str, base_url: str, n_episodes: int, n_in_flight: int) -> dict[str, float]:
    """Play in this process; CPU counts from after the imports."""
    play = _evaluate if name == "milepost eval" else _bare
    for module in ("openai", "milepost.recipes.evaluate.run"):
        importlib.import_module(module)
    room_for(n_in_flight + 100)
    began, used = time.monotonic(), time.process_time()
    play(name, base_url, n_episodes, n_in_flight)
    n_turns = n_episodes * N_TURNS
    seconds = time.monotonic() - began
    return {"cpu_ms_per_turn": 1e3 * (time.process_time() - used) / n_turns, "turns_per_s": n_turns / seconds}


def _evaluate(name: str, base_url: str, n_episodes: int, n_in_flight: int) -> None:
    from milepost.recipes.evaluate import evaluate

    with tempfile.TemporaryDirectory() as folder:
        results = evaluate(
            "milepost/Ladder-v0",
            "openai:scripted",
            watch="nothing",
            base_url=base_url,
            attempts=n_episodes // N_TASKS,
            concurrency=n_in_flight,
            out=Path(folder) / "run",
        )
        assert results.complete


def _bare(name: str, base_url: str, n_episodes: int, n_in_flight: int) -> None:
    asyncio.run({"our client": _ours, "openai": _openai, "aiohttp": _aiohttp}[name](base_url, n_episodes, n_in_flight))


async def _ours(base_url: str, n_episodes: int, n_in_flight: int) -> None:
    from milepost.envs.endpoint import Endpoint

    endpoint = Endpoint(base_url)

    async def ask(messages: list[dict[str, Any]], seed: int) -> str:
        return (await endpoint.chat("scripted", messages, seed=seed)).text

    await _episodes(ask, n_episodes, n_in_flight)
    await endpoint.aclose()


async def _openai(base_url: str, n_episodes: int, n_in_flight: int) -> None:
    import openai

    async with openai.AsyncOpenAI(base_url=base_url, api_key="none", max_retries=0) as client:

        async def ask(messages: list[dict[str, Any]], seed: int) -> str:
            reply: Any = await client.chat.completions.create(model="scripted", messages=messages, seed=seed)  # type: ignore[arg-type]
            return str(reply.choices[0].message.content)

        await _episodes(ask, n_episodes, n_in_flight)


async def _aiohttp(base_url: str, n_episodes: int, n_in_flight: int) -> None:
    aiohttp: Any = importlib.import_module("aiohttp")
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def ask(messages: list[dict[str, Any]], seed: int) -> str:
            body = {"model": "scripted", "messages": messages, "seed": seed}
            async with session.post(f"{base_url}/chat/completions", json=body) as reply:
                return str((await reply.json())["choices"][0]["message"]["content"])

        await _episodes(ask, n_episodes, n_in_flight)


async def _episodes(ask: Ask, n_episodes: int, n_in_flight: int) -> None:
    """Have the chats of so many Ladder episodes, without a ladder."""
    todo = iter(range(n_episodes))

    async def play() -> None:
        for n in todo:
            messages: list[dict[str, Any]] = [
                {"role": "system", "content": "Climb the ladder. Answer with one word: climb, rest or dust."}
            ]
            for t in range(N_TURNS):
                messages.append({"role": "user", "content": TEXT.format(wood="pear")})
                messages.append({"role": "assistant", "content": await ask(messages, n * N_TURNS + t)})

    await asyncio.gather(*(play() for _ in range(n_in_flight)))


def main() -> None:
    if sys.argv[1:2] == ["--loop"]:
        name, base_url, n_episodes, n_in_flight = sys.argv[2:]
        print(json.dumps(loop(name, base_url, int(n_episodes), int(n_in_flight))))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=["crowd", "cpu"])
    parser.add_argument("--episodes", type=int, default=2000, help="of the crowd, all at once")
    parser.add_argument("--latency", type=float, nargs=2, default=(10.0, 20.0), help="of the crowd, in seconds")
    parser.add_argument("--repeats", type=int, default=3, help="of the comparison of CPU")
    parser.add_argument("--json", action="store_true", help="one JSON document instead of the tables")
    args = parser.parse_args()
    found: dict[str, Any] = {}
    if args.only != "cpu":
        found["crowd"] = crowd(args.episodes, tuple(args.latency))
    if args.only != "crowd":
        found["cpu"] = cpu(400, 200, (1.0, 2.0), args.repeats)
    if args.json:
        print(json.dumps(found, indent=2))
        return
    for key, value in found.get("crowd", {}).items():
        print(f"{key:>22}  {value:>10,.2f}")
    for name, row in found.get("cpu", {}).items():
        print(
            f"{name:>22}  {row['cpu_ms_per_turn']:>10.2f} ms of CPU a turn {row['turns_per_s']:>10.1f} turns a second"
        )


if __name__ == "__main__":
    main()
