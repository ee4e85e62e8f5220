"""Attacks are refused where they are to be, and succeed where exactly what refuses them is missing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from milepost.recipes.cli import main
from milepost.sandbox import leftovers, limits
from milepost.sandbox.attacks import suite
from milepost.sandbox.attacks.core import AttackError, Control
from milepost.sandbox.attacks.stage import Stage
from tests.sandboxes import as_an_ordinary_user, need

QUICK = ("fork-bomb", "memory-bomb", "disk-fill", "mount", "unshare", "ptrace", "tcp", "leftover-process")
ISOLATED = [pytest.param("docker", marks=pytest.mark.docker), "bubblewrap", "landlock"]
HARM = {"raise-limits", "module-load", "file-handle", "clock", "sysfs", "fifo", "sparse-file", "deep-folders"}
NO_CONTROL = {
    "docker": {*HARM, "hard-link"},
    "bubblewrap": {*HARM, "hard-link", "setuid", "other-files"},
    "landlock": {*HARM, "setuid", "capabilities", "hostname"},
}
"""What cannot be shown to succeed, besides landlock's known holes, which do; each says why."""


def test_there_are_at_least_thirty_attacks_with_names_of_their_own() -> None:
    names = [attack.name for attack in suite.ATTACKS]
    assert len(names) == len(set(names)) >= 30
    assert set(QUICK) <= set(names)


@pytest.mark.parametrize("backend", ["docker", "bubblewrap", "landlock"])
def test_every_attack_has_a_control_or_a_reason_why_there_is_none(backend: str) -> None:
    without = {}
    for attack in suite.ATTACKS:
        control = attack.control_on(backend)
        if isinstance(control, Control):
            assert len(control.parts) + control.lifted > 0, attack.name
        else:
            assert len(control) > 20, attack.name
            without[attack.name] = control
    holes = {attack.name for attack in suite.ATTACKS if attack.hole_on(backend)}
    assert set(without) == NO_CONTROL[backend] | holes
    assert all(without[name].startswith("a known hole: ") for name in holes)


@pytest.mark.parametrize("backend", ISOLATED[:2])
def test_the_command_tells_of_each_attack_what_came_of_it(backend: str, capsys: pytest.CaptureFixture[str]) -> None:
    need(backend)
    assert main(["sandbox", "attack", "--backend", backend, "--json", "--only", *QUICK]) == 0
    rows: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows] == list(QUICK)
    assert all(row["refused"] is True and row["detail"] for row in rows)


def test_the_list_fits_a_terminal_and_says_in_a_line_why_a_backend_is_not_there(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere.sock")
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["sandbox", "list"]) == 0
    *table, last = capsys.readouterr().out.splitlines()
    assert last.startswith("docker is not there: no engine answers: ")
    assert "local" in table[1]
    assert "docker" not in table[1]
    assert len(table) < 20


def test_leaving_out_what_refuses_an_attack_lets_it_through(capsys: pytest.CaptureFixture[str]) -> None:
    need("bubblewrap")
    chosen = ["fork-bomb", "disk-fill", "unshare", "ptrace", "tcp", "leftover-process"]
    argv = ["sandbox", "attack", "--backend", "bubblewrap", "--controls", "--json", "--only", *chosen]
    assert main(argv) == 0
    rows: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    assert {row["name"]: row["refused"] for row in rows} == dict.fromkeys(chosen, False)
    said = {row["name"]: row["detail"] for row in rows}
    assert said["disk-fill"].startswith("refused twice: disk and memory; without them: ")
    assert "refused" not in said["unshare"]


IN_IT = """
import json, os, socket, sys
from pathlib import Path
from milepost.sandbox.attacks import outer
sys.stdout.flush()
port, planted = int(sys.argv[1]), sys.argv[2]
outer.enter()
said = {"processes": len(list(Path("/proc").glob("[0-9]*")))}
for name, deed in {
    "file": lambda: open(planted, "w"),
    "connect": lambda: socket.create_connection(("127.0.0.1", port), 5),
    "clock": lambda: __import__("time").clock_settime(0, __import__("time").time()),
}.items():
    try:
        deed()
        said[name] = None
    except OSError as error:
        said[name] = error.strerror
print(json.dumps(said))
"""


