"""A program in any language plays; one that dies, hangs or floods is told in one line and loses no other episode."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from agent_envs import CELLAR

from milepost.agents.core import Request
from milepost.agents.driver import play
from milepost.agents.process import ProcessPolicy, ProgramError
from milepost.envs.core import Call, ContractError, Episode, Stop, Task

HERE = Path(__file__).parent / "agents"
TROUBLED = f"{sys.executable} {HERE}/troubled.py"


def tasks(*words: str) -> list[Task]:
    return [Task("milepost/Ladder-v0", task="oak 5", group=f"{word}{i}") for i, word in enumerate(words)]


def run(policy: ProcessPolicy, *words: str, slots: int = 8) -> list[Episode]:
    return play(tasks(*words), policy, gather="greedy", slots=slots)


def stops(episodes: list[Episode]) -> list[Stop | None]:
    return [episode.stop for episode in episodes]


@pytest.fixture
def troubled() -> Iterator[ProcessPolicy]:
    with ProcessPolicy(TROUBLED) as policy:
        yield policy


def asked(policy: ProcessPolicy, episode: str) -> str:
    """Return what the policy answers in an episode, or its error."""
    (answer,) = asyncio.run(policy.act([Request(episode, "g", [])]))
    return str(answer) if isinstance(answer, Exception) else answer.text


def gone(pid: str) -> bool:
    """Wait until a process is gone; a zombie of ours is not gone."""
    for _ in range(600):
        try:
            state, parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:2]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state == "Z" and int(parent) != os.getpid():
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize(
    "command", [f"{sys.executable} {HERE}/fetch.py", f"sh {HERE}/climb.sh", f"awk -W interactive -f {HERE}/climb.awk"]
)
def test_a_program_in_any_language_plays(command: str):
    if shutil.which(command.split()[0]) is None:
        pytest.skip(f"no {command.split()[0]}")
    with ProcessPolicy(command) as policy:
        assert [episode.success for episode in run(policy, "a", "b", "c")] == [True] * 3


def test_a_program_calls_tools():
    with ProcessPolicy(f"{sys.executable} {HERE}/fetch.py") as policy:
        (episode,) = play([Task(CELLAR, group="c")], policy)
    assert episode.turns[0].action.calls == (Call("c1", "take", '{"bottle": "rum"}'),)
    assert episode.success is True


def test_answers_may_come_in_any_order_and_more_than_once(troubled: ProcessPolicy):
    assert [e.success for e in run(troubled, "late", "late", "late", "late")] == [True] * 4
    assert [e.success for e in run(troubled, "twice", "twice")] == [True] * 2


def test_one_policy_plays_in_several_event_loops(troubled: ProcessPolicy):
    pids = [run(troubled, "pid")[0].turns[0].action.text for _ in range(2)]
    assert pids[0] == pids[1]


def test_an_episode_stays_with_its_process():
    with ProcessPolicy(TROUBLED, processes=3) as policy:
        episodes = run(policy, *["pid"] * 6)
    pids = [{turn.action.text for turn in episode.turns} for episode in episodes]
    assert all(len(of_one) == 1 for of_one in pids)
    assert len(set().union(*pids)) == 3


def test_a_program_that_dies_fails_what_it_was_asked_and_starts_again(troubled: ProcessPolicy):
    assert run(troubled, "a")[0].success is True
    for word, why in {
        "die": "ended with exit code 7; its last words: MemoryError: no more",
        "killed": "signal 9",
        "leave": "ended with exit code 5",
    }.items():
        (broken,) = run(troubled, word)
        assert broken.stop is Stop.FAILED
        assert why in (broken.failure or "")
        assert f"agent program '{TROUBLED}'" in (broken.failure or "")
        assert run(troubled, "b")[0].success is True


def test_a_program_that_only_dies_ends_the_run(troubled: ProcessPolicy):
    run(troubled, "a")
    with pytest.raises(ProgramError, match=r"exit code 7; its last words: MemoryError.* \(3 times in a row"):
        run(troubled, *["die"] * 20, slots=1)


@pytest.mark.parametrize(
    ("command", "told"),
    [
        (f"{sys.executable} -c 'import no_such_thing'", "ended with exit code 1; its last words: ModuleNotFoundError"),
        ("true", r"ended with exit code 0 \(before it answered anything\)"),
        (TROUBLED, r"exit code 7"),
    ],
)
def test_a_program_that_never_answers_ends_the_run_at_once(command: str, told: str):
    with ProcessPolicy(command) as policy, pytest.raises(ContractError, match=told):
        run(policy, "die", "die", "die")


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("chatty", r"got b'Let me think \.\.\.'; what is meant for a person goes to standard error"),
        ("stranger", r"with the \"id\" of a request .*, got b'{\"id\": 1000000"),
        ("wrong", "content: expected a text, got int 5"),
    ],
)
def test_what_is_no_answer_is_told(troubled: ProcessPolicy, word: str, told: str):
    with pytest.raises(ContractError, match=f"^agent program .*{told}"):
        run(troubled, word)


def test_a_flood_is_read_no_further_than_a_line_may_be(troubled: ProcessPolicy):
    with pytest.raises(ContractError, match=r"a line of more than 16,000,000 bytes, which begins with b'xxx"):
        run(troubled, "flood")


def test_an_episode_that_the_program_gives_up_fails_alone(troubled: ProcessPolicy):
    first, second = run(troubled, "sorry", "fine")
    assert (first.stop, second.success) == (Stop.FAILED, True)
    assert "no key left" in (first.failure or "")


def test_an_answer_that_never_comes_fails_its_episode_alone():
    with ProcessPolicy(TROUBLED, timeout_s=2.0) as policy:
        run(policy, "a")
        first, second = play(tasks("silent", "fine"), policy, gather="greedy")
        assert first.stop is Stop.FAILED
        assert "no answer in 2 s" in (first.failure or "")
        assert second.success is True


def test_a_program_that_hangs_is_started_anew():
    with ProcessPolicy(TROUBLED, timeout_s=4.0) as policy:
        assert run(policy, "a")[0].success is True
        assert stops(run(policy, "mute-errs")) == [Stop.FAILED]
        assert run(policy, "b")[0].success is True, "it was asked of the program that was killed and had not ended yet"
    with (
        ProcessPolicy(TROUBLED, timeout_s=1.0) as policy,
        pytest.raises(ContractError, match="answered nothing in 1 s"),
    ):
        run(policy, *["mute"] * 3, slots=1)


@pytest.mark.parametrize("what", ["errs", "outs"])
def test_a_program_that_ended_is_asked_no_more_whatever_holds_its_output(what: str):
    with ProcessPolicy(TROUBLED, timeout_s=15.0) as policy:
        assert asked(policy, f"parts-{what}") == "climb"
        while (program := policy._programs[0]) is not None and not program.over:
            time.sleep(0.01)
        assert asked(policy, "fine") == "climb"
        assert "ended with exit code 7" in asked(policy, f"die-{what}")
        assert asked(policy, "fine") == "climb"


def test_a_program_that_wants_it_hears_which_episodes_are_over(
    troubled: ProcessPolicy, capfd: pytest.CaptureFixture[str]
):
    (episode,) = run(troubled, "a")
    troubled.close()
    assert f"told to forget {episode.id}" in capfd.readouterr().err


def test_closing_leaves_no_process(troubled: ProcessPolicy):
    (episode,) = run(troubled, "spawn")
    _, child, pid = episode.turns[0].action.text.split()
    assert Path(f"/proc/{pid}").exists()
    troubled.close()
    assert gone(pid)
    assert gone(child)
    assert run(troubled, "a")[0].success is True, "it starts again on use"


def test_what_a_program_left_ends_with_the_policy_also_where_another_program_took_its_place():
    script = f"""
