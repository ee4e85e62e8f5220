"""An agent that is a program of its own, in any language: a JSON line in, a JSON line out.

    {"id": 7, "episode": "0:g:1", "messages": [...], "tools": [...], "seed": 5, "n_seen": 3}      on standard input
    {"id": 7, "content": "climb"}                                                                on standard output

Messages, tools and ``tool_calls`` (beside or instead of ``content``) are OpenAI's; the first ``n_seen`` messages were
in this episode's last request already. Answers may come in any order. ``{"id": 7, "error": "..."}`` fails the
episode alone. A program that keeps something per episode answers with ``"forget": true`` once; from then on it is told
``{"forget": [episodes]}``, which it does not answer. What is meant for a person goes to standard error.
"""

from __future__ import annotations

import asyncio
import json
import shlex
import shutil
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple, Self

from milepost.agents.core import Answer, Request
from milepost.agents.outside import read_message, sent_messages
from milepost.agents.program import LINE_BYTES, Program
from milepost.envs.core import ContractError
from milepost.sandbox.core import MachineError

MAX_FRUITLESS = 3
"""So many runs of the program in a row may end without one answer."""

GRACE_S = 2.0
"""So long a program may take to end when its input has ended."""


class ProgramError(MachineError):
    """A program that is the agent ended, hung, or gave up on an episode."""


class _Waiting(NamedTuple):
    request: Request
    program: Program
    loop: asyncio.AbstractEventLoop
    answer: asyncio.Future[Answer]