def test_the_sandbox_around_controls_keeps_them_from_the_machine(tmp_path: Any) -> None:
    need("bubblewrap")
    with Stage("bubblewrap") as stage, stage.listener(2, 1, ("127.0.0.1", 0)) as (at, _):
        argv = [sys.executable, "-c", IN_IT, str(at[1]), str(tmp_path / "planted")]
        asked = subprocess.run(argv, capture_output=True, text=True)
    assert asked.returncode == 0, asked.stderr
    assert json.loads(asked.stdout) == {
        "processes": 2,  # itself, and who waits for it
        "file": "Read-only file system",
        "connect": "Connection refused",
        "clock": "Operation not permitted",
    }
    assert list(tmp_path.iterdir()) == []


NOT_NEEDED = """
from dataclasses import replace
from milepost.sandbox.attacks import outer, suite
from milepost.sandbox.attacks.core import without
outer.enter()
attack = next(attack for attack in suite.ATTACKS if attack.name == "mount")
print(suite.control("bubblewrap", replace(attack, control=without("userns", "files", "seccomp", "proc"))).detail)
"""


def test_a_protection_that_does_not_refuse_an_attack_is_not_said_to() -> None:
    need("bubblewrap")
    asked = subprocess.run([sys.executable, "-c", NOT_NEEDED], capture_output=True, text=True)
    assert asked.stdout.startswith("refused 3 times: proc, seccomp and userns; without them: mounted"), asked.stderr


def test_bad_words_are_one_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere.sock")
    for argv in (
        ["attack", "--backend", "docker"],
        ["attack", "--backend", "local"],
        ["attack", "--backend", "bubblewrap", "--only", "fork-bom"],
        ["clean", "--days", "-1"],
        ["atack"],
    ):
        assert main(["sandbox", *argv]) == 2
        assert capsys.readouterr().err.count("\n") == 1


def test_a_payload_that_crashes_has_no_verdict() -> None:
    need("bubblewrap")

    def broken() -> str:
        raise KeyError("a defect of the payload")

    with Stage("bubblewrap") as stage, pytest.raises(AttackError, match="no verdict"):
        stage.inside(broken)


AS_USER = """
import json
from milepost.sandbox.attacks import outer, suite
outer.enter()
chosen = tuple(attack for attack in suite.ATTACKS if attack.name in {names!r})
holes = [attack.name for attack in chosen if attack.hole_on({backend!r})]
print(json.dumps([holes, [row.name for row in suite.play({backend!r}, chosen) if not row.refused]]))
"""


def test_what_landlock_does_not_refuse_for_an_ordinary_user_is_a_known_hole() -> None:
    need("landlock")
    names = ("fork-bomb", "memory-bomb-spread", "base-corrupt", "host-modes", "host-limits")
    holes, succeeded = as_an_ordinary_user(AS_USER.format(names=names, backend="landlock"))
    assert holes == succeeded == ["fork-bomb", "memory-bomb-spread", "base-corrupt", "host-modes"]


@pytest.mark.slow
@pytest.mark.parametrize("backend", ISOLATED[1:])
def test_every_attack_by_an_ordinary_user_is_refused_but_for_known_holes(backend: str) -> None:
    need(backend)
    names = [attack.name for attack in suite.ATTACKS]
    holes, succeeded = as_an_ordinary_user(AS_USER.format(names=names, backend=backend))
    assert succeeded == holes


@pytest.mark.slow
@pytest.mark.parametrize("backend", ISOLATED)
def test_every_attack_is_refused_but_for_known_holes(backend: str) -> None:
    need(backend)
    holes = {attack.name for attack in suite.ATTACKS if attack.hole_on(backend)}
    assert {row.name for row in suite.play(backend) if not row.refused} == holes


@pytest.mark.slow
@pytest.mark.parametrize("backend", ISOLATED)
def test_every_control_succeeds_and_nothing_is_left_of_them(backend: str) -> None:
    need(backend)
    if os.geteuid() and backend != "bubblewrap":
        pytest.skip("takes root")
    rows = list(suite.controls(backend))
    assert [(row.name, row.detail) for row in rows if row.refused] == []
    assert [row.name for row in rows] == [attack.name for attack in suite.ATTACKS]
    for attack, row in zip(suite.ATTACKS, rows, strict=True):
        control = attack.control_on(backend)
        if isinstance(control, Control) and len(control.parts) > 1 and os.geteuid() == 0:
            told = row.detail.partition(": ")[2].partition("; ")[0]
            if attack.name != "other-memory":  # see there
                assert set(told.replace(" and ", ", ").split(", ")) == set(control.parts), row
    assert sum(row.refused is False for row in rows) >= 47
    ours = f"{leftovers.PREFIX}{leftovers.me().mark}"
    assert [path for place in limits.places() for path in place.iterdir() if path.name.startswith(ours)] == []
