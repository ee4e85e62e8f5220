"""Attacks on what only the machine's own administrator may: rights, clock, names, switches, other processes."""

from __future__ import annotations

import errno
import os
import signal
import struct
import time

from milepost.sandbox.attacks.core import Attack, Hole, Verdict, inside, without
from milepost.sandbox.attacks.prelude import NEWNET, NEWNS, NEWUSER, Refused, call, capabilities, first
from milepost.sandbox.attacks.stage import Stage


def _setuid() -> str:
    # A full pipe as its output holds a program while it has the rights that it was started with.
    seen = []
    for name in ("su", "mount", "umount", "passwd", "newgrp", "chfn", "gpasswd", "chsh"):
        path = f"/usr/bin/{name}"
        if not os.path.exists(path) or not os.stat(path).st_mode & 0o4000:
            continue
        ends, full = os.pipe()
        os.set_blocking(full, False)
        try:
            while os.write(full, bytes(4096)):
                pass
        except BlockingIOError:
            os.set_blocking(full, True)
        pid = os.fork()
        if pid == 0:
            os.dup2(full, 1)
            os.dup2(full, 2)
            os.execv(path, [path, "--help"])
        said = {"Name": "", "State": "", "Uid": ""}
        # It runs, and waits for room in the pipe, or has ended already.
        while said["Name"].strip() != name or said["State"].split()[0] not in ("S", "Z"):
            time.sleep(0.005)
            with open(f"/proc/{pid}/status") as file:
                said = dict(line.split(":", 1) for line in file)
        euid = said["Uid"].split()[1]
        os.kill(pid, signal.SIGKILL)
        os.close(ends)
        os.close(full)
        if euid == "0":
            return f"{name} runs as root"
        seen.append(name)
    raise Refused(f"{', '.join(seen) or 'no setuid program is there, so none'} gained nothing")


def _regain() -> str:
    header, wanted = struct.pack("<Ii", 0x20080522, 0), struct.pack("<6I", *[0xFFFFFFFF] * 6)
    held = capabilities()
    if held:
        return f"commands have capabilities {held:x}"
    call("capset", header, wanted)
    return f"took capabilities {capabilities():x}"


def _clock() -> str:
    # The time that it is: were this not refused, the machine's clock would hardly notice.
    call("clock_settime", 0, struct.pack("qq", *divmod(time.time_ns(), 10**9)))
    return "set the machine's clock"


def _set_hostname() -> str:
    call("sethostname", b"owned", 5)
    return f"the host is now called {os.uname().nodename}"


def _named(stage: Stage) -> Verdict:
    said, before = stage.inside(_set_hostname), os.uname().nodename
    later = stage.shell("uname -n").output.strip()
    if os.uname().nodename == "owned" or before == "owned":
        return Verdict(False, "the machine's own name was changed")
    return Verdict(later != "owned", said.detail)


def _sysctl() -> str:
    def write(*paths: str) -> str:
        for path in paths:
            try:
                os.close(os.open(path, os.O_WRONLY))
            except OSError:
                continue
            return f"{path} can be written"
        raise Refused(f"none of {len(paths)} switches can be written")

    def plain() -> str:
        kernel = [f"kernel/{name}" for name in ("core_pattern", "modprobe", "hostname", "sysrq", "panic")]
        others = [
            "vm/overcommit_memory",
            "vm/drop_caches",
            "net/ipv4/ip_forward",
            "fs/file-max",
            "fs/binfmt_misc/register",
        ]
        roots = [
            "/proc/sysrq-trigger",
            "/proc/kcore",
            "/proc/mtrr",
            "/proc/irq/default_smp_affinity",
            "/proc/bus/pci/00",
        ]
        return write(*roots, *(f"/proc/sys/{name}" for name in kernel + others))

    def owned() -> str:
        call("unshare", NEWUSER | NEWNET | NEWNS)
        return (
            write("/proc/sys/user/max_user_namespaces", "/proc/sys/net/ipv4/ip_forward") + " in a namespace of its own"
        )

    return first(plain, owned)


def _sysfs() -> str:
    n_seen = 0
    for folder, _, files in os.walk("/sys"):
        if folder.count("/") > 6:
            continue
        for name in files:
            n_seen += 1
            if n_seen > 20_000:
                break
            path = os.path.join(folder, name)
            if os.access(path, os.W_OK):
                return f"{path} can be written"
    raise Refused(f"{n_seen} files in /sys, and none can be written")


def _see(marker: str) -> str:
    n_seen = 0
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/cmdline", "rb") as file:
                line = file.read()
        except OSError:
            continue
        n_seen += 1
        if marker.encode() in line and int(name) != os.getpid():
            return f"sees process {name} of the host with its arguments"
    raise Refused(f"sees {n_seen} processes, all of the sandbox")


def _seen(stage: Stage) -> Verdict:
    with stage.process() as marker:
        return stage.inside(_see, marker=marker)


NO_SCOPE = Hole("a process of one's own user can be seen: landlock has no process namespace")
ATTACKS = [
    Attack(
        "setuid",
        "Starts programs that belong to root and run as root.",
        inside(_setuid),
        "in a user namespace that has no root, no program gains anything; one that has it is another sandbox",
        docker=without("privileges", "seccomp", "proc"),
        landlock="each of its fences keeps programs from gaining rights: what would remain without them is no sandbox",
    ),
    Attack(
        "capabilities",
        "Has, or takes, capabilities.",
        inside(_regain),
        without("capabilities"),
        landlock="an ordinary user's process has none that could be left to it",
    ),
    Attack("clock", "Sets the clock.", inside(_clock), "there is one clock, the machine's, and no namespace for it"),
    Attack(
        "hostname",
        "Sets the host's name.",
        _named,
        # The name belongs to the first user namespace of two; one was not needed were it not for these.
        without("capabilities", "seccomp", "userns", "devices"),
        docker=without("capabilities", "seccomp"),
        landlock="an ordinary user's process has no capability that could be left to it",
    ),
    Attack(
        "sysctl",
        "Writes the kernel's switches in /proc.",
        inside(_sysctl, errno.ENOSPC),
        without("userns", "proc"),
        docker=without("seccomp", "systempaths", "proc"),
        landlock=without("seccomp", "proc"),
    ),
    Attack("sysfs", "Writes to /sys: devices, control groups.", inside(_sysfs), "it would be the machine's own /sys"),
    Attack(
        "host-processes",
        "Looks at the host's processes and their arguments.",
        _seen,
        without("hostpid", "pid"),
        docker=without("pid"),
        hole=NO_SCOPE,
    ),
]
