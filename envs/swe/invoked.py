"""Whether shell commands run tests: by the commands that they are, not by words that are somewhere in them."""

from __future__ import annotations

import re
from typing import Literal

_HEREDOC = re.compile(r"<<-?\s*(['\"]?)(\w+)\1(.*)\n(?:.*\n)*?\s*\2[ \t]*$", re.MULTILINE)
_QUOTED = re.compile(r"'[^']*'|\"(?:\\.|[^\"\\])*\"", re.DOTALL)
_COMMENT = re.compile(r"(?<!\S)#.*")
_BETWEEN = re.compile(r"\|\||(?<!>)&+(?!>)|[;\n()`]")
"""What is between pipelines."""
# No word fits two branches: an agent that writes many would keep this process busy for days.
_TESTS = re.compile(
    r"(?:(?:\w+=\S*|then|do|else|if|!|\{|exec|env|time|nice|timeout(?:\s+-\S+)*\s+[^\s-]\S*)\s+)*"
    r"(?:\S*/)?(?:pytest|py\.test|python[\d.]*(?:\s+-[WX](?:\s+\S+|\S+)|\s+-(?![WXm])\w+)*\s+-m\s*(?:pytest|unittest))(?:\s|$)"
)
_NO_TESTS = re.compile(r"\s(?:-h|-V|--help|--version|--co|--collect-only)(?:\s|$)")
_QUIET = {"true", ":", "echo", "exit", "cd", "fi", "done", "}"}
"""Commands that change no file."""


def runs_tests(script: str) -> Literal["", "earlier", "last"]:
    """Return whether commands run tests, and whether that is the last that they do."""
    text = _QUOTED.sub("_", _HEREDOC.sub(r"\3", script.replace("\\\n", " ")))
    found: Literal["", "earlier", "last"] = ""
    for pipeline in _BETWEEN.split(_COMMENT.sub("", text)):
        commands = [command.strip() for command in pipeline.split("|")]
        if any(_TESTS.match(command) and not _NO_TESTS.search(command) for command in commands):
            found = "last"
        elif found and commands[0] and commands[0].split()[0] not in _QUIET:
            found = "earlier"
    return found
