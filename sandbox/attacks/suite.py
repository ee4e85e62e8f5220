"""All attacks, played one after the other on a backend, with or without one protection each."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from milepost.sandbox import leftovers, limits, runtime
from milepost.sandbox.attacks import files, kernel, neighbours, network, resources, rights, server
from milepost.sandbox.attacks.core import Attack, AttackError, Control, Verdict
from milepost.sandbox.attacks.stage import Stage
from milepost.sandbox.core import Limits, SandboxError

ATTACKS: tuple[Attack, ...] = (
    *resources.ATTACKS,
    *server.ATTACKS,
    *files.ATTACKS,
    *kernel.ATTACKS,
    *rights.ATTACKS,
    *network.ATTACKS,
    *neighbours.ATTACKS,
)
ROOM = 3 << 29
"""Bytes that all of a control may take, its engine and files in memory included."""


@dataclass(frozen=True)
class Row:
    """What came of one attack on one backend."""

    name: str
    about: str
    refused: bool | None
    """None: it was not played."""
    detail: str


def play(backend: str, attacks: tuple[Attack, ...] = ATTACKS) -> Iterator[Row]:
    """Play attacks on one sandbox of a backend, which is as new for each.

    Raises:
        AttackError: One broke: it has no verdict.
        ValueError: The backend is not there.
    """
    with Stage(backend) as stage:
        for attack in attacks:
            try:
                verdict = attack.play(stage)
            except AttackError as error:
                raise AttackError(f"{attack.name} on {backend}: {error}") from None
            yield Row(attack.name, attack.about, verdict.refused, verdict.detail)
            stage.renew()


def controls(backend: str, attacks: tuple[Attack, ...] = ATTACKS) -> Iterator[Row]:
    """Play attacks where what refuses them is missing, all of them in a sandbox around the sandbox: see ``outer``.

    Raises:
        AttackError: One broke: it has no verdict.
        SandboxError: There is no such sandbox here; the last line of what it said is the reason.
        ValueError: It would not hold them.
    """
    if backend == "landlock" and os.geteuid():
        raise ValueError(
            "controls on landlock: need root: an ordinary user's sandboxes have the user of whoever plays them"
        )
    found = limits.groups()
    # What is weakened may take more than its own limits, and this is then the limit.
    group = found.make(Limits(memory=ROOM, cpus=None)) if found else None
    fds = group.open() if group else []
    try:
        if group and found and found.version == 2:
            for path in group.paths:
                os.setxattr(path, "user.delegate", b"1")
        argv = [sys.executable, "-m", "milepost.sandbox.attacks.outer", backend, str(os.getpid())]
        argv += [" ".join(map(str, fds)), *(attack.name for attack in attacks)]
        pipe, null = subprocess.PIPE, subprocess.DEVNULL
        with runtime.start(
            lambda: subprocess.Popen(argv, stdout=pipe, stderr=pipe, stdin=null, pass_fds=fds, text=True)
        ) as process:
            try:
                assert process.stdout
                assert process.stderr
                for line in process.stdout:
                    yield Row(**json.loads(line))
                why = (process.stderr.read().strip().splitlines() or ["it said nothing"])[-1]
            except BaseException:
                process.kill()
                raise
        if process.returncode:
            kind, _, said = why.partition(": ")
            raise AttackError(said) if kind == "AttackError" else SandboxError(f"controls on {backend}: {said or kind}")
    finally:
        for fd in fds:
            os.close(fd)
        for path in group.paths if group else ():
            # An engine makes groups in that place for all controllers.
            top = limits.top(path)
            for left in {path, *top.parent.glob(f"*/{path.relative_to(top)}")}:
                leftovers.remove_cgroup(left)


def control(backend: str, attack: Attack) -> Row:
    """Play an attack without what refuses it; to be called in a sandbox around it.

    Where it takes leaving out several protections, it is played without all but each one of them before: each is to
    refuse it. ``refused`` is None where there is no such control.

    Raises:
        AttackError: It broke.
    """
    found = attack.control_on(backend)
    if not isinstance(found, Control):
        return Row(attack.name, attack.about, None, found)
    parts = found.parts if len(found.parts) > 1 else ()
    for part in parts:
        if not _played(backend, attack, found.but(part)).refused:
            raise AttackError(f"control of {attack.name} on {backend}: {part} does not refuse it, and is left out")
    verdict = _played(backend, attack, found)
    times = "twice" if len(parts) == 2 else f"{len(parts)} times"
    said = f"refused {times}: {', '.join(parts[:-1])} and {parts[-1]}; without them: " if parts else ""
    return Row(attack.name, attack.about, verdict.refused, said + verdict.detail)


def _played(backend: str, attack: Attack, found: Control) -> Verdict:
    with Stage(backend, found) as stage:
        try:
            return attack.play(stage)
        except AttackError as error:
            raise AttackError(f"control of {attack.name} on {backend}: {error}") from None
