"""Attacks on files: out of the workspace by names, links and races, onto the host's files, devices, the shared base."""

from __future__ import annotations

import errno
import os
import posixpath
import stat
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from secrets import token_hex

from milepost.sandbox.attacks.core import SHARED_USER, Attack, AttackError, Control, Hole, Verdict, inside, without
from milepost.sandbox.attacks.prelude import Refused, call
from milepost.sandbox.attacks.stage import GIVEN, Stage
from milepost.sandbox.core import Node, SandboxError

RACE_S = 30.0
N_RACES = 100
DEEP = "for n in $(seq 20); do mkdir -p $(printf 'd/%.0s' $(seq 100)); cd $(printf 'd/%.0s' $(seq 100)); done"


def _read_host(path: str) -> str:
    roots = ["", "/proc/1/root", "/proc/self/root/..", "/../../..", "/oldroot", "/newroot", "/proc/1/cwd/../../.."]
    roots += [f"/proc/{pid}/root" for pid in os.listdir("/proc") if pid.isdigit()]
    refusals = set()
    for root in roots:
        try:
            with open(root + path) as file:
                return f"read {root}: {file.read()}"
        except OSError as error:
            refusals.add(error.strerror or "")
    for own in ("/etc/shadow", "/root/.bashrc", "/root/.profile"):
        try:
            with open(own) as file:
                return f"read {own}: {file.read(20)}"
        except OSError as error:
            refusals.add(error.strerror or "")
    raise Refused(f"{len(roots)} ways: {', '.join(sorted(refusals))}")


def _write_host(folder: str) -> str:
    refusals = set()
    for root in ("", "/proc/1/root", "/proc/self/root/.."):
        try:
            with open(f"{root}{folder}/planted", "w") as file:
                file.write("planted")
            return "wrote it"
        except OSError as error:
            refusals.add(error.strerror or "")
    raise Refused(", ".join(sorted(refusals)))


def _write_mount(place: str) -> str:
    with open(f"{place}/file", "r+") as file:
        file.write("planted")
    return "wrote it"


def _corrupt(bases: list[str]) -> str:
    done, refusals = [], set()

    def attempt(what: str, deed: Callable[[], object]) -> None:
        try:
            deed()
            done.append(what)
        except OSError as error:
            refusals.add(error.strerror or "")

    def write(path: str) -> None:
        with suppress(OSError):  # it may be writable and another's
            os.chmod(path, 0o666)
        with open(path, "w") as file:
            file.write("planted")

    # What the workspace shows of the base may change; the base must not.
    write("file")
    os.chmod(".", 0o700)
    for base in bases:
        attempt("written", lambda base=base: write(f"{base}/file"))  # type: ignore[misc]
        attempt("added to", lambda base=base: open(f"{base}/planted", "w").close())  # type: ignore[misc]
        attempt("renamed", lambda base=base: os.rename(f"{base}/file", f"{base}/gone"))  # type: ignore[misc]
        attempt("linked", lambda base=base: os.link(f"{base}/file", "linked"))  # type: ignore[misc]
    if done:
        return f"the base was {', '.join(done)}"
    raise Refused(", ".join(sorted(refusals)))


def _change_modes(paths: list[str]) -> str:
    done, refusals = [], set()
    for path in paths:
        try:
            os.chmod(path, 0o700)
            done.append(path)
        except OSError as error:
            refusals.add(error.strerror or "")
    if done:
        return f"changed the modes of {', '.join(done)}"
    raise Refused(", ".join(sorted(refusals)))


def _link(targets: list[str]) -> str:
    refusals = set()
    for target in targets:
        try:
            os.link(target, "hard")
            return f"linked {target} into the workspace"
        except OSError as error:
            refusals.add(error.strerror or "")
    raise Refused(", ".join(sorted(refusals)))


def _devices() -> str:
    harmless = {
        "null",
        "zero",
        "full",
        "random",
        "urandom",
        "tty",
        "ptmx",
        "pts",
        "console",
        "stdin",
        "stdout",
        "stderr",
    }
    for name in os.listdir("/dev"):
        mode = os.stat(f"/dev/{name}", follow_symlinks=False).st_mode
        if name in harmless or not (stat.S_ISCHR(mode) or stat.S_ISBLK(mode)):
            continue
        try:
            os.close(os.open(f"/dev/{name}", os.O_RDONLY | os.O_NONBLOCK))
            return f"opened /dev/{name}"
        except OSError:
            pass
    refusal: Exception = Refused("no way to try")
    for kind, major, minor in (
        (stat.S_IFCHR, 1, 11),
        (stat.S_IFCHR, 1, 1),
        (stat.S_IFBLK, 7, 0),
        (stat.S_IFCHR, 10, 237),
    ):
        try:
            os.mknod("device", kind | 0o666, os.makedev(major, minor))
            os.close(os.open("device", os.O_RDONLY | os.O_NONBLOCK))
            return f"made and opened device {major}:{minor}"
        except OSError as error:
            refusal = error
    raise refusal


