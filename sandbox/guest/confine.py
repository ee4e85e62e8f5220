"""What a process takes from itself before it runs what is not trusted: capabilities, system calls, files, network.

Each function works on the calling thread and all that it starts, and cannot be undone.
"""

from __future__ import annotations

import ctypes
import os
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

_libc = ctypes.CDLL(None, use_errno=True)

NAMESPACES = 0x7E020000
"""clone's flags for new namespaces: of mounts, control groups, host name, IPC, users, processes, network."""

CALLS: dict[str, tuple[int | None, int | None]] = {
    "acct": (163, 89),
    "add_key": (248, 217),
    "adjtimex": (159, 171),
    "bpf": (321, 280),
    "chroot": (161, 51),
    "clock_adjtime": (305, 266),
    "clock_settime": (227, 112),
    "delete_module": (176, 106),
    "fanotify_init": (300, 262),
    "fanotify_mark": (301, 263),
    "finit_module": (313, 273),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fsopen": (430, 430),
    "fspick": (433, 433),
    "init_module": (175, 105),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "io_uring_setup": (425, 425),
    "ioperm": (173, None),
    "iopl": (172, None),
    "kcmp": (312, 272),
    "kexec_file_load": (320, 294),
    "kexec_load": (246, 104),
    "keyctl": (250, 219),
    "lookup_dcookie": (212, 18),
    "migrate_pages": (256, 238),
    "mount": (165, 40),
    "mount_setattr": (442, 442),
    "move_mount": (429, 429),
    "move_pages": (279, 239),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "open_tree": (428, 428),
    "open_tree_attr": (467, 467),
    "perf_event_open": (298, 241),
    "pidfd_getfd": (438, 438),
    "pivot_root": (155, 41),
    "process_madvise": (440, 440),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "ptrace": (101, 117),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "reboot": (169, 142),
    "request_key": (249, 218),
    "setdomainname": (171, 162),
    "sethostname": (170, 161),
    "setns": (308, 268),
    "settimeofday": (164, 170),
    "swapoff": (168, 225),
    "swapon": (167, 224),
    "syslog": (103, 116),
    "umount2": (166, 39),
    "unshare": (272, 97),
    "userfaultfd": (323, 282),
    "vhangup": (153, 58),
}
"""System calls that are refused with EPERM whatever their arguments, with their numbers on x86-64 and aarch64."""

ARGUED: dict[str, tuple[int, int]] = {
    "clone": (56, 220),
    "clone3": (435, 435),
    "ioprio_set": (251, 30),
    "memfd_create": (319, 279),
    "mq_open": (240, 180),
    "msgget": (68, 186),
    "personality": (135, 92),
    "prlimit64": (302, 261),
    "sched_setaffinity": (203, 122),
    "sched_setattr": (314, 274),
    "sched_setparam": (142, 118),
    "sched_setscheduler": (144, 119),
    "semget": (64, 190),
    "setpriority": (141, 140),
    "shmget": (29, 194),
    "socket": (41, 198),
    "socketpair": (53, 199),
}
"""System calls whose arguments, or the sandbox's settings, say whether they are refused."""

ARCHITECTURES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
"""The kernel's number of an architecture, and its column in the tables."""

EPERM, EINVAL, ENOSYS, EAFNOSUPPORT = 1, 22, 38, 97
MAX_SHARED = 4096
"""Bytes of one piece of System V shared memory, of which a namespace has 4,096 at most."""
AF_UNIX, AF_INET, AF_INET6 = 1, 2, 10
_ALLOW, _ERRNO, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
_LOAD, _JUMP_EQUAL, _JUMP_AT_LEAST, _JUMP_ANY_BIT, _AND, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x54, 0x06


