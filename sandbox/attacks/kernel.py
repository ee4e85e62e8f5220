"""Attacks on the kernel: system calls that give rights, reach other processes, or widen what can be attacked at all."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import signal
import struct
import time

from milepost.sandbox.attacks.core import Attack, inside, without
from milepost.sandbox.attacks.prelude import NEWNS, NEWUSER, X86, Refused, call, capabilities, first


def _mount() -> str:
    os.makedirs("m", exist_ok=True)
    before = os.stat("m").st_dev

    def old() -> str:
        call("mount", b"tmpfs", b"m", b"tmpfs", 0, None)
        return "mount"

    def new() -> str:
        fs = call("fsopen", b"tmpfs", 0)
        call("fsconfig", fs, 6, None, None, 0)
        call("move_mount", call("fsmount", fs, 0, 0), b"", -100, b"m", 4)
        return "fsopen and move_mount"

    def owned() -> str:
        call("unshare", NEWUSER | NEWNS)
        return f"{old()} in a user namespace of its own"

    how = first(old, new, owned)
    if os.stat("m").st_dev == before:
        raise Refused("the mount cannot be seen")
    return f"mounted a tmpfs by {how}"


def _unshare() -> str:
    call("unshare", NEWUSER)
    held = capabilities()
    if not held:
        raise Refused("no capability in it")
    return f"a user namespace with capabilities {held:x}"


def _clone() -> str:
    # Raw, so that no wrapper of the C library decides; the child only leaves.
    pid = call("clone", NEWUSER | signal.SIGCHLD, 0, 0, 0, 0)
    if pid == 0:
        os._exit(7 if capabilities() else 1)
    if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) != 7:
        raise Refused("no capability in it")
    return "a child in a user namespace of its own"


def _clone3() -> str:
    args = struct.pack("<11Q", NEWUSER, 0, 0, 0, signal.SIGCHLD, 0, 0, 0, 0, 0, 0)
    pid = call("clone3", args, 88)
    if pid == 0:
        os._exit(7 if capabilities() else 1)
    if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) != 7:
        raise Refused("no capability in it")
    return "a child in a user namespace of its own, by clone3"


def _setns() -> str:
    refusal = "there is nothing to enter"
    for pid in (1, os.getppid()):
        for kind in ("user", "mnt", "pid", "net"):
            try:
                fd = os.open(f"/proc/{pid}/ns/{kind}", os.O_RDONLY)
                same = os.stat(fd).st_ino == os.stat(f"/proc/self/ns/{kind}").st_ino
                call("setns", fd, 0)
            except OSError as error:
                refusal = str(error)
            else:
                if not same:
                    return f"entered the {kind} namespace of process {pid}"
    end, other = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            call("unshare", NEWUSER)
            os.write(other, b"y")
        except OSError:
            os.write(other, b"n")
        time.sleep(60)
    try:
        if os.read(end, 1) == b"n":
            raise Refused(refusal)
        call("setns", os.open(f"/proc/{pid}/ns/user", os.O_RDONLY), NEWUSER)
        if not capabilities():
            raise Refused("no capability in it")
        return "entered another user namespace, with all capabilities in it"
    finally:
        os.kill(pid, signal.SIGKILL)


def _ptrace() -> str:
    secret = ctypes.create_string_buffer(b"52f7a1c3", 16)
    ready, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        secret.value = b"93be4d02"
        os.write(tell, b"y")
        time.sleep(60)
    try:
        os.read(ready, 1)
        call("ptrace", 16, pid, 0, 0)
        os.waitpid(pid, 0)
        found = ctypes.c_long()
        call("ptrace", 2, pid, ctypes.addressof(secret), ctypes.byref(found))
        if bytes(found) != b"93be4d02":
            raise Refused("attached, and read nothing")
        return "read the memory of another process"
    finally:
        os.kill(pid, signal.SIGKILL)


def _process_vm() -> str:
    secret = ctypes.create_string_buffer(b"52f7a1c3", 16)
    ready, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        secret.value = b"93be4d02"
        os.write(tell, b"y")
        time.sleep(60)
    try:
        os.read(ready, 1)
        into = ctypes.create_string_buffer(8)
        here = struct.pack("QQ", ctypes.addressof(into), 8)
        there = struct.pack("QQ", ctypes.addressof(secret), 8)
        call("process_vm_readv", pid, here, 1, there, 1, 0)
        if into.raw != b"93be4d02":
            raise Refused("it read nothing")
        return "read the memory of another process"
    finally:
        os.kill(pid, signal.SIGKILL)


def _bpf() -> str:
    def make() -> str:
        call("bpf", 0, struct.pack("<5I", 2, 4, 8, 1, 0).ljust(72, b"\0"), 72)
        return "made a map"

    def reach() -> str:
        try:
            call("bpf", 1, 8, 32)
        except OSError as error:
            if error.errno != errno.EFAULT:
                raise
        return "the call reaches the kernel (it looked at its argument)"

    return first(make, reach)


def _keyctl() -> str:
    key = call("add_key", b"user", b"milepost", b"93be4d02", 8, -2)
    into = ctypes.create_string_buffer(8)
    call("keyctl", 11, key, into, 8, 0)
    if into.raw != b"93be4d02":
        raise Refused("the key cannot be read")
    return "kept a key in the kernel"


def _io_uring() -> str:
    fd = call("io_uring_setup", 1, ctypes.create_string_buffer(120))
    return f"has a ring, descriptor {fd}"


def _perf() -> str:
    def count() -> str:
        attr = struct.pack("<IIQQQQQ", 1, 112, 0, 0, 0, 0, 1 << 5 | 1 << 6).ljust(112, b"\0")
        fd = call("perf_event_open", attr, 0, -1, -1, 0)
        sum(range(100_000))
        return f"counts: {int.from_bytes(os.read(fd, 8), 'little')} ns of processor time"

    def reach() -> str:
        try:
            call("perf_event_open", 8, 0, -1, -1, 0)
        except OSError as error:
            if error.errno != errno.EFAULT:
                raise
        return "the call reaches the kernel (it looked at its argument)"

    return first(count, reach)


def _userfaultfd() -> str:
    return f"handles its own page faults, descriptor {call('userfaultfd', os.O_CLOEXEC | 1)}"


def _module() -> str:
    call("init_module", b"\x7fELF" + bytes(60), 64, b"")
    return "the kernel took a module"


def _file_handle() -> str:
    # As the exploit "shocker" did: from any mount to the root of its file system, whatever is mounted where.
    handle = struct.pack("<IiQ", 8, 1, 2)
    refusal: OSError | None = None
    for place in ("/usr", "/workspace", "/tmp", "."):
        try:
            at = os.open(place, os.O_RDONLY)
        except OSError:
            continue
        try:
            fd = call("open_by_handle_at", at, handle, os.O_RDONLY)
            return f"opened the root of the file system below {place}: {os.listdir(fd)[:5]}"
        except OSError as error:
            refusal = error
    raise refusal or Refused("no folder to start from")


def _foreign_abi() -> str:
    # A filter that looks at numbers only lets calls through that another ABI numbers otherwise.
    if not X86:
        raise Refused("this machine has no second ABI")

    def int80() -> str:
        code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
        code.write(b"\x53\xb8\x14\x00\x00\x00\xcd\x80\x5b\xc3")  # push rbx; mov eax, getpid; int 0x80; pop rbx; ret
        pid = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))()
        if pid != os.getpid():
            raise Refused(f"the 32-bit getpid answered {pid}")
        return "32-bit system calls pass"

    child = os.fork()
    if child == 0:
        try:
            int80()
        except Refused:
            os._exit(1)
        os._exit(7)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code != 7:
        raise Refused(f"a 32-bit system call ends with {code}")
    return "32-bit system calls pass"


NONE_LEFT = errno.ENOSPC
"""With this more namespaces than are allowed are refused, and none is allowed."""
FILTER, SPACES = without("seccomp"), without("userns")
FENCED = without("seccomp", "landlock", "fence")
ATTACKS = [
    Attack(
        "mount",
        "Mounts a file system: the old call, the new ones, a namespace of its own.",
        inside(_mount, NONE_LEFT),
        without("seccomp", "userns", "proc"),
        docker=without("seccomp", "proc"),
        landlock=FENCED,
    ),
    Attack(
        "unshare",
        "Makes a user namespace, in which it has all capabilities.",
        inside(_unshare, NONE_LEFT),
        SPACES,
        docker=FILTER,
    ),
    Attack("clone", "The same by clone.", inside(_clone, NONE_LEFT), SPACES, docker=FILTER),
    Attack(
        "clone3",
        "The same by clone3, whose flags no filter can read.",
        inside(_clone3, NONE_LEFT),
        SPACES,
        docker=FILTER,
    ),
    Attack(
        "setns",
        "Enters another process's namespaces.",
        inside(_setns, NONE_LEFT),
        without("seccomp", "userns"),
        docker=FILTER,
        landlock=FILTER,
    ),
    Attack("ptrace", "Attaches to another process and reads its memory.", inside(_ptrace), FILTER),
    Attack("process-vm", "Reads another process's memory without attaching.", inside(_process_vm), FILTER),
    Attack("bpf", "Loads into the kernel's own machine.", inside(_bpf), FILTER),
    Attack("keyctl", "Keeps a secret in the kernel's keyring, which outlives processes.", inside(_keyctl), FILTER),
    Attack("io-uring", "Opens a ring, whose operations no filter sees.", inside(_io_uring), FILTER),
    Attack("perf", "Counts events of the processor.", inside(_perf), FILTER),
    Attack("userfaultfd", "Handles page faults itself, and so stops the kernel at work.", inside(_userfaultfd), FILTER),
    Attack("foreign-abi", "Makes system calls that another ABI numbers otherwise.", inside(_foreign_abi), FILTER),
    Attack(
        "module-load",
        "Loads a module into the kernel.",
        inside(_module),
        "it would load code into the machine's own kernel",
    ),
    Attack(
        "file-handle",
        "Opens the root of a file system by its handle, whatever is mounted where.",
        inside(_file_handle, errno.ESTALE),
        "it needs the capability to read every file of the machine",
    ),
]