def _host_read(stage: Stage) -> Verdict:
    said = stage.inside(_read_host, path=str(stage.folder / "shown" / "file"))
    return said if said.refused else Verdict(False, said.detail)


def _host_write(stage: Stage) -> Verdict:
    said = stage.inside(_write_host, folder=str(stage.folder / "open"))
    there = (stage.folder / "open" / "planted").exists()
    return Verdict(not there, "a file appeared on the host" if there else said.detail)


def _mount_write(stage: Stage) -> Verdict:
    said = stage.inside(_write_mount, place=stage.sandbox.place(GIVEN))
    changed = (stage.folder / "given" / "file").read_text() != stage.secret
    return Verdict(not changed, "the host's file changed" if changed else said.detail)


def _base_corrupt(stage: Stage) -> Verdict:
    before = stage.base_now()
    said = stage.inside(_corrupt, bases=["/base", str(stage.base)])
    changed = stage.base_now() != before
    return Verdict(not changed, "the base that all sandboxes share changed" if changed else said.detail)


def _host_modes(stage: Stage) -> Verdict:
    ours = [stage.folder / "shown" / "file", stage.folder / "given" / "file", stage.base / "file", stage.base]
    if (other := Path(stage.neighbour().workspace)).exists():  # else it is one of its own
        ours.append(other)
    modes = {path: path.stat().st_mode for path in ours}
    said = stage.inside(_change_modes, paths=[*map(str, ours), f"{stage.sandbox.place(GIVEN)}/file", "/base"])
    changed = [path for path, mode in modes.items() if path.stat().st_mode != mode]
    for path in changed:
        path.chmod(modes[path])
    return Verdict(not changed, f"of the host's files, {len(changed)} changed their modes" if changed else said.detail)


def _hard_link(stage: Stage) -> Verdict:
    targets = [
        "/base/file",
        str(stage.base / "file"),
        "/usr/bin/env",
        "/etc/passwd",
        f"{stage.sandbox.place(GIVEN)}/file",
    ]
    return stage.inside(_link, errno.EXDEV, targets=targets)


def _outside(stage: Stage) -> tuple[str, str]:
    """Put a secret outside the workspace, with links to it in the workspace; return its folder and the secret."""
    home, secret = stage.home(), token_hex(8)
    up = posixpath.relpath(home, stage.sandbox.workspace)
    links = {"to-file": f"{home}/outside", "to-folder": home, "to-root": "/", "upwards": up, "magic": "/proc/self/root"}
    stage.shell(f"echo {secret} > {home}/outside; " + "; ".join(f"ln -s {to} {name}" for name, to in links.items()))
    return home, secret


def _refusals(deeds: list[Callable[[], object]]) -> tuple[list[object], str]:
    """Return what came of deeds that are to be refused, and how the others were."""
    done, said = [], set()
    for deed in deeds:
        try:
            done.append(deed())
        except ValueError as error:
            said.add(str(error).partition(": ")[2] or str(error))
    return done, ", ".join(sorted(said))


def _link_read(stage: Stage) -> Verdict:
    home, secret = _outside(stage)
    names = ["to-file", "to-folder/outside", f"to-root{home}/outside", "upwards/outside", f"magic{home}/outside"]
    read = stage.sandbox.read
    done, said = _refusals([*(lambda name=name: read(name) for name in names), lambda: read(f"{home}/outside")])
    got = any(secret.encode() in data for data in done if isinstance(data, bytes))
    return Verdict(not got, "read a file outside the workspace" if got else said)


def _link_write(stage: Stage) -> Verdict:
    home, _ = _outside(stage)
    write, put = stage.sandbox.write, stage.sandbox.put_tree
    deeds = [lambda name=name: write(f"{name}/planted", "planted") for name in ("to-folder", "upwards", f"magic{home}")]
    _, said = _refusals([*deeds, lambda: put({"planted": Node(data=b"planted")}, "to-folder")])
    there = stage.shell(f"cat {home}/planted").output == "planted"
    return Verdict(not there, "wrote a file outside the workspace" if there else said)


def _link_tree(stage: Stage) -> Verdict:
    _, secret = _outside(stage)
    get = stage.sandbox.get_tree
    done, said = _refusals([get, stage.sandbox.diff, lambda: get("to-folder"), lambda: get("upwards")])
    trees = [tree for tree in done if isinstance(tree, dict)]
    got = any(node and secret.encode() in node.data for tree in trees for node in tree.values())
    return Verdict(not got, "a tree has a file from outside the workspace" if got else f"links stay links; {said}")


def _swap(home: str, number: int) -> None:
    while True:
        call("renameat2", -100, b"real", -100, b"swap", 2)


