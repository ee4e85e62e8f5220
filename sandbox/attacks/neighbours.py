"""Attacks on other sandboxes, and on what comes after in the same one."""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import signal
from collections.abc import Callable
from contextlib import suppress
from secrets import randbits, token_hex

from milepost.sandbox.attacks.core import Attack, Control, Verdict, without
from milepost.sandbox.attacks.prelude import Refused, call, libc, named
from milepost.sandbox.attacks.stage import Stage
from milepost.sandbox.core import Session


def _search(paths: list[str], secret: str) -> str:
    n_seen = 0
    roots = [f"/proc/{pid}/{kind}" for pid in os.listdir("/proc") if pid.isdigit() for kind in ("root", "cwd")]
    for root in ["", *roots]:
        for path in paths:
            at = root + path if not root.endswith("cwd") else f"{root}/{os.path.basename(path)}"
            try:
                with open(at) as file:
                    n_seen += 1
                    if secret in file.read(1000):
                        return f"read {at}"
            except OSError:
                continue
    raise Refused(f"{len(roots) + 1} roots, {n_seen} files that can be read, the secret in none")


def _kill(marker: str) -> str:
    killed = 0
    for pid in named(marker):
        try:
            os.kill(pid, signal.SIGKILL)
            killed += 1
        except OSError:
            continue
    if killed:
        return f"killed {killed} processes"
    raise Refused("no process of it can be killed")


def _limit(markers: dict[str, str]) -> str:
    deeds: dict[str, Callable[[int], object]] = {
        "number of files": lambda pid: resource.prlimit(pid, resource.RLIMIT_NOFILE, (64, 64)),
        "processors": lambda pid: os.sched_setaffinity(pid, {min(os.sched_getaffinity(0))}),
        "scheduler": lambda pid: os.sched_setscheduler(pid, os.SCHED_BATCH, os.sched_param(0)),
        "priority": lambda pid: os.setpriority(os.PRIO_PROCESS, pid, 19),
        "priority at disks": lambda pid: call("ioprio_set", 1, pid, 3 << 13),
    }
    done, refusals = set(), set()
    for whose, marker in markers.items():
        for pid in named(marker):
            for what, deed in deeds.items():
                try:
                    deed(pid)
                    done.add(f"{what} of {whose}")
                except OSError as error:
                    refusals.add(error.strerror or "")
    if done:
        return f"changed {', '.join(sorted(done))}"
    raise Refused(", ".join(sorted(refusals)) or "no process of them can be seen")


def _keep(key: int, text: str) -> str:
    # 0o1666: made if it is not there, for everybody.
    at = call("shmget", key, 4096, 0o1666)
    libc.shmat.restype = ctypes.c_void_p
    ctypes.memmove(libc.shmat(at, None, 0), text.encode(), len(text))
    return "kept"


def _find(key: int, text: str) -> str:
    at = call("shmget", key, 4096, 0)
    libc.shmat.restype = ctypes.c_void_p
    found = ctypes.string_at(libc.shmat(at, None, 0), len(text)).decode()
    if found != text:
        raise Refused("found something else")
    return "found what another left in shared memory"


def _mark(marked: list[str], text: str) -> str:
    for path in marked:
        with suppress(OSError):  # read-only, or a file system without
            os.setxattr(path, f"user.{text}", b"left")
    return "marked"


def _remains(paths: list[str], marked: list[str], key: int, text: str) -> str:
    found = [path for path in paths if os.path.exists(path)]
    for path in marked:
        with suppress(OSError):
            found += [f"an attribute of {path}" for name in os.listxattr(path) if text in name]
    try:
        call("shmget", key, 4096, 0)
        found.append("shared memory")
    except OSError:
        pass
    found += [f"process {pid}" for pid in named(text)]
    if found:
        return f"found {', '.join(found)}"
    raise Refused("nothing is left")