class ProcessPolicy:
    """Asks a program, started on use and again when it ends; an episode stays with one of its ``processes``.

    Where it ends, what it was asked fails. The run ends by an error where it ends before it ever answered, or three
    times in a row without an answer, or writes what is no answer. An answer that takes longer than ``timeout_s``, the
    wait behind others included, fails its episode; a program that answered nothing at all for so long is started anew.
    """

    version = 0

    def __init__(self, command: str, *, processes: int = 1, timeout_s: float = 600.0) -> None:
        """Take a command as a shell would, without a shell.

        Raises:
            ValueError: There is no such program, or a number is too small.
        """
        self.command = command
        try:
            self._argv = shlex.split(command)
        except ValueError as error:
            raise ValueError(f"{self}: {error}") from None
        if not self._argv or shutil.which(self._argv[0]) is None:
            raise ValueError(f"{self}: expected a program, got {self._argv[0] if self._argv else 'nothing'!r}")
        if processes < 1 or timeout_s <= 0:
            raise ValueError(f"{self}: expected 1 or more processes and seconds, got {processes} and {timeout_s}")
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._programs: list[Program | None] = [None] * processes
        self._started: set[Program] = set()
        """Whose end was not told yet: those in their place, and those whose place another took."""
        self._homes: dict[str, int] = {}
        self._waiting: dict[str, _Waiting] = {}
        self._n_asked = self._n_answered = self._n_fruitless = 0
        self._broken: Exception | None = None

    def __str__(self) -> str:
        return f"agent program {self.command!r}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def act(self, requests: Sequence[Request]) -> Sequence[Answer]:
        """Return what the program answers to each request.

        Raises:
            ContractError: It wrote what is no answer, or ended before its first one.
            ProgramError: It ended three times in a row without an answer.
        """
        return await asyncio.gather(*map(self._ask, requests))

    def forget(self, episode_ids: Sequence[str]) -> None:
        """Tell the programs that want to know."""
        with self._lock:
            homes = {id_: self._homes.pop(id_) for id_ in episode_ids if id_ in self._homes}
            for home, program in enumerate(self._programs):
                over = [id_ for id_ in homes if homes[id_] == home]
                if program is not None and program.wants_forget and over:
                    program.send(_line({"forget": over}))

    def close(self) -> None:
        """End the programs: their input ends, and who stays all the same is killed."""
        with self._lock:
            programs = list(self._started)
            self._programs = [None] * len(self._programs)
        for program in programs:
            program.hang_up()
        until = time.monotonic() + GRACE_S
        for program in programs:
            program.close(until - time.monotonic())

    async def _ask(self, request: Request) -> Answer:
        asked_s, loop = time.monotonic(), asyncio.get_running_loop()
        with self._lock:
            self._n_asked += 1
            id_ = self._n_asked
        line = _line(
            {
                "id": id_,
                "episode": request.episode,
                "messages": sent_messages(request),
                "tools": list(request.tools),
                "seed": request.seed,
                "n_seen": request.n_seen,
            }
        )
        with self._lock:
            if self._broken is not None:
                raise self._broken
            program = self._program(request.episode)
            waiting = self._waiting[str(id_)] = _Waiting(request, program, loop, loop.create_future())
            program.send(line)
        try:
            async with asyncio.timeout(self._timeout_s):
                return await waiting.answer
        except TimeoutError:
            if program.heard_s < asked_s:
                program.kill(f"answered nothing in {self._timeout_s:g} s")
            return ProgramError(f"{self}, episode {request.episode}: no answer in {self._timeout_s:g} s")
        finally:
            with self._lock:
                self._waiting.pop(str(id_), None)

    def _program(self, episode: str) -> Program:
        """Return the program of an episode, started if need be."""
        loads = [0] * len(self._programs)
        for home in self._homes.values() if episode not in self._homes else ():
            loads[home] += 1
        home = self._homes.setdefault(episode, loads.index(min(loads)))
        program = self._programs[home]
        if program is None or program.over:
            try:
                program = self._programs[home] = Program(self._argv, self._read, self._ended)
            except OSError as error:
                raise ProgramError(f"{self} cannot be started: {error}") from error
            self._started.add(program)
        return program

    def _read(self, program: Program, line: bytes) -> None:
        """Take a line of a program, in its thread."""
        if len(line) > LINE_BYTES:
            raise ContractError(f"{self}: a line of more than {LINE_BYTES:,} bytes, which begins with {line[:80]!r}")
        if not line.strip():
            return
        try:
            answer: Any = json.loads(line)
        except (ValueError, RecursionError):
            answer = None
        id_ = str(answer.get("id")) if isinstance(answer, dict) else ""
        if not (id_.isdecimal() and len(id_) < 20 and 0 < int(id_) <= self._n_asked):
            raise ContractError(
                f'{self}: expected a JSON object with the "id" of a request on a line of its standard output, '
                f"got {line.strip()[:80]!r}; what is meant for a person goes to standard error"
            )
        program.n_answers += 1
        program.heard_s = time.monotonic()
        program.wants_forget |= answer.get("forget") is True
        with self._lock:
            self._n_answered += 1
            waiting = self._waiting.get(id_)
        if waiting is not None:  # else it was answered before, or nobody waits any more
            _settle(waiting, self._answer(answer, waiting.request))

    def _answer(self, answer: Mapping[str, Any], request: Request) -> Answer:
        if "error" in answer:
            return ProgramError(f"{self}, episode {request.episode}: {str(answer['error'])[:300]}")
        try:
            return read_message(answer, len(request.messages))
        except ValueError as error:
            raise ContractError(f"{self}, episode {request.episode}: {error}") from None

    def _ended(self, program: Program, why: str, error: Exception | None) -> None:
        """Hear of a program's end, in its thread."""
        words = program.last_words
        text = f"{self} {why}{f'; its last words: {words}' if words else ''}"
        with self._lock:
            self._programs = [None if other is program else other for other in self._programs]
            self._started.discard(program)
            self._n_fruitless = 0 if program.n_answers else self._n_fruitless + 1
            if not program.closing:
                self._broken = self._broken or error or self._verdict(text)
            lost = [i for i, waiting in self._waiting.items() if self._broken or waiting.program is program]
            unanswered = [self._waiting.pop(i) for i in lost]
        for waiting in unanswered:
            failed = ProgramError(f"{text} (episode {waiting.request.episode})")
            _settle(waiting, failed, self._broken)

    def _verdict(self, text: str) -> Exception | None:
        """Return what ends the run after a program's end, if anything does."""
        if not self._n_answered:
            return ContractError(f"{text} (before it answered anything)")
        if self._n_fruitless >= MAX_FRUITLESS:
            return ProgramError(f"{text} ({MAX_FRUITLESS} times in a row without an answer)")
        return None


def _line(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value).encode() + b"\n"


def _settle(waiting: _Waiting, answer: Answer, error: Exception | None = None) -> None:
    """Answer a request, or raise where it is awaited, in its own event loop."""

    def settle() -> None:
        if not waiting.answer.done():
            waiting.answer.set_result(answer) if error is None else waiting.answer.set_exception(error)

    with suppress(RuntimeError):  # the loop is closed: nobody waits any more
        waiting.loop.call_soon_threadsafe(settle)
