"""Attacks on the server: the process of a sandbox that the host believes, which commands share a user with."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from milepost.sandbox.attacks.core import Attack, Verdict, read_verdict, unless_killed, without
from milepost.sandbox.attacks.prelude import Refused, call, first, libc, servers
from milepost.sandbox.attacks.stage import Stage
from milepost.sandbox.core import Result, SandboxError

FILL = 300 << 20
"""Bytes of memory, more than any sandbox here may use."""


def _kill_all() -> str:
    child = os.fork()
    if child == 0:
        time.sleep(60)
    os.kill(-1, signal.SIGKILL)
    ended = os.waitpid(child, 0)[1]
    # What counts is whether the host still gets answers.
    raise Refused(f"killed its own child ({os.waitstatus_to_exitcode(ended)}), and nothing that matters")


def _kill_server() -> str:
    refusals = []
    for pid in servers():
        for number in (signal.SIGSTOP, signal.SIGTERM, signal.SIGSEGV, signal.SIGHUP, signal.SIGKILL):
            try:
                os.kill(pid, number)
            except OSError as error:
                refusals.append(error.strerror or "")
    time.sleep(0.2)
    raise Refused(f"the server does not mind{': ' * bool(refusals)}{', '.join(sorted(set(refusals)))}")


def _trace() -> str:
    refusal: Exception = Refused("nothing to trace")
    for pid in servers():
        try:
            call("ptrace", 0x4206, pid, 0, 0)
            return f"traces process {pid}, a server"
        except OSError as error:
            refusal = error
    raise refusal


def _memory() -> str:
    def by_file(pid: int) -> str:
        with open(f"/proc/{pid}/maps") as file:
            at = int(file.readline().partition("-")[0], 16)
        with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
            memory.seek(at)
            return f"read {len(memory.read(16))} bytes of process {pid}, a server"

    return first(*[lambda pid=pid: by_file(pid) for pid in servers()])


def _environment() -> str:
    refusal: Exception = Refused("nothing to read")
    for pid in servers():
        try:
            with open(f"/proc/{pid}/environ", "rb") as file:
                return f"read the environment of process {pid}, a server: {len(file.read())} bytes"
        except OSError as error:
            refusal = error
    raise refusal


def _descriptors() -> str:
    refusal: Exception = Refused("nothing to take")
    for pid in servers():
        try:
            names = os.listdir(f"/proc/{pid}/fd")
        except OSError as error:
            names, refusal = [], error
        for name in names:
            try:
                if os.readlink(f"/proc/{pid}/fd/{name}").startswith("pipe:"):
                    os.open(f"/proc/{pid}/fd/{name}", os.O_RDONLY | os.O_NONBLOCK)
                    return f"opened descriptor {name} of process {pid}, a server"
            except OSError as error:
                refusal = error
        try:
            taken = call("pidfd_getfd", call("pidfd_open", pid, 0), 0, 0)
            return f"took descriptor {taken} of process {pid}, a server"
        except OSError as error:
            refusal = error
    raise refusal


def _forge(number: int) -> str:
    text = b'{"exit_code": 0, "seconds": 0.0, "n_head": 6, "n_omitted": 0, "n": %d}' % number
    frame = struct.pack("<II", len(text), 6) + text + b"forged"
    own = {int(name) for name in os.listdir("/proc/self/fd")} - {0, 1, 2}
    written = []
    for fd in own:
        try:
            os.write(fd, frame)
            written.append(f"own {fd}")
        except OSError:
            pass
    n_closed = 0
    for pid in servers():
        try:
            names = os.listdir(f"/proc/{pid}/fd")
        except OSError:
            n_closed += 1
            continue
        for name in names:
            try:
                if os.readlink(f"/proc/{pid}/fd/{name}").startswith("pipe:"):
                    fd = os.open(f"/proc/{pid}/fd/{name}", os.O_WRONLY | os.O_NONBLOCK)
                    os.write(fd, frame)
                    written.append(f"{name} of {pid}")
            except OSError:
                pass
    os.write(1, frame)
    if written:
        return f"wrote a frame to descriptors {', '.join(written)}"
    raise Refused(f"{n_closed} servers, all closed to it; a frame on its own output was output")


def _forged(stage: Stage) -> Verdict:
    try:
        result = stage.play(_forge, number=stage.sandbox._n + 1)
        if result.output == "forged":
            return Verdict(False, "the host took it for an answer")
        said = read_verdict(result)
        if not stage.answers():
            return Verdict(False, "the sandbox does not answer any more")
    except SandboxError as error:
        return Verdict(False, str(error))
    return said


def _starve(size: int) -> str:
    try:
        os.write(os.open("/proc/self/oom_score_adj", os.O_WRONLY), b"0")
        score = "as the server's"
    except OSError as error:
        score = error.strerror or ""  # it fills memory none the less
    # In a file without a name memory is no process's, and a shell and what it starts are smaller than a server.
    os.dup2(os.memfd_create("filled", 0), 9)
    told = [
        f"verdict {json.dumps([done, f'{said}; its own score: {score}'])}"
        for done, said in ((True, f"filled {size >> 20} MB"), (False, "the kernel killed what filled memory"))
    ]
    os.execv("/bin/sh", ["sh", "-c", 'head -c "$0" /dev/zero >&9 && echo "$1" || echo "$2"', str(size), *told])


def _outlive(size: int) -> str:
    held = 0
    libc.shmat.restype = ctypes.c_void_p
    with suppress(OSError):
        while held < size:
            at = libc.shmat(call("shmget", 0, 1 << 20, 0o1600), None, 0)
            ctypes.memset(at, 1, 1 << 20)
            libc.shmdt(ctypes.c_void_p(at))
            held += 1 << 20
    with suppress(OSError):
        while held < size:
            call("semget", 0, 32000, 0o1600)
            held += 32000 * 64
    if held:
        return f"holds {held >> 20} MB that outlive it"
    raise Refused("neither memory nor semaphores of that size can be had")


def _outlived(stage: Stage) -> Verdict:
    try:
        result = stage.play(_outlive, size=FILL)
        stage.sandbox.write("more", bytes(8 << 20))  # for which the server needs room
    except (SandboxError, ValueError) as error:
        return Verdict(False, str(error))
    return unless_killed(result)


def _survives(
    payload: Callable[..., str], read: Callable[[Result], Verdict] = read_verdict, **given: Any
) -> Callable[[Stage], Verdict]:
    def play(stage: Stage) -> Verdict:
        try:
            said = read(stage.play(payload, **given))
            if not stage.answers():
                return Verdict(False, "the sandbox does not answer any more")
        except SandboxError as error:
            return Verdict(False, str(error))
        return said

    return play


ALONE, FENCE = without("pid"), without("fence")
CLOSED, BOTH = without("dumpable", "proc"), without("dumpable", "fence")
ATTACKS = [
    Attack("kill-all", "Kills every process that it may: kill -9 -1.", _survives(_kill_all), ALONE, landlock=FENCE),
    Attack("kill-server", "Stops and kills the server.", _survives(_kill_server), ALONE, landlock=FENCE),
    Attack(
        "trace-server",
        "Attaches to the server as a debugger does.",
        _survives(_trace),
        without("dumpable", "seccomp", "proc"),
        landlock=without("dumpable", "seccomp", "fence"),
    ),
    Attack("server-memory", "Reads the server's memory.", _survives(_memory), CLOSED, landlock=BOTH),
    Attack("server-environment", "Reads the server's environment.", _survives(_environment), CLOSED, landlock=BOTH),
    Attack("server-descriptors", "Opens the server's pipes.", _survives(_descriptors), CLOSED, landlock=BOTH),
    Attack(
        "starve-server",
        "Has the kernel kill the server for memory.",
        _survives(_starve, unless_killed, size=FILL),
        without("proc"),
    ),
    Attack("lasting-memory", "Fills memory that outlives its command.", _outlived, without("seccomp")),
    Attack("forged-frames", "Writes an answer of its own to the host's pipe.", _forged, CLOSED, landlock=BOTH),
]
