"""The same sandboxes for code that awaits: each has a thread of its own, so that as many wait at once as there are."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import Future, InvalidStateError, ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar

from milepost.sandbox.core import Node, Result, Sandbox, SandboxError, Session, Settings
from milepost.sandbox.make import make as make_sandbox
from milepost.sandbox.pool import Pool

T = TypeVar("T")


class AsyncSandbox:
    """A ``Sandbox`` whose methods are awaited, with the same arguments and errors.

    Cancelling one closes the sandbox, and so stops its command; one that still waits for its turn is only dropped.
    Requests are answered in the order in which they came.
    """

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="milepost-sandbox")
        self._ending = False  # something closes it, now or soon
        self.backend, self.workspace, self.isolation = sandbox.backend, sandbox.workspace, sandbox.isolation

    async def run(
        self,
        command: str | Sequence[str],
        *,
        timeout_s: float = 60.0,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        stdin: bytes = b"",
        max_output: int = 1 << 16,
    ) -> Result:
        """Run a shell command, or a program with arguments; nothing that it started outlives it."""
        return await self._do(
            lambda: self._sandbox.run(
                command, timeout_s=timeout_s, cwd=cwd, env=env, stdin=stdin, max_output=max_output
            )
        )

    def session(self, name: str = "main") -> AsyncSession:
        """Return the shell of that name, which is started at its first command."""
        return AsyncSession(self._do, self._sandbox.session(name))

    async def read(self, path: str, *, max_bytes: int = 1 << 24) -> bytes:
        """Return a file's content; a longer one is a ``ValueError``."""
        return await self._do(lambda: self._sandbox.read(path, max_bytes=max_bytes))

    async def write(self, path: str, data: bytes | str, *, mode: int = 0o644) -> None:
        """Write a file, and the folders above it."""
        await self._do(lambda: self._sandbox.write(path, data, mode=mode))

    async def get_tree(self, path: str = ".") -> dict[str, Node]:
        """Return all files, folders and links below a folder."""
        return await self._do(lambda: self._sandbox.get_tree(path))

    async def put_tree(self, tree: Mapping[str, Node | None], path: str = ".") -> None:
        """Write a tree below a folder."""
        await self._do(lambda: self._sandbox.put_tree(tree, path))

    async def diff(self) -> dict[str, Node | None]:
        """Return what the workspace has otherwise than its base: nodes as they are now, None for what is gone."""
        return await self._do(self._sandbox.diff)

    def place(self, mount: str) -> str:
        """Return where commands find one of ``Settings.mounts``."""
        return self._sandbox.place(mount)

    async def reset(self) -> None:
        """Make it as new: no process, no session, the base alone in the workspace."""
        await self._do(self._sandbox.reset)

    async def close(self) -> None:
        """Kill and remove it, whatever it is doing; a second call does nothing."""
        self._ending = True
        await _aside(self._sandbox.close)
        self._thread.shutdown(wait=False)

    async def __aenter__(self) -> AsyncSandbox:
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.shield(self.close())

    async def _do(self, job: Callable[[], T]) -> T:
        try:
            future = self._thread.submit(job)
        except RuntimeError:
            raise SandboxError(f"{self.backend}: the sandbox is closed") from None
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            # A request that waited for its turn is dropped; one that runs has to be stopped.
            if not future.cancel() and not future.done():
                self._ending = True
                threading.Thread(target=self._stop, daemon=True).start()
            raise

    def _stop(self) -> None:
        with suppress(SandboxError, OSError):
            self._sandbox.close()


class AsyncSession:
    """A ``Session`` whose methods are awaited."""

    def __init__(self, do: Callable[[Callable[[], Any]], Any], session: Session) -> None:
        self._do, self._session = do, session

    async def run(self, command: str, *, timeout_s: float = 60.0, max_output: int = 1 << 16) -> Result:
        """Run a command in it; one whose time is over ends the session, which then begins anew."""
        result: Result = await self._do(lambda: self._session.run(command, timeout_s=timeout_s, max_output=max_output))
        return result

    async def close(self) -> None:
        """End it, and all that it started."""
        await self._do(self._session.close)


async def make(backend: str = "auto", settings: Settings | None = None) -> AsyncSandbox:
    """Start a sandbox as ``milepost.sandbox.make.make`` does."""
    return AsyncSandbox(await _aside(lambda: make_sandbox(backend, settings), lambda sandbox: sandbox.close()))


@asynccontextmanager
async def take(
    pool: Pool, settings: Settings | None = None, *, wait_s: float | None = None
) -> AsyncIterator[AsyncSandbox]:
    """Lend a sandbox of a pool, as its ``take`` does; nobody else gets one of which a request was cancelled."""
    lent = pool.take(settings, wait_s=wait_s)
    sandbox = AsyncSandbox(await _aside(lent.__enter__, lambda _: lent.__exit__(None, None, None)))
    try:
        yield sandbox
    finally:
        # What closes it may come late, when another would have it.
        error = (SandboxError, SandboxError("it is being closed"), None) if sandbox._ending else sys.exc_info()
        await asyncio.shield(_aside(lambda: lent.__exit__(*error)))
        sandbox._thread.shutdown(wait=False)


async def _aside(job: Callable[[], T], undo: Callable[[T], object] = lambda _: None) -> T:
    """Do a job on a thread of its own, as the loop's few may all be waiting; undo it when nobody waits any more."""
    future: Future[T] = Future()

    def work() -> None:
        try:
            result = job()
        except BaseException as error:
            with suppress(InvalidStateError):
                future.set_exception(error)
            return
        try:
            future.set_result(result)
        except InvalidStateError:
            undo(result)

    threading.Thread(target=work, daemon=True).start()
    try:
        return await asyncio.wrap_future(future)
    except asyncio.CancelledError:
        if not future.cancel() and not future.exception():
            threading.Thread(target=undo, args=(future.result(),), daemon=True).start()
        raise
