"""Attacks on what a machine has only so much of, and on ends of commands; bombs: at most 200 processes, 300 MB."""

from __future__ import annotations

import errno
import mmap
import os
import resource
import signal
import time
from collections.abc import Callable

from milepost.sandbox.attacks.core import (
    HELD,
    HOLD,
    SHARED_USER,
    UNCOUNTED,
    Attack,
    AttackError,
    Control,
    Hole,
    Verdict,
    inside,
    unless_killed,
    without,
)
from milepost.sandbox.attacks.prelude import Refused
from milepost.sandbox.attacks.stage import Stage

MANY = 50 << 20


def _forks(n: int) -> str:
    children = []
    try:
        for _ in range(n):
            pid = os.fork()
            if pid == 0:
                time.sleep(60)
                os._exit(0)
            children.append(pid)
    except OSError as error:
        if error.errno != errno.EAGAIN:
            raise
        raise Refused(f"the {len(children) + 1}th fork failed") from None
    finally:
        for pid in children:
            os.kill(pid, signal.SIGKILL)
    return f"{n} processes at once"


def _take(n: int, size: int) -> str:
    # Every process takes its share and keeps it until all have tried; what counts is who still has it then.
    ready, tell = os.pipe()
    held, hold = os.pipe()
    children = []
    for _ in range(n):
        pid = os.fork()
        if pid == 0:
            os.close(ready)
            os.close(hold)
            try:
                memory = mmap.mmap(-1, size)
                for at in range(0, size, 4096):
                    memory[at] = 1
            except (MemoryError, OSError):
                os._exit(1)
            os.close(tell)
            os.read(held, 1)
            os._exit(0)
        children.append(pid)
    os.close(tell)
    os.read(ready, 1)
    os.close(hold)
    n_held = sum(os.waitpid(pid, 0)[1] == 0 for pid in children)
    if n_held < n:
        raise Refused(f"{n_held} of {n} processes got {size >> 20} MB")
    return f"{n * size >> 20} MB at once"


def _fill(places: list[str], n: int, size: int) -> str:
    said = []
    for place in places:
        if not os.access(place, os.W_OK):
            continue
        made, taken = [], 0
        try:
            for number in range(n):
                path = os.path.join(place, f"fill-{number}")
                fd = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
                made.append(path)
                try:
                    while os.fstat(fd).st_size < size:
                        taken += os.write(fd, b"x" * min(1 << 20, size))
                finally:
                    os.close(fd)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise
            said.append(f"{place} holds {len(made)} files, {taken >> 20} MB")
        else:
            return f"{place} took {n} files, {n * size >> 20} MB"
        finally:
            for path in made:
                os.unlink(path)
    raise Refused("; ".join(said))


def _descriptors(n: int) -> str:
    held = []
    try:
        for _ in range(n):
            held.append(os.dup(0))
    except OSError as error:
        if error.errno != errno.EMFILE:
            raise
        raise Refused(f"the {len(held) + 1}th descriptor was refused") from None
    return f"{n} open files; the limit is {resource.getrlimit(resource.RLIMIT_NOFILE)}"


def _spread(n: int) -> str:
    # A limit of one process may be raised again, or be another's: here all are tried.
    for name in ("RLIMIT_NPROC", "RLIMIT_NOFILE", "RLIMIT_AS", "RLIMIT_FSIZE"):
        which = getattr(resource, name)
        hard = resource.getrlimit(which)[1]
        if hard == resource.RLIM_INFINITY:
            continue
        try:
            resource.setrlimit(which, (hard + n, hard + n))
        except (OSError, ValueError):
            continue
        return f"raised {name} from {hard}"
    raise Refused("no hard limit can be raised")


def _bombed(n: int, size: int) -> Callable[[Stage], Verdict]:
    def play(stage: Stage) -> Verdict:
        return unless_killed(stage.play(_take, n=n, size=size))

    return play