def filtered(
    *,
    machine: str,
    network: str = "none",
    guard: int | None = 1,
    shared_memory: bool = True,
    without: Collection[str] = (),
) -> bytes:
    """Return a seccomp program, for little-endian machines.

    What belongs to no process outlives its command: killing all that runs would not make room again. There are no
    semaphores and queues of System V therefore, and no more of its memory than databases lock themselves with.

    Args:
        machine: As ``os.uname().machine``.
        network: ``none``: sockets of the file system only; ``loopback``: TCP and UDP too; ``any``: all.
        guard: The process id of the server, whose limits and priority commands may not change; None: where there is
            no namespace of processes, they may change only their own, for any number may be a stranger's.
        shared_memory: Whether memory that no limit of a process counts (memfd, System V) may be had.
        without: With ``userns`` in it, new namespaces are not refused.
    """
    number, column = ARCHITECTURES[machine]
    namespaces = "userns" not in without
    refused = [call[column] for call in CALLS.values()]
    if not namespaces:
        refused.remove(CALLS["unshare"][column])
    argued = {name: call[column] for name, call in ARGUED.items()}
    out = [_op(_LOAD, 4), _op(_JUMP_EQUAL, number, 1, 0), _op(_RETURN, _KILL), _op(_LOAD, 0)]
    if machine == "x86_64":
        out += [_op(_JUMP_AT_LEAST, 0x40000000, 0, 1), _op(_RETURN, _ERRNO | ENOSYS)]  # the x32 calls

    def rule(name: str, body: list[bytes]) -> None:
        # A body ends with a return in all its branches, or falls through to the last one, which allows.
        body = [*body, _op(_RETURN, _ALLOW)]
        out.extend([_op(_JUMP_EQUAL, argued[name], 0, len(body)), *body])

    for call in refused:
        if call is not None:
            out.extend([_op(_JUMP_EQUAL, call, 0, 1), _op(_RETURN, _ERRNO | EPERM)])
    if namespaces:
        # The flags of clone3 lie in memory, which a filter cannot read; libc then uses clone.
        rule("clone3", [_op(_RETURN, _ERRNO | ENOSYS)])
        rule("clone", [_arg(0), _op(_JUMP_ANY_BIT, NAMESPACES, 0, 1), _op(_RETURN, _ERRNO | EPERM)])
    shared = () if shared_memory else ("memfd_create", "shmget")
    left = ("mq_open", "shmget") if guard is None else ()  # without a namespace they outlive the sandbox
    for name in {"msgget", "semget", *shared, *left}:
        rule(name, [_op(_RETURN, _ERRNO | ENOSYS)])
    if shared_memory and guard is not None:
        too_much = [_op(_JUMP_AT_LEAST, MAX_SHARED + 1, 0, 1), _op(_RETURN, _ERRNO | EINVAL)]
        rule("shmget", [_op(_LOAD, 16 + 8 + 4), *_only((0,), EINVAL), _arg(1), *too_much])
    rule("personality", [_arg(0), *_only((0, 0xFFFFFFFF), EPERM)])
    whom = _only((0,), EPERM) if guard is None else [_op(_JUMP_EQUAL, guard, 0, 1), _op(_RETURN, _ERRNO | EPERM)]
    for name in ("prlimit64", "sched_setaffinity", "sched_setattr", "sched_setparam", "sched_setscheduler"):
        rule(name, [_arg(0), *whom])
    for name, one in (("setpriority", 0), ("ioprio_set", 1)):
        # Of one process, or thread; never of all that a user has.
        rule(name, [_arg(0), *_only((one,), EPERM), _arg(1), *whom])
    if network != "any":
        families = (AF_UNIX,) if network == "none" else (AF_UNIX, AF_INET, AF_INET6)
        kind = [_arg(1), _op(_AND, 0xF), *_only((1, 2, 5), EPERM)]  # stream, datagram, packets in sequence: not raw
        rule("socket", [_arg(0), *_only(families, EAFNOSUPPORT), *kind])
        rule("socketpair", [_arg(0), *_only((AF_UNIX,), EAFNOSUPPORT)])
    return b"".join([*out, _op(_RETURN, _ALLOW)])


def _op(code: int, value: int, yes: int = 0, no: int = 0) -> bytes:
    return struct.pack("<HBBI", code, yes, no, value)


def _arg(n: int) -> bytes:
    """Load the low half of an argument; of an int the kernel looks at no more."""
    return _op(_LOAD, 16 + 8 * n)


def _only(values: Iterable[int], error: int) -> list[bytes]:
    """Go on where what is loaded is one of some values, else refuse."""
    values = list(values)
    checks = [_op(_JUMP_EQUAL, value, len(values) - n, 0) for n, value in enumerate(values)]
    return [*checks, _op(_RETURN, _ERRNO | error)]


def seccomp(program: bytes) -> None:
    """Refuse system calls by a program.

    Raises:
        OSError: The kernel does not take it.
    """

    class Program(ctypes.Structure):
        _fields_ = [("n", ctypes.c_ushort), ("ops", ctypes.c_char_p)]

    no_new_privileges()
    _check(_libc.prctl(22, 2, ctypes.byref(Program(len(program) // 8, program)), 0, 0), "seccomp")


def no_new_privileges() -> None:
    """Let no program that is started have more rights than this one."""
    _check(_libc.prctl(38, 1, 0, 0, 0), "no_new_privs")


def drop_capabilities() -> None:
    """Give up all capabilities, those that could come again included.

    Raises:
        OSError: One is still there.
    """
    _libc.prctl(28, 0x2F, 0, 0, 0)  # PR_SET_SECUREBITS: user 0 is nothing special; locked
    _libc.prctl(47, 4, 0, 0, 0)  # PR_CAP_AMBIENT_CLEAR_ALL
    for number in range(64):
        if _libc.prctl(24, number, 0, 0, 0) < 0 and ctypes.get_errno() == 22:  # PR_CAPBSET_DROP: no such capability
            break
    header, none = struct.pack("<Ii", 0x20080522, 0), bytes(24)
    _check(_libc.capset(header, none), "capset")
    left = {key: value for key, value in status().items() if key.startswith("Cap") and int(value, 16)}
    left.pop("CapBnd", None)  # stays where there was no right to give it up: no_new_privs makes it useless
    if left:
        raise OSError(EPERM, f"capabilities are left: {left}")


def status() -> dict[str, str]:
    """Return what the kernel says of this process."""
    fd = os.open("/proc/self/status", os.O_RDONLY)
    text = os.read(fd, 1 << 16).decode()
    os.close(fd)
    return {key: value.strip() for key, _, value in (line.partition(":") for line in text.splitlines())}


def join(groups: Iterable[int]) -> None:
    """Move into control groups, of which these are what ``limits.Group.open`` opened; this process has one thread."""
    for fd in groups:
        os.write(fd, b"0")
        os.close(fd)


def _check(result: int, what: str) -> int:
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{what}: {os.strerror(error)}")
    return result
