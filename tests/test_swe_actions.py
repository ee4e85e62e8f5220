"""The two forms of a turn, and the oracle's replacements."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from swe_envs import EASY, FIX, MIDDLE, TASK, begun, oracle, solve, tiny_tasks

from milepost.envs.core import Action, Call, Episode
from milepost.envs.swe.invoked import runs_tests
from milepost.envs.swe.oracle import bash_moves, call, replacements, tool_moves


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with tiny_tasks(tmp_path_factory.mktemp("swe")) as path:
        yield path


def bash(command: str) -> str:
    return f"I look.\n```bash\n{command}\n```\n"


STEPS: list[tuple[str, dict[str, Any]]] = [
    ("open", {"file": "tiny.py", "line": 15}),
    ("edit", {"file": "tiny.py", "old": FIX[0], "new": FIX[1]}),
    ("run_tests", {}),
    ("submit", {}),
]


def in_text(name: str, arguments: dict[str, Any]) -> Action:
    return Action(call(name, **arguments))


def in_json(name: str, arguments: dict[str, Any]) -> Action:
    return Action(f"Now:\n```json\n{json.dumps({'name': name, 'arguments': arguments})}\n```")


def natively(name: str, arguments: dict[str, Any]) -> Action:
    return Action("", calls=(Call("c1", name, json.dumps(arguments)),))


def test_the_three_forms_of_calling_give_the_same_episode(file: Path):
    episodes: list[Episode] = []
    for form in (in_text, in_json, natively):
        with begun(file) as env:
            for name, arguments in STEPS:
                env.step(form(name, arguments))
            episodes.append(env.episode)
    assert episodes[0].outcome == 1.0
    for other in episodes[1:]:
        assert [turn.info for turn in other.turns] == [turn.info for turn in episodes[0].turns]
    shown = [turn.observation for turn in episodes[0].turns[1:]]
    assert [turn.observation["results"][0]["text"] for turn in episodes[2].turns[1:]] == shown  # type: ignore[index]


def test_several_calls_of_a_turn_are_run_in_order_and_none_after_the_submission(file: Path):
    with begun(file) as env:
        moves = "\n".join(call(name, **arguments) for name, arguments in [*STEPS, STEPS[0]][1:])
        shown, _, terminated, _, info = env.step(moves)
        assert terminated
        assert info["result"] == "resolved"
        assert "4. open: Not run: a call before it ended the task." in str(shown)
    with begun(file) as env:
        shown, *_ = env.step("\n".join([call("find", name="tiny")] * 5))
        assert "5. find: Not run: a turn has at most 4 calls." in str(shown)


@pytest.mark.parametrize(
    ("move", "critics"),
    [
        (call("open", file="tiny.py"), (1.0, 1.0, 1.0)),
        (call("open", file="nothing.py"), (1.0, 0.0, 1.0)),
        (call("open", fil="tiny.py"), (1.0, 0.0, 1.0)),
        (call("delete", file="tiny.py"), (1.0, 0.0, 0.0)),
        ("open(file=", (0.0, 0.0, 1.0)),
        ("I would look at tiny.py", (0.0, 0.0, 0.0)),
        ("", (0.0, 0.0, 0.0)),
        (f"{call('scroll')}\n{call('find', name='x')}", (1.0, 0.0, 1.0)),
    ],
)
def test_the_three_critics_say_whether_a_turn_could_be_read_was_done_and_asked_for_what_there_is(
    file: Path, move: str, critics: tuple[float, ...]
):
    with begun(file) as env:
        *_, info = env.step(move)
        assert tuple(info["reward_components"][name] for name in ("format", "call", "scaffold")) == critics
        assert info["valid"] is (critics[1] == 1.0)


def test_a_shell_keeps_its_folder_and_variables_and_finds_the_tests(file: Path):
    with begun(file, actions="bash") as env:
        assert env.step(bash("mkdir sub; cd sub; X=3"))[0] == "[no output]"
        assert env.step(bash("pwd; echo $X; false"))[0] == "/workspace/sub\n3\n[exit code 1]"
        shown, _, _, _, info = env.step(bash("cd ..; python3 -m pytest -q --tb=no"))
        assert str(shown).endswith("2 failed, 2 passed\n[exit code 1]")
        assert info["valid"]
        env.step(bash("sed -i 's|[*] 2|// 2|' tiny.py"))
        *_, info = env.step(bash("submit"))
        assert info["result"] == "resolved"


@pytest.mark.parametrize(
    ("found", "scripts"),
    [
        (
            "last",
            ["pytest", "python3 -m pytest -q a.py | tail -5", "sed -i s/a/b/ x.py && X=1 python -B -m unittest -v"],
        ),
        ("last", ["cd t; timeout 20 /usr/bin/python3.11 -W ignore -m pytest > /tmp/out 2>&1 || true; echo $?  # all"]),
        (
            "last",
            ["cat > x.py <<'END'\nx = 'it\\'s'\nEND\npython3 \\\n  -m pytest", "! python -m pytest; exit"],
        ),
        ("earlier", ["pytest; sed -i s/a/b/ x.py", "python -m pytest && cat x.py"]),
        (
            "",
            [
                "echo pytest",
                "echo '\npytest\n'",
                "ls # ; pytest",
                "grep pytest x.py",
                "cat <<END\npytest\nEND",
                "ls pytest",
            ],
        ),
        ("", ["pytest --version", "python3 -m pytest --collect-only -q", "pytest_of_mine", "python3 x.py -m pytest"]),
    ],
)
def test_a_script_runs_tests_where_a_command_of_it_does(found: str, scripts: list[str]):
    assert [runs_tests(script) for script in scripts] == [found] * len(scripts)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("words", ["python3" + " -Wa" * 300, "timeout" + " -a timeout" * 300, "A=b " * 300])
def test_a_script_of_many_words_is_read_at_once(words: str):
    assert runs_tests(f"{words} x.py") == ""


def test_tests_before_an_edit_of_the_same_turn_are_not_tests_of_it(file: Path):
    change, other = ("sed -i 's/low + high/low + high + 0/' tiny.py", "sed -i 's/ + 0//' tiny.py")
    test = "python3 -m pytest -q --tb=no test_tiny.py | tail -1"
    with begun(file, actions="bash") as env:
        for script, told in (
            (f"{change}; echo pytest", 0),
            (test, 1),
            (f"{test}; {other}", 0),
            (f"{change}; {test}", 1),
        ):
            assert env.step(bash(script))[-1]["reward_components"]["tests"] == told
    edit = call("edit", file="tiny.py", old="(low + high) * 2", new="0")
    with begun(file) as env:
        assert env.step(f"{call('run_tests')}\n{edit}")[-1]["reward_components"]["tests"] == 0
        assert env.step(call("run_tests"))[-1]["reward_components"]["tests"] == 1
    with begun(file) as env:
        assert env.step(f"{edit}\n{call('run_tests')}")[-1]["reward_components"]["tests"] == 1


@pytest.mark.parametrize(
    "move", ["ls", "```bash\n```", "```bash\nls\n```\n```bash\npwd\n```", "", bash("a\0b"), "{", "```"]
)
def test_a_turn_without_one_block_of_commands_is_answered(file: Path, move: str):
    with begun(file, actions="bash") as env:
        shown, _, terminated, _, info = env.step(move)
        assert str(shown).startswith("Nothing was run. Expected one block of commands, got ")
        assert not terminated
        assert not info["valid"]
        assert info["reward_components"] == {"format": 0.0, "call": 0.0, "scaffold": 0.0, "tests": 0.0, "patch": 0.0}


def test_commands_without_end_a_flood_and_the_end_of_the_shell_are_answered(file: Path):
    with begun(file, actions="bash", turn_timeout_s=5.0, max_chars=200) as env:
        shown, _, _, _, info = env.step(bash("echo begun; yes"))
        assert str(shown).startswith("begun\ny\n")
        assert str(shown).endswith("y\n[stopped after 5 s; the shell began anew]")
        assert len(str(shown)) < 350
        assert info["reward_components"]["call"] == 0.0
        assert env.step(bash("exit 3"))[0] == "[exit code 3]"
        assert env.step(bash("python3 -c 'import pytest; print(7)'; pwd"))[0] == "7\n/workspace"


def test_commands_that_want_all_memory_are_killed_and_the_shell_lives(file: Path):
    with begun(file, actions="bash", memory=1 << 28) as env:
        assert "137" in str(env.step(bash("x=1; python3 -c 'x = b\"y\" * (1 << 31)'; echo $?"))[0])
        assert env.step(bash("echo $x"))[0] == "1"


def test_the_words_a_shell_submits_with_stand_alone(file: Path):
    with begun(file, actions="bash") as env:
        shown, _, terminated, _, _ = env.step(bash("echo a && submit"))
        assert not terminated
        assert "submit: command not found" in str(shown)
        assert env.step("```\n submit \n```")[2]


GARBAGE = [
    "rm tiny.py",
    "rm tiny.py; ln -s /etc/passwd tiny.py",
    "rm tiny.py; mkdir -p tiny.py/x; touch tiny.py/x/y",
    "echo > tiny.py",
    "printf '\\xff\\xfe' > tiny.py",
    "tac tiny.py > x; mv x tiny.py",
    "echo 'raise SystemExit' >> tiny.py; chmod 600 tiny.py; rm test_tiny.py",
    "sed -i 's/return/return 1 +/' tiny.py; cd /; alias python3=false",
]


@pytest.mark.parametrize("command", GARBAGE)
def test_the_oracle_repairs_in_a_shell_what_was_done_before(file: Path, command: str):
    with begun(file, actions="bash") as env:
        env.step(bash(command))
        assert solve(env)["result"] == "resolved"


def test_the_oracle_repairs_by_tools_what_was_done_before(file: Path):
    with begun(file) as env:
        env.step(call("edit", file="tiny.py", old=FIX[0], new="return 'x'"))
        env.step(call("edit", file="tiny.py", old="    result = start\n", new=""))
        env.step(call("edit", file="test_tiny.py", old="== 4", new="== 16"))
        assert len(oracle(env)) == 3
        assert solve(env)["result"] == "resolved"
    with begun(file) as env:
        source = env.unwrapped._sandbox.read("tiny.py").decode()  # type: ignore[attr-defined]
        env.step(call("edit", file="tiny.py", old=source, new=""))
        assert solve(env)["result"] == "resolved"


LINES = st.lists(st.sampled_from(["a = 1\n", "    a = 1\n", "b = 2\n", "\n", "c\n", "if a:\n"]), max_size=12)


@settings(deadline=None, max_examples=300)
@given(before=LINES, after=LINES, end=st.sampled_from(["", "last"]), parses=st.booleans())
def test_replacements_are_each_of_a_text_that_is_there_once_and_lead_to_the_goal(
    before: list[str], after: list[str], end: str, parses: bool
):
    text, goal = "".join(before) + end, "".join(after)
    for old, new in replacements(text, goal, lambda text: parses):
        assert old or not text
        assert text.find(old) == text.rfind(old) or not text
        text = text.replace(old, new) if old else new
    assert text == goal


def test_a_replacement_is_as_short_as_a_line_where_that_says_which():
    text = "def f():\n    x = 1\n    return x\n\ndef g():\n    x = 1\n    return 2\n"
    goal = text.replace("return 2", "return 3")
    assert replacements(text, goal, lambda text: True) == [("return 2", "return 3")]
    other = text.replace("def g():\n    x = 1", "def g():\n    x = 5")
    assert replacements(text, other, lambda text: True) == [("def g():\n    x = 1", "def g():\n    x = 5")]


def test_a_file_that_is_not_wanted_is_removed_in_a_shell_and_emptied_by_tools():
    wanted = {"x.py": (b"import os\n", None)}
    assert bash_moves(wanted, "/w") == ["```bash\nrm -rf '/w/x.py'\n```", "```bash\nsubmit\n```"]
    assert tool_moves(wanted, lambda text: True) == ['edit(file="x.py", old="import os\\n", new="")', "submit()"]


def test_hints_have_a_turn_of_every_kind_and_the_oracles_next(file: Path):
    with begun(file) as env:
        actions = env.episode.info["actions"]
        assert actions[0] == oracle(env)[0]
        kinds = {action.partition("(")[0] for action in actions}
        assert kinds == {"edit", "open", "search", "find", "scroll", "run_tests", "submit"}
        assert call("search", text=MIDDLE.partition("::")[2]) in actions
    assert EASY.id == TASK