def _filled(n: int, size: int) -> Callable[[Stage], Verdict]:
    def play(stage: Stage) -> Verdict:
        places = [stage.sandbox.workspace, stage.home(), "/tmp", "/dev/shm", "/var/tmp", "/run"]
        return unless_killed(stage.play(_fill, places=list(dict.fromkeys(places)), n=n, size=size))

    return play


def _flooded(stage: Stage) -> Verdict:
    asked = 1 << 16
    result = stage.sandbox.run(f"head -c {MANY} /dev/zero", max_output=(1 << 26) if stage.lifted else asked)
    kept = len(result.head) + len(result.tail)
    whole = kept + result.n_omitted == MANY
    return Verdict(kept <= asked and whole, f"{MANY >> 20} MB written, {kept} bytes kept, {result.n_omitted} left out")


def _late(stage: Stage) -> Verdict:
    # Deaf to every signal that can be ignored, with a child that is as well.
    nap, times = ("1.5", (60.0,)) if stage.lifted else ("60", (0.5, 5.0, 20.0))  # on a busy machine it begins late
    deaf = f"{HOLD}; trap '' TERM INT HUP QUIT ALRM; echo begun; (sleep {nap}; touch late) & sleep {nap}; touch late"
    result = stage.sandbox.run(deaf, timeout_s=times[0])
    for timeout_s in times[1:]:
        if result.output == "begun\n":
            break
        result = stage.sandbox.run(deaf, timeout_s=timeout_s)
    if result.output != "begun\n":
        raise AttackError(f"it did not begin in {result.seconds:.1f} s: {result.output!r}")
    late = "late" in stage.sandbox.get_tree() or _held(stage)
    return Verdict(not late, f"{'over' if result.timed_out else 'done'} after {result.seconds:.1f} s")


def _stray(stage: Stage) -> Verdict:
    stage.sandbox.write("stray", f"{HOLD}; trap '' TERM HUP; touch begun; sleep 60; true\n")
    command = "(setsid nohup bash stray > /dev/null 2>&1 < /dev/null &); until [ -e begun ]; do sleep 0.02; done"
    stage.sandbox.run(command)
    lives = _held(stage)
    return Verdict(not lives, f"what a command left {'lives on' if lives else 'ended with it'}")


def _held(stage: Stage) -> bool:
    """Whether anything of what took the lock still lives: the kernel lets go of it with the last of them."""
    return stage.shell(f"flock -n {HELD} true").exit_code != 0


FREE = Hole("landlock has no file systems of its own whose size could be limited")
TOGETHER = Hole(
    "the kernel counts an ordinary user's processes together, those outside the sandbox among them", SHARED_USER
)
SPREAD = Hole("each process is limited alone, and as many as may run take as much each", UNCOUNTED)
NO_ROOM = without("disk", "memory")
ATTACKS = [
    Attack("fork-bomb", "Starts 200 processes.", inside(_forks, n=200), without("processes"), hole=TOGETHER),
    Attack("memory-bomb", "Takes 300 MB in one process.", _bombed(1, 300 << 20), without("memory")),
    Attack(
        "memory-bomb-spread", "Takes 300 MB in six processes.", _bombed(6, 50 << 20), without("memory"), hole=SPREAD
    ),
    Attack("disk-fill", "Writes 300 MB wherever it may write.", _filled(10, 30 << 20), NO_ROOM, hole=FREE),
    Attack(
        "inode-fill",
        "Makes 20,000 empty files wherever it may write.",
        _filled(20_000, 0),
        without("disk"),
        hole=FREE,
    ),
    Attack("descriptor-fill", "Opens 2,000 files.", inside(_descriptors, n=2000), without("files")),
    Attack(
        "raise-limits",
        "Raises its own hard limits.",
        inside(_spread, n=1),
        "it needs a capability over the whole machine, which no sandbox can be given for a while",
    ),
    Attack("output-flood", "Writes 50 MB of output.", _flooded, Control(lifted=True)),
    Attack("past-the-limit", "Works on after its time, deaf to signals.", _late, Control(lifted=True)),
    Attack("leftover-process", "Leaves a process behind that left its group.", _stray, without("sweep")),
]
