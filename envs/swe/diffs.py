"""Patches as text: unified diffs of files as git writes and reads them, made and applied without git."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence

CONTEXT = 3
MAX_COMPARED = 1 << 22
"""Product of the lines of two texts beyond which one is shown to replace the other: comparing takes their product."""
NO_END = b"\\ No newline at end of file\n"
HUNK = re.compile(rb"@@ -(\d+)(?:,(\d+))? \+(\d+)(?:,(\d+))? @@")
NOWHERE = "/dev/null"

Opcode = tuple[str, int, int, int, int]


def unified(before: Mapping[str, bytes], after: Mapping[str, bytes | None]) -> str:
    """Return the text of a patch with ``a/`` and ``b/``, files in order of their names.

    Args:
        before: Contents by path; a path that is not there is a new file.
        after: Contents of the files that differ; None: the file is deleted.
    """
    return "".join(_file(path, before.get(path), after[path]) for path in sorted(after))


def apply_text(patch: str, read: Callable[[str], bytes | None]) -> dict[str, bytes | None]:
    """Return the files of a patch as it makes them, None for a deleted one.

    Context and removed lines must be found word for word, where the hunk says or, if the file has them only once,
    elsewhere.

    Args:
        patch: A unified diff, as ``git diff`` writes it.
        read: Returns a file's content, None where there is none.

    Raises:
        ValueError: It does not apply; says which hunk of which file, or which line is no patch.
    """
    made: dict[str, bytes | None] = {}
    for old, new, hunks in files(patch):
        path = old if new == NOWHERE else new
        data = None if old == NOWHERE else made[old] if old in made else read(old)
        if old == NOWHERE and (made[path] if path in made else read(path)) is not None:
            raise ValueError(f"{path}: the patch does not apply: it is to be a new file, and there is one")
        if old != NOWHERE and data is None:
            raise ValueError(f"{old}: the patch does not apply: there is no such file")
        text, moved = _lines(data or b""), 0
        for number, (at, removed, added) in enumerate(hunks, 1):
            place = _place(text, removed, at + moved)
            if place is None:
                raise ValueError(f"{path}: the patch does not apply: hunk {number} is not found at line {at + 1}")
            text[place : place + len(removed)] = added
            moved += len(added) - len(removed)
        if new == NOWHERE and text:
            raise ValueError(f"{path}: the patch does not apply: it deletes the file and leaves {len(text)} lines")
        if old not in (new, NOWHERE):
            made[old] = None
        if new != NOWHERE:
            made[new] = b"".join(text)
    if patch.strip() and not made:
        raise ValueError("patch: expected a unified diff, got one without a file")
    return made


def _file(path: str, old: bytes | None, new: bytes | None) -> str:
    """Return the part of a patch that is about one file."""
    text = f"diff --git a/{path} b/{path}\n"
    if old is None or new is None:
        text += f"{'new' if old is None else 'deleted'} file mode 100644\n"
    a, b = _lines(old or b""), _lines(new or b"")
    if a == b:
        return text
    text += f"--- {'a/' + path if old is not None else NOWHERE}\n+++ {'b/' + path if new is not None else NOWHERE}\n"
    parts: list[bytes] = []
    for group in _groups(_opcodes(a, b)):
        (i, j), (to_i, to_j) = (group[0][1], group[0][3]), (group[-1][2], group[-1][4])
        parts.append(f"@@ -{_range(i, to_i)} +{_range(j, to_j)} @@\n".encode())
        for _, a1, a2, b1, b2 in group:
            if a[a1:a2] == b[b1:b2]:
                parts += [_marked(b" ", line) for line in a[a1:a2]]
            else:
                parts += [_marked(b"-", line) for line in a[a1:a2]] + [_marked(b"+", line) for line in b[b1:b2]]
    return text + b"".join(parts).decode("utf-8", "surrogateescape")


def _opcodes(a: Sequence[bytes], b: Sequence[bytes]) -> list[Opcode]:
    """Return what ``difflib`` finds, quickly also where the lines were chosen to make it slow."""
    shorter = min(len(a), len(b))
    head = next((n for n in range(shorter) if a[n] != b[n]), shorter)
    tail = next((n for n in range(shorter - head) if a[-1 - n] != b[-1 - n]), shorter - head)
    end_a, end_b = len(a) - tail, len(b) - tail
    middle: list[Opcode] = [("replace", head, end_a, head, end_b)]
    if (end_a - head) * (end_b - head) <= MAX_COMPARED:
        matcher = difflib.SequenceMatcher(None, a[head:end_a], b[head:end_b])
        middle = [(op, i + head, i2 + head, j + head, j2 + head) for op, i, i2, j, j2 in matcher.get_opcodes()]
    return [("equal", 0, head, 0, head), *middle, ("equal", end_a, len(a), end_b, len(b))]


def _groups(opcodes: Sequence[Opcode]) -> Iterator[list[Opcode]]:
    """Yield hunks: changes with equal lines around them, as many as belong to a patch."""
    group: list[Opcode] = []
    changes = [n for n, (op, *_) in enumerate(opcodes) if op != "equal"]
    for n, (op, i, i2, j, j2) in enumerate(opcodes):
        if op != "equal":
            group.append((op, i, i2, j, j2))
            continue
        first, last = n < changes[0], n > changes[-1]
        if not first and not last and i2 - i <= 2 * CONTEXT:
            group.append((op, i, i2, j, j2))
            continue
        if not first:
            yield [*group, (op, i, min(i2, i + CONTEXT), j, min(j2, j + CONTEXT))]
        group = [(op, max(i, i2 - CONTEXT), i2, max(j, j2 - CONTEXT), j2)]


def _range(start: int, end: int) -> str:
    n = end - start
    first = start + 1 if n else start
    return f"{first}" if n == 1 else f"{first},{n}"


def _marked(mark: bytes, line: bytes) -> bytes:
    return mark + line if line.endswith(b"\n") else mark + line + b"\n" + NO_END


def _lines(data: bytes) -> list[bytes]:
    """Only LF ends a line of a patch: a form feed or a carriage return is a part of it."""
    return re.findall(rb"[^\n]*\n|[^\n]+", data)


Hunk = tuple[int, list[bytes], list[bytes]]


def files(patch: str) -> Iterator[tuple[str, str, list[Hunk]]]:
    """Yield old path, new path and hunks of each file of a patch.

    A hunk is the number of lines before it, its old lines and its new ones, each with those that stay.

    Raises:
        ValueError: A line is no patch.
    """
    lines = _lines(patch.encode("utf-8", "surrogateescape"))
    at, git = 0, ("", "")
    kind = b""
    while at < len(lines):
        line = lines[at]
        at += 1
        if line.startswith(b"diff --git "):
            if kind:
                yield (*_ends(git, kind), [])
            git, kind = _git(line), b""
        elif line.startswith((b"new file", b"deleted file")):
            kind = line.split()[0]
        elif line.startswith(b"rename from "):
            git, kind = (_text(line[12:]), git[1]), b"rename"
        elif line.startswith(b"rename to "):
            git = git[0], _text(line[10:])
        elif line.startswith((b"GIT binary", b"Binary files")):
            raise ValueError(f"patch, line {at}: expected a text, got a binary file: {git[1]}")
        elif line.startswith(b"--- "):
            if at == len(lines) or not lines[at].startswith(b"+++ "):
                raise ValueError(f"patch, line {at + 1}: expected +++ after ---")
            old, new = _path(line[4:], b"a/"), _path(lines[at][4:], b"b/")
            at, hunks = _hunks(lines, at + 1)
            yield old, new, hunks
            kind = b""
        elif line.startswith(b"@@ "):
            raise ValueError(f"patch, line {at}: expected a file before the hunk")
    if kind:
        yield (*_ends(git, kind), [])


def _hunks(lines: Sequence[bytes], at: int) -> tuple[int, list[Hunk]]:
    """Read hunks as long as their heads announce."""
    hunks: list[Hunk] = []
    while at < len(lines) and (head := HUNK.match(lines[at])):
        n_old, n_new = (int(n) if n is not None else 1 for n in (head[2], head[4]))
        start = int(head[1]) - (1 if n_old else 0)
        at += 1
        removed: list[bytes] = []
        added: list[bytes] = []
        last: list[list[bytes]] = []
        while len(removed) < n_old or len(added) < n_new or (at < len(lines) and lines[at].startswith(b"\\")):
            line = lines[at] if at < len(lines) else b""
            mark, rest = line[:1], line[1:]
            if mark == b"\\":
                for side in last:
                    side[-1] = side[-1].removesuffix(b"\n")
            elif mark in (b" ", b"\n", b"-", b"+"):
                rest = b"\n" if mark == b"\n" else rest  # editors take the space of an empty line away
                last = [side for side, not_in in ((removed, b"+"), (added, b"-")) if mark != not_in]
                for side in last:
                    side.append(rest)
            else:
                raise ValueError(f"patch, line {at + 1}: expected {n_old} old and {n_new} new lines in the hunk")
            at += 1
        hunks.append((start, removed, added))
    return at, hunks


def _place(text: Sequence[bytes], lines: Sequence[bytes], at: int) -> int | None:
    """Return where lines are: at a place, or elsewhere if it is the only one."""
    n = len(lines)
    if 0 <= at <= len(text) - n and list(text[at : at + n]) == lines:
        return at
    found = [i for i in range(len(text) - n + 1) if text[i] == lines[0] and list(text[i : i + n]) == lines] if n else []
    return found[0] if len(found) == 1 else None


def _git(line: bytes) -> tuple[str, str]:
    """Return the two paths of git's own line, which only a rename has different: it names them once more."""
    same = re.fullmatch(rb'("?)a/(.+) \1b/\2', line[11:].rstrip(b"\n"))
    path = _text(same[1] + same[2]) if same else ""
    return path, path


def _ends(git: tuple[str, str], kind: bytes) -> tuple[str, str]:
    if not all(git):
        raise ValueError("patch: expected the name of a file that is new, deleted or renamed")
    return (NOWHERE if kind == b"new" else git[0]), (NOWHERE if kind == b"deleted" else git[1])


def _path(text: bytes, side: bytes) -> str:
    name = text.rstrip(b"\r\n").partition(b"\t")[0].rstrip()
    if name == NOWHERE.encode():
        return NOWHERE
    quote = name[: name.startswith(b'"')]
    return _text(quote + name.removeprefix(quote).removeprefix(side))


def _text(name: bytes) -> str:
    path = _unquoted(name.strip(b"\n")).decode("utf-8", "surrogateescape")
    if path.startswith("/") or ".." in path.split("/") or "\0" in path or not path:
        raise ValueError(f"patch: expected paths below a folder, got {path!r}")
    return path


def _unquoted(name: bytes) -> bytes:
    """Return a name that git has put into quotes because it is not plain ASCII."""
    if not name.startswith(b'"'):
        return name
    return re.sub(
        rb"\\([0-7]{3}|.)", lambda m: bytes([int(m[1], 8) & 255]) if len(m[1]) == 3 else m[1], name.strip(b'"')
    )
