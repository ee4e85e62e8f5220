"""An environment as an MCP server: the official client plays it, over stdio and over HTTP."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from tool_env import ShopEnv

from milepost.envs.core import Episode, Stop
from milepost.envs.hosted import Hosted
from milepost.envs.make import make
from milepost.envs.mcp_server import EnvServer
from milepost.envs.runs import Run, read_episodes
from milepost.recipes import cli
from milepost.sandbox.core import SandboxError

mcp = pytest.importorskip("mcp")

TESTS = Path(__file__).parent
LADDER = "milepost/Ladder-v0"
SHOP = "tool_env:milepost-tests/Shop-v0"
NOISY = """
import os, sys
import tool_env
print("loading")
os.system("echo from a program")

class NoisyEnv(tool_env.ShopEnv):
    def step(self, action):
        print("stepping"); sys.stdout.flush()
        os.system("echo from a program")
        return super().step(action)

tool_env.gym.register("noisy/Shop-v0", entry_point=NoisyEnv, max_episode_steps=12)
"""

STUCK = """
import sys, threading
import tool_env
from milepost.envs import mcp_server
mcp_server.CLOSE_S = 1.0

class StuckEnv(tool_env.ShopEnv):
    def step(self, action):
        print("stuck", file=sys.stderr, flush=True)
        threading.Event().wait()