def _link_race(stage: Stage) -> Verdict:
    home, secret = _outside(stage)
    stage.shell(f"mkdir real; echo inside > real/outside; ln -s {home} swap")
    code = "import ctypes\nwhile 1: ctypes.CDLL(None).renameat2(-100, b'real', -100, b'swap', 2)"
    session = stage.sandbox.session("race")
    session.run(f'cd {stage.sandbox.workspace}; timeout 60 /usr/bin/python3 -I -S -c "{code}" > /dev/null 2>&1 &')
    got = n_inside = n_refused = 0
    end = time.monotonic() + RACE_S
    # A race is on when both sides of the swap were met; on a busy machine its first swap may be seconds away.
    while not got and min(n_inside, n_refused) < N_RACES and time.monotonic() < end:
        try:
            content = stage.sandbox.read("real/outside")
        except ValueError:
            n_refused += 1
            continue
        got += secret.encode() in content
        n_inside += b"inside" in content
    session.close()
    if not got and not min(n_inside, n_refused):
        raise AttackError(f"no race in {RACE_S:g} s: {n_inside} reads inside the workspace, {n_refused} refused")
    met = f"{n_inside} reads inside the workspace, {n_refused} refused, {got} outside"
    return Verdict(not got, f"in a race: {met}")


def _tree_names(stage: Stage) -> Verdict:
    home = stage.home()
    up = posixpath.relpath(home, stage.sandbox.workspace)
    names = [f"{up}/planted", f"{home}/planted", f"a/../{up}/planted"]
    put, ask = stage.sandbox.put_tree, stage.sandbox._ask
    first = [lambda name=name: put({name: Node(data=b"planted")}) for name in names]
    # Past the host's check of names, the guest's own.
    past = [
        lambda name=name: ask({"op": "put", "path": ".", "rows": [[name, "file", 0o644, 7]]}, b"planted")
        for name in names
    ]
    _, said = _refusals([*first, *past])
    there = stage.shell(f"cat {home}/planted").output == "planted"
    return Verdict(not there, "a tree wrote outside its folder" if there else said)


def _awkward(command: str) -> Callable[[Stage], Verdict]:
    """Return how to play an attack on whoever looks at a workspace: what it finds there must not hang or end it."""

    def play(stage: Stage) -> Verdict:
        made = stage.shell(command)
        sandbox = stage.sandbox
        try:
            # One that hangs is killed by the host's clock, and then it is an error.
            _, said = _refusals([lambda: sandbox.read("odd"), sandbox.get_tree, sandbox.diff])
            sandbox.reset()
            left = set(sandbox.get_tree()) - {"file"}
        except SandboxError as error:
            return Verdict(False, str(error))
        if made.exit_code:
            raise AttackError(f"it was not made: {made}")
        return Verdict(not left, f"left: {left}" if left else f"answered: {said or 'read'}")

    return play


NO_ODD = "what it shows is that nothing hangs or dies: the control would be a hang"
MODES = Hole(
    "Landlock knows no right for it, and a filter of system calls no paths: modes and times of all that the user owns, "
    "the base and other sandboxes among it, change, what is in files does not",
    SHARED_USER,
)
OPEN, UNGUARDED = without("landlock"), without("paths")
ATTACKS = [
    Attack(
        "host-read",
        "Reads a file of the host that everybody there may read.",
        _host_read,
        Control(shows=("shown",)),
    ),
    Attack(
        "host-write",
        "Writes to a folder of the host that everybody there may write to.",
        _host_write,
        without("readonly", shows="open"),
        landlock=OPEN,
    ),
    Attack(
        "mount-write",
        "Writes to a folder that was mounted for reading.",
        _mount_write,
        without("readonly"),
        landlock=OPEN,
    ),
    Attack(
        "base-corrupt",
        "Changes the base that all sandboxes share.",
        _base_corrupt,
        without("readonly"),
        landlock=OPEN,
        hole=MODES,
    ),
    Attack(
        "host-modes",
        "Changes modes of the host's files, of the base and of another sandbox's workspace.",
        _host_modes,
        without("readonly"),
        docker=without("capabilities", "readonly"),
        landlock=without("user"),
        hole=MODES,
    ),
    Attack(
        "hard-link",
        "Links files from outside into the workspace.",
        _hard_link,
        "a link cannot lead from one mount into another; without mounts there is no workspace",
        landlock=OPEN,
    ),
    Attack("link-read", "Has the host read through links that lead out.", _link_read, UNGUARDED),
    Attack("link-write", "Has the host write through links that lead out.", _link_write, UNGUARDED),
    Attack("link-tree", "Has the host take a tree, and a difference, through links.", _link_tree, UNGUARDED),
    Attack("link-race", "Swaps a folder for a link while the host reads in it.", _link_race, UNGUARDED),
    Attack("tree-names", "Puts trees whose names climb out of their folder.", _tree_names, UNGUARDED),
    Attack("fifo", "Leaves a pipe where the host reads a file.", _awkward("mkfifo odd"), NO_ODD),
    Attack("sparse-file", "Leaves a file of a terabyte that takes no room.", _awkward("truncate -s 1T odd"), NO_ODD),
    Attack("deep-folders", "Leaves 2,000 folders within each other.", _awkward(DEEP), NO_ODD),
    Attack(
        "devices", "Opens devices, and makes some.", inside(_devices, errno.EINVAL), without("devices"), landlock=OPEN
    ),
]
