"""What is left to do until the bug is gone, as actions: replacements of texts, from whatever is there."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from difflib import SequenceMatcher

Wanted = Mapping[str, tuple[bytes | None, bytes | None]]
"""By path, a file as it is and as it should be; None: there is none, or something else than a text file."""


def tool_moves(wanted: Wanted, parses: Callable[[str], bool]) -> list[str]:
    """Return calls of ``edit``, then ``submit()``.

    A file that is not wanted is emptied: there is no tool that removes one.
    """
    moves = []
    for path, (now, then) in wanted.items():
        old, new = ((data or b"").decode() for data in (now, then))
        moves += [call("edit", file=path, old=a, new=b) for a, b in replacements(old, new, parses)]
    return [*moves, call("submit")]


def bash_moves(wanted: Wanted, workspace: str) -> list[str]:
    """Return blocks of commands, one a file, then the one that submits."""
    moves = []
    for path, (now, then) in wanted.items():
        place = f"{workspace}/{path}"
        file, folder = _quoted(place), _quoted(place.rpartition("/")[0])
        if then is None:
            moves.append(block(f"rm -rf {file}"))
            continue
        if now is None:
            before, lines = f"rm -rf {file}; mkdir -p {folder}\n", [f"text = {then.decode()!r}"]
        else:
            before, lines = "", ["text = file.read_bytes().decode()"]
            pairs = replacements(now.decode(), then.decode(), lambda text: True)
            lines += [f"text = text.replace({old!r}, {new!r})" for old, new in pairs]
        head = ["python3 - <<'EOF'", "from pathlib import Path", f"file = Path({place!r})"]
        moves.append(block(before + "\n".join([*head, *lines, "file.write_bytes(text.encode())", "EOF"])))
    return [*moves, block("submit")]


def replacements(before: str, after: str, parses: Callable[[str], bool]) -> list[tuple[str, str]]:
    """Return replacements that turn one text into another, one after the other, each of a text that is there once.

    What differs in several places is replaced place by place, as long as the text parses in between.
    """
    old, new = before.splitlines(keepends=True), after.splitlines(keepends=True)
    places = [code[1:] for code in SequenceMatcher(None, old, new, autojunk=False).get_opcodes() if code[0] != "equal"]
    found = []
    while places:
        i1, i2, j1, j2 = places.pop(0)
        lines = [*new[:j1], *old[i1:]]
        while places and not parses("".join([*new[:j2], *old[i2:]])):
            _, i2, _, j2 = places.pop(0)
        found.append(_replacement(lines, j1, j1 + i2 - i1, new[j1:j2]))
    return found


def call(tool: str, **arguments: str | int) -> str:
    """Return a plain text call."""
    given = ", ".join(f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in arguments.items())
    return f"{tool}({given})"


def block(command: str) -> str:
    """Return a command as a bash block."""
    return f"```bash\n{command}\n```"


def _replacement(lines: list[str], begin: int, end: int, new: list[str]) -> tuple[str, str]:
    """Return the shortest text with these lines that is there once, and what comes in its place."""
    text = "".join(lines)
    if end - begin == len(new) == 1:
        old_line, new_line = lines[begin], new[0]
        indent = len(old_line) - len(old_line.lstrip(" "))
        if new_line[:indent] == old_line[:indent]:
            pair = _without_end(old_line[indent:], new_line[indent:])
            if _once(text, pair[0]):
                return pair
    for n in range(len(lines) + 1):
        # What is only inserted needs a line beside it, and the one before says best where.
        a, b = max(begin - (n + 1) // 2, 0), min(end + n // 2, len(lines))
        old, put = "".join(lines[a:b]), "".join([*lines[a:begin], *new, *lines[end:b]])
        pair = _without_end(old, put)
        if _once(text, pair[0]):
            return pair
    return text, "".join([*lines[:begin], *new, *lines[end:]])


def _without_end(old: str, new: str) -> tuple[str, str]:
    """Leave the last line feed out where both have it."""
    return (old[:-1], new[:-1]) if old.endswith("\n") and new.endswith("\n") else (old, new)


def _once(text: str, part: str) -> bool:
    return bool(part) and text.find(part) == text.rfind(part)


def _quoted(path: str) -> str:
    return "'" + path.replace("'", "'\\''") + "'"