import asyncio, time
from milepost.agents.core import Request
from milepost.agents.process import ProcessPolicy
with ProcessPolicy({TROUBLED!r}) as policy:
    print(asyncio.run(policy.act([Request("parts-holds", "g", [])]))[0].text, flush=True)
    while (program := policy._programs[0]) is not None and not program.over:
        time.sleep(0.01)
    print(asyncio.run(policy.act([Request("fine", "g", [])]))[0].text, flush=True)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=100)
    child, answer = done.stdout.split()
    assert answer == "climb"
    assert gone(child)


def test_a_program_that_stays_when_its_input_ends_is_killed_with_its_children():
    with ProcessPolicy("sh -c 'read line; echo $$ >&2; sleep 3600'", timeout_s=1.0) as policy:
        with pytest.raises(ContractError, match=r"answered nothing in 1 s; its last words: \d+") as told:
            run(policy, "a", "b", slots=1)
        assert gone(str(told.value).split("words: ")[1].split()[0])


def test_a_program_ends_with_the_process_that_asked_it(tmp_path: Path):
    script = f"""
import asyncio, os, signal
from milepost.agents.core import Request
from milepost.agents.process import ProcessPolicy
policy = ProcessPolicy({TROUBLED!r})
(answer,) = asyncio.run(policy.act([Request("pid", "g", [])]))
print(answer.text, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert gone(done.stdout.split()[1])


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("no-such-program --x", "agent program 'no-such-program --x': expected a program, got 'no-such-program'"),
        ("", "agent program '': expected a program, got 'nothing'"),
        ("sh -c 'x", "agent program .*: No closing quotation"),
    ],
)
def test_a_command_that_is_none_is_refused(command: str, told: str):
    with pytest.raises(ValueError, match=told):
        ProcessPolicy(command)
    with pytest.raises(ValueError, match="expected 1 or more"):
        ProcessPolicy("sh", processes=0)