def _files(stage: Stage) -> Verdict:
    other, secret = stage.neighbour(), token_hex(8)
    home = other.run("echo $HOME").output.strip()
    places = [f"{folder}/left-{secret}" for folder in (other.workspace, home, "/dev/shm")]
    waits = f"for at in {' '.join(places)}; do echo {secret} > $at; done 2> /dev/null; sleep 20 > /dev/null &"
    other.session("other").run(f"cd {other.workspace}; {waits}")
    # Its name is no secret: what is asked is whether there is a way to it.
    return stage.inside(_search, paths=places, secret=secret)


def _waiting(stage: Stage) -> tuple[Session, str]:
    """Start a process in another sandbox; return the session that it is the last one of, and one of its arguments."""
    other, marker = stage.neighbour(), token_hex(8)
    session = other.session("other")
    waits = f"bash -c 'touch begun; sleep 60; true' {marker} > /dev/null 2>&1 &"
    session.run(f"cd {other.workspace}; {waits} until [ -e begun ]; do sleep 0.02; done")
    return session, marker


def _processes(stage: Stage) -> Verdict:
    session, marker = _waiting(stage)
    said = stage.inside(_kill, marker=marker)
    if said.refused and session.run("kill -0 $!").exit_code:
        return Verdict(False, "a process of another sandbox died")
    return said


def _limits(stage: Stage) -> Verdict:
    with stage.process() as of_host:
        return stage.inside(_limit, markers={"the host": of_host, "another sandbox": _waiting(stage)[1]})


def _shared_memory(stage: Stage) -> Verdict:
    other, key, text = stage.neighbour(), randbits(30), token_hex(8)
    kept = stage.inside(_keep, sandbox=other, key=key, text=text)
    if kept.refused:
        return Verdict(True, f"no shared memory: {kept.detail}")
    return stage.inside(_find, errno.ENOENT, key=key, text=text)


def _left(stage: Stage) -> Verdict:
    sandbox, key, text = stage.sandbox, randbits(30), token_hex(8)
    folders = [sandbox.workspace, stage.home(), "/tmp", "/dev/shm"]
    places, marked = [f"{folder}/left-{text}" for folder in folders], [*folders, f"{sandbox.workspace}/file"]
    stage.inside(_mark, marked=marked, text=text)
    sandbox.run("for at in " + " ".join(places) + "; do echo left > $at; done 2> /dev/null")
    stage.inside(_keep, key=key, text=text)
    waits = f"setsid bash -c 'touch {sandbox.workspace}/begun-{text}; sleep 60; true' {text} > /dev/null 2>&1 &"
    sandbox.session("left").run(f"{waits} until [ -e {sandbox.workspace}/begun-{text} ]; do sleep 0.02; done")
    if not stage.lifted:
        sandbox.reset()
    return stage.inside(_remains, paths=places, marked=marked, key=key, text=text)


TOO_MANY = (
    "processes, and users that are known to nobody else, keep it out: without a user namespace there is no sandbox"
)
ATTACKS = [
    Attack(
        "other-files",
        "Looks for another sandbox's files, knowing their names.",
        _files,
        TOO_MANY,
        docker=without("pid", "proc"),
        landlock=without("landlock", "user"),
    ),
    Attack(
        "other-processes",
        "Kills another sandbox's processes.",
        _processes,
        without("hostpid", "pid"),
        docker=without("pid"),
        landlock=without("signals", "user"),
    ),
    Attack(
        "host-limits",
        "Changes limits and priorities of processes of the host, and of another sandbox.",
        _limits,
        without("hostpid", "pid"),
        docker=without("pid"),
        landlock=without("seccomp", "user"),
    ),
    Attack(
        "other-memory",
        "Finds shared memory that another sandbox left.",
        _shared_memory,
        without("ipc", "memory"),  # where no group counts memory, there is none that is shared
        docker=without("ipc"),
        landlock=without("seccomp"),
    ),
    Attack(
        "remains",
        "Finds what the episode before it left: files, attributes of files, memory, processes.",
        _left,
        Control(lifted=True),
    ),
]