tool_env.gym.register("stuck/Shop-v0", entry_point=StuckEnv, max_episode_steps=12)
"""


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "milepost.recipes.cli", "mcp", *words]


def over_stdio(*words: str, path: Path = TESTS) -> Any:
    """Return what a client connects to: the command, started in a process of its own."""
    env = {name: os.environ[name] for name in ("PYTHONPATH",) if name in os.environ}
    env["PYTHONPATH"] = os.pathsep.join([env.get("PYTHONPATH", ""), str(TESTS), str(path)])
    first, *rest = command(*words)
    return mcp.StdioServerParameters(command=first, args=rest, env=env)


@contextmanager
def over_http(*words: str) -> Iterator[str]:
    """Yield the address of a server in a process of its own, which a signal ends."""
    with http_process(*words) as (process, url):
        try:
            yield url
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(20)


@contextmanager
def http_process(*words: str, path: Path = TESTS) -> Iterator[tuple[subprocess.Popen[str], str]]:
    env = os.environ | {"PYTHONPATH": os.pathsep.join([os.environ.get("PYTHONPATH", ""), str(TESTS), str(path)])}
    words = (*words, "--transport", "http", "--port", "0")
    process = subprocess.Popen(command(*words), stderr=subprocess.PIPE, text=True, env=env)
    assert process.stderr is not None
    try:
        line = process.stderr.readline()
        assert line.startswith("milepost: serving "), line + process.stderr.read()
        yield process, line.split()[-1]
    finally:
        process.kill()
        process.wait(20)
        process.stderr.close()


def talk(server: Any, calls: list[tuple[str, dict[str, Any]]], mode: str = "auto") -> tuple[list[str], list[Any]]:
    """Return the names of the tools, and a result per call, as the official client got them."""

    async def run() -> tuple[list[str], list[Any]]:
        async with mcp.Client(server, mode=mode) as client:
            names = [tool.name for tool in (await client.list_tools()).tools]
            return names, [await client.call_tool(name, arguments) for name, arguments in calls]

    return asyncio.run(run())


def started(server: Any) -> subprocess.Popen[str]:
    words, pipe = [server.command, *server.args], subprocess.PIPE
    return subprocess.Popen(words, stdin=pipe, stdout=pipe, stderr=pipe, text=True, env=os.environ | server.env)


def asked(process: subprocess.Popen[str], calls: list[tuple[str, dict[str, Any]]]) -> list[dict[str, Any]]:
    """Return the lines that answer the handshake, which has the id 0, and each call."""
    about = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}
    requests: list[dict[str, Any]] = [{"id": 0, "method": "initialize", "params": about}]
    requests += [{"method": "tools/call", "params": {"name": name, "arguments": a}} for name, a in calls]
    answers = []
    assert process.stdin is not None
    assert process.stdout is not None
    for i, request in enumerate(requests):
        process.stdin.write(json.dumps({"jsonrpc": "2.0", "id": i} | request) + "\n")
        if i == 0:
            process.stdin.write('{"jsonrpc": "2.0", "method": "notifications/initialized"}\n')
        process.stdin.flush()
        answers.append(json.loads(process.stdout.readline()))
    return answers


def texts(result: Any) -> list[str]:
    return [part.text for part in result.content if part.type == "text"]


CLIMB: list[tuple[str, dict[str, Any]]] = [("reset", {"task": "oak 5"}), *[("act", {"text": "climb"})] * 5]
VISIT: list[tuple[str, dict[str, Any]]] = [
    ("reset", {}),
    ("look", {"below": 50}),
    ("buy", {"item": "pem"}),
    ("buy", {"item": "pen"}),
    ("buy", {"item": "ink", "n": 2}),
    ("pay", {}),
]


@pytest.mark.parametrize("mode", ["auto", "legacy"])
def test_the_official_client_plays_an_episode_to_its_end_over_stdio(mode: str, tmp_path: Path):
    names, results = talk(over_stdio(LADDER, "--out", str(tmp_path / "run")), CLIMB, mode)
    assert names == ["reset", "act"]
    instructions = "Climb the ladder. Answer with one word: climb, rest or dust."
    assert texts(results[0]) == [instructions, "The oak ladder, rung 0 of 5."]
    assert texts(results[1]) == ["The oak ladder, rung 1 of 5."]
    over = "The episode is over: solved, outcome 1.0. Call reset to begin another."
    assert texts(results[5]) == ["You are on top.", over]
    ends = [result.structured_content for result in results]
    assert ends == [{"done": False}] * 5 + [{"done": True, "reward": 1.0, "outcome": 1.0, "success": True}]
    (episode,) = read_episodes(tmp_path / "run")
    assert (episode.stop, episode.outcome, episode.task, len(episode.turns)) == (Stop.TERMINATED, 1.0, "oak 5", 5)


@pytest.mark.parametrize("mode", ["auto", "legacy"])
def test_the_official_client_calls_the_tools_of_an_environment_over_streamable_http(mode: str, tmp_path: Path):
    with over_http(SHOP, "--out", str(tmp_path / "run")) as url:
        names, results = talk(url, [*VISIT, ("reset", {}), ("look", {})], mode)
    assert names == ["reset", "look", "buy", "pay"]
    assert texts(results[1]) == ['{"pen":2.0,"ink":3.5}', "The shop closes soon."]
    assert "expected one of 'pen', 'ink', 'desk', got the text 'pem'" in texts(results[2])[0]
    assert [result.is_error for result in results] == [False, False, True, *[False] * 5]
    assert results[5].structured_content == {"done": True, "reward": 3.0, "outcome": 1.0, "success": True}
    played = list(read_episodes(tmp_path / "run"))
    assert [(e.stop, len(e.turns), e.id) for e in played] == [
        (Stop.TERMINATED, 5, "mcp/0:0"),
        (Stop.CANCELLED, 1, "mcp/1:0"),
    ]
    assert played[0].turns[4].action.calls[0].name == "pay"


def test_nothing_but_the_protocol_is_written_to_standard_output(tmp_path: Path):
    (tmp_path / "noisy_env.py").write_text(NOISY)
    server = over_stdio("noisy_env:noisy/Shop-v0", path=tmp_path)
    with started(server) as process:
        answers = asked(process, VISIT)
        rest, errors = process.communicate(timeout=60)
    assert [answer["id"] for answer in answers] == list(range(7))
    assert rest == ""
    printed = ["loading", "from a program", *["stepping", "from a program"] * 5]
    assert [line for line in errors.splitlines() if line in printed] == printed


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_server_though_its_input_stays_open_and_what_was_played_is_kept(number: int, tmp_path: Path):
    server = over_stdio(LADDER, "--out", str(tmp_path / "run"))
    with started(server) as process:
        answers = asked(process, CLIMB[:2])
        assert "rung 1 of 5" in answers[2]["result"]["content"][0]["text"]
        process.send_signal(number)
        assert process.wait(20) == 128 + number
    (episode,) = read_episodes(tmp_path / "run")
    assert (episode.stop, len(episode.turns)) == (Stop.CANCELLED, 1)


LEFT = "milepost: the environment did not end within 1 s and is left\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, None])
def test_a_server_ends_in_the_middle_of_a_call_that_never_does(number: int | None, tmp_path: Path):
    (tmp_path / "stuck_env.py").write_text(STUCK)
    with started(over_stdio("stuck_env:stuck/Shop-v0", path=tmp_path)) as process:
        asked(process, [("reset", {})])
        assert process.stdin is not None
        assert process.stderr is not None
        call = {"name": "look", "arguments": {}}
        process.stdin.write(json.dumps({"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": call}) + "\n")
        process.stdin.flush()
        until(process, "stuck\n")
        if number is None:
            process.stdin.close()
        else:
            process.send_signal(number)
        try:
            assert process.wait(60) == (1 if number is None else 128 + number)
        finally:
            process.kill()
        assert LEFT in process.stderr.read()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, -signal.SIGTERM)])
def test_a_server_over_http_ends_in_the_middle_of_a_call_that_never_does(number: int, code: int, tmp_path: Path):
    (tmp_path / "stuck_env.py").write_text(STUCK)

    async def run(process: subprocess.Popen[str], url: str) -> None:
        async with mcp.Client(url) as client:
            await client.call_tool("reset", {})
            call = asyncio.create_task(client.call_tool("look", {}))
            await asyncio.to_thread(until, process, "stuck\n")
            process.send_signal(number)
            await asyncio.gather(call, return_exceptions=True)

    with http_process("stuck_env:stuck/Shop-v0", path=tmp_path) as (process, url):
        with suppress(Exception):  # what a client makes of a server that ends is not ours
            asyncio.run(run(process, url))
        assert process.wait(60) == code
        assert process.stderr is not None
        assert LEFT in process.stderr.read()


def until(process: subprocess.Popen[str], said: str) -> None:
    """Wait for a line of its standard error."""
    assert process.stderr is not None
    for line in process.stderr:
        if line == said:
            return


def test_pictures_reach_the_client_as_images():
    from milepost.envs.mcp_server import EnvServer

    server = EnvServer(lambda: Hosted(ShopEnv(picture=True))).server()
    _, results = talk(server, [("reset", {}), ("look", {})])
    (picture,) = [part for part in results[1].content if part.type == "image"]
    assert picture.mime_type == "image/png"
    assert picture.data.startswith("iVBORw0KGgo")  # the signature of a PNG in base64


def test_a_player_sees_no_answer_and_no_reward_of_a_turn(tmp_path: Path):
    hosted = Hosted(ShopEnv())
    replies = [hosted.call(name, arguments) for name, arguments in VISIT]
    assert "s3cret" not in repr(replies)
    assert [reply.end for reply in replies[:-1]] == [{}] * 5


def test_calls_outside_an_episode_and_unknown_calls_take_no_turn():
    hosted = Hosted(make(LADDER))
    said = "No episode is under way: call reset to begin one."
    assert hosted.call("act", {"text": "climb"}).texts == [said]
    hosted.call("reset", {})
    for name, arguments, sentence in [
        ("atc", {"text": "climb"}, "No tool 'atc' (did you mean 'act'?); there are: reset, act."),
        ("act", {"txt": "climb"}, "unexpected argument 'txt' (did you mean 'text'?); missing argument text"),
        ("act", {"text": 3}, "text: expected a text, got 3"),
    ]:
        reply = hosted.call(name, arguments)
        assert sentence in reply.texts[0]
        assert (reply.mistake, reply.done) == (True, False)
    assert hosted.call("act", {"text": "climb"}).texts[0].startswith("The ")
    for arguments, sentence in [
        ({"task": "oka 5"}, "task: expected one of tasks(split)"),
        ({"seed": -1}, "The episode did not begin"),
        ({"seed": "0"}, "seed: expected an integer or null, got the text '0'"),
    ]:
        reply = hosted.call("reset", arguments)
        assert sentence in reply.texts[0]
        assert reply.mistake


def test_an_episode_that_runs_out_of_turns_is_scored_and_told():
    hosted = Hosted(make(LADDER), seed=0)
    hosted.call("reset", {})
    replies = [hosted.call("act", {"text": "rest"}) for _ in range(9)]
    assert replies[7].end == {"reward": 0.0, "outcome": 0.0, "success": False}
    assert replies[7].texts[-1] == "The episode is over: not solved, outcome 0.0. Call reset to begin another."
    assert replies[8].texts == ["No episode is under way: call reset to begin one."]


@pytest.mark.parametrize(
    ("error", "said"), [(SandboxError("gone"), "The machine under"), (KeyError("x"), "The environment broke")]
)
def test_what_an_environment_raises_is_recorded_as_failed_and_never_scored(error, said, tmp_path, monkeypatch):
    def broken(self: ShopEnv, action: str) -> Any:
        raise error

    hosted = Hosted(ShopEnv())
    with Run.open(tmp_path, "mcp") as run:
        hosted.record_in(run)
        hosted.call("reset", {})
        hosted.call("look", {})
        monkeypatch.setattr(ShopEnv, "step", broken)
        reply = hosted.call("look", {})
    assert reply.texts[0].startswith(said)
    assert (reply.done, reply.end) == (True, {})
    (episode,) = read_episodes(tmp_path)
    assert (episode.stop, episode.outcome) == (Stop.FAILED, None)


def test_a_run_folder_is_appended_to_and_no_id_comes_twice(tmp_path: Path):
    for _ in range(2):
        hosted = Hosted(make(LADDER), seed=7)
        hosted.record_in(Run.open(tmp_path, "mcp", resume=True))
        hosted.call("reset", {})
        for name, arguments in [*CLIMB, ("reset", {}), ("act", {"text": "rest"})]:
            hosted.call(name, arguments)
        hosted.close()
    ids = [episode.id for episode in read_episodes(tmp_path)]
    assert ids == ["mcp/oak 5:0", "mcp/7:1", "mcp/oak 5:1", "mcp/7:3"]  # 7:0 and 7:2 took no turn


def test_without_a_seed_every_episode_has_another_one():
    hosted = Hosted(make(LADDER))
    episodes: list[Episode] = []
    for _ in range(3):
        hosted.call("reset", {})
        episodes.append(hosted._env.episode)
    assert [episode.seed for episode in episodes] == [0, 1, 2]


def test_a_tool_whose_schema_names_no_parameters_is_listed():
    class Bare(ShopEnv):
        def __init__(self) -> None:
            super().__init__()
            self.tools = [{"type": "function", "function": {"name": "pay"}}]

    server = EnvServer(lambda: Hosted(Bare())).server()
    assert talk(server, [("reset", {})])[0] == ["reset", "pay"]


def test_an_environment_with_a_tool_named_reset_is_refused():
    class Odd(ShopEnv):
        def __init__(self) -> None:
            super().__init__()
            self.tools = [{"type": "function", "function": {**self.tools[0]["function"], "name": "reset"}}]

    with pytest.raises(ValueError, match="has a tool named 'reset'"):
        Hosted(Odd())


Words = Callable[[int], list[str]]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (lambda port: ["milepost/Lader-v0"], "no environment 'milepost/Lader-v0' (did you mean 'milepost/Ladder-v0'?)"),
        (lambda port: [LADDER, "--option", "dist=1"], "has no option 'dist' (did you mean 'dust'?)"),
        (lambda port: [LADDER, "--task", "oak 9"], "task: expected one of tasks(split), such as 'oak 5', got 'oak 9'"),
        (lambda port: [LADDER, "--split", "tset"], "split: expected one of train, valid, test, got 'tset'"),
        (lambda port: [LADDER, "--split", "test", "--task", "pear 7"], "got 'pear 7' (did you mean 'pear 6'?)"),
        (lambda port: [SHOP, "--split", "test"], "--split test: expected an environment with a list of tasks"),
        (lambda port: [LADDER, "--transport", "http", "--port", str(port)], "expected an address that is free here"),
        (lambda port: [LADDER, "--transport", "http", "--port", "70000"], "expected an address that is free here"),
    ],
)
def test_bad_input_is_one_line_and_leaves_no_run_folder(words: Words, said: str, capsys, tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        code = cli.main(["mcp", *words(taken.getsockname()[1]), "--out", str(tmp_path / "run")])
    captured = capsys.readouterr()
    assert (code, captured.out) == (2, "")
    assert said in captured.err
    assert captured.err.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_missing_package_is_named_with_the_extra_that_brings_it(capsys, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "mcp"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "mcp", None)
    assert cli.main(["mcp", LADDER]) == 2
    assert capsys.readouterr().err == "milepost: this needs mcp: pip install 'milepost[mcp]'\n"
