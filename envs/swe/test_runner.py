"""Runs pytest INSIDE a sandbox: a parent that tested code cannot read reports what a child, which tests, tells it.

Started as ``python3 -s -S -B -c THIS`` by ``testing.run_tests``: standard library only, and pytest from the folder of
test tools. Standard input is a length, a JSON of settings, and a secret that is read only after the child was forked
and has closed it. The parent's last line is that secret and a JSON of what it knows; a line that tested code prints
does not begin with it. The parent is not dumpable: its memory and descriptors are closed to the user it shares with
the child, and the child's messages are signed with a key that the child's reporter alone holds.

In a guarded run the child also gets a guard (``test_guard``), and after it was forked a file of tests, the canary, is
written outside the workspace, of which ``testing`` alone knows how they come out.
"""

# ruff: noqa: E402
from __future__ import annotations

import sys

sys.path[:] = [folder for folder in sys.path if folder]  # "" is the workspace, which may hold a json.py

import builtins
import ctypes
import hashlib
import hmac
import json
import os
import resource
import select
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

PR_SET_DUMPABLE = 4
MAX_OUTPUT = 1 << 16
MAX_MESSAGE = 2000
MAX_CHANGED = 20


def main() -> None:
    """Fork the tests, listen to them until their end or the end of their time, and report."""
    config = json.loads(_read(int(_read(8))))
    temporary = os.environ.get("TMPDIR", "/tmp")
    config["canary"] = [os.path.join(temporary, name, f"test_{name}.py") for name in config["canary"]]
    prctl = ctypes.CDLL(None).prctl
    prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
    keys = [os.urandom(32)]
    (reports, tell), (output, say), (begin, go) = os.pipe(), os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)
        os.close(reports)
        os.close(output)
        os.close(go)
        null = os.open("/dev/null", os.O_RDONLY)
        os.setsid()
        for fd, to in ((null, 0), (say, 1), (say, 2)):
            os.dup2(fd, to)
        os.close(say)
        os.close(null)
        if config["cpu_s"]:
            resource.setrlimit(resource.RLIMIT_CPU, (config["cpu_s"], config["cpu_s"] + 1))
        if config["memory"]:
            resource.setrlimit(resource.RLIMIT_AS, (config["memory"], config["memory"]))
        _child(config, tell, begin, keys)
    for fd in (tell, say, begin):
        os.close(fd)
    secret = _read(32).decode()
    with _canary(config):
        os.close(go)
        report = _listen(pid, reports, output, keys[0], config["timeout_s"])
    os.write(1, b"\n")
    rest = memoryview(f"{secret} {json.dumps(report)}\n".encode())
    while rest:
        rest = rest[os.write(1, rest) :]


@contextmanager
def _canary(config: dict[str, Any]) -> Iterator[None]:
    """Write the tests whose outcome the child is not told, as long as it runs."""
    for path in config["canary"]:
        os.mkdir(os.path.dirname(path))
        with open(path, "wb") as file:
            file.write(_read(int(_read(8))))
    yield
    for path in config["canary"]:
        with suppress(OSError):
            os.unlink(path)
            os.rmdir(os.path.dirname(path))


def _read(n: int) -> bytes:
    parts = []
    while n:
        part = os.read(0, n)
        if not part:
            sys.exit("the settings end too early")
        parts.append(part)
        n -= len(part)
    return b"".join(parts)


def _listen(pid: int, reports: int, output: int, key: bytes, timeout_s: float) -> dict[str, Any]:
    """Read reports and output until the child is gone; return what is known then."""
    start, text, buffer, forged = time.monotonic(), b"", b"", False
    told: list[dict[str, str]] = []
    status, cpu_s, open_fds, timed_out = None, 0.0, {reports, output}, False
    while True:
        left = start + timeout_s - time.monotonic()
        if left <= 0 and status is None:
            timed_out = True
            _kill(pid)
        wait = 0.0 if status is not None else min(max(left, 0.0), 0.05)
        ready = select.select(sorted(open_fds), [], [], wait)[0] if open_fds else []
        for fd in ready:
            part = os.read(fd, 1 << 16)
            if not part:
                open_fds.discard(fd)
            elif fd == output:
                text += part
                text = text if len(text) <= 2 * MAX_OUTPUT else text[:MAX_OUTPUT] + text[-MAX_OUTPUT:]
            else:
                *lines, buffer = (buffer + part).split(b"\n")
                for line in lines:
                    entry = _said(line, len(told), key)
                    told += [entry] if entry else []
                    forged |= entry is None
                if len(buffer) > 1 << 20:
                    forged, buffer = True, b""
        if status is None:
            done, code, usage = os.wait4(pid, 0 if timed_out or not open_fds else os.WNOHANG)
            if done:
                status, cpu_s = code, usage.ru_utime + usage.ru_stime
        elif not ready or time.monotonic() > start + timeout_s + 1.0:
            break
    seconds = time.monotonic() - start
    _kill(pid)
    ended = bool(told) and "end" in told[-1]
    return {
        "reports": [entry for entry in told if "end" not in entry],
        "end": int(told[-1]["end"]) if ended else None,
        "changed": told[-1]["changed"].splitlines() if ended else [],
        "complete": ended and not forged and not timed_out and status == 0,
        "exit_code": os.waitstatus_to_exitcode(status or 0),
        "timed_out": timed_out,
        "output": text.decode("utf-8", "backslashreplace"),
        "seconds": seconds,
        "cpu_s": cpu_s,
    }


def _kill(pid: int) -> None:
    for kill in (os.killpg, os.kill):
        with suppress(ProcessLookupError, PermissionError):
            kill(pid, signal.SIGKILL)


def _said(line: bytes, n: int, key: bytes) -> dict[str, str] | None:
    """Return a message that the reporter sent, as the n-th: none can be repeated or left out unseen."""
    mac, _, body = line.partition(b" ")
    wanted = hashlib.blake2b(b"%d " % n + body, key=key).hexdigest().encode()
    return json.loads(body) if hmac.compare_digest(mac, wanted) else None


def _child(config: dict[str, Any], tell: int, begin: int, keys: list[bytes]) -> None:
    """Run pytest; never returns."""
    code, guard = 70, None
    try:
        workspace, tools = config["workspace"], config["tools"]
        os.chdir(workspace)
        # Tools first and the workspace last: nothing in it stands for pytest or for the standard library.
        sys.path.insert(0, tools)
        roots = [p for p in (os.path.join(workspace, "src"), workspace) if os.path.isdir(p)]
        os.environ["PYTHONPATH"] = os.pathsep.join([*roots, tools])
        os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
        import pytest
        from _pytest.config import default_plugins

        for name in default_plugins:
            __import__(f"_pytest.{name}")
        # Byte code of the workspace is never believed: it may be of other sources.
        sys.pycache_prefix = os.path.join(os.environ.get("TMPDIR", "/tmp"), "no-bytecode")
        sys.path += roots
        # No frame keeps the key.
        reporter = _reporter(config["ids"], config["canary"], tell, keys.pop())
        if config["guard"]:
            # With builtins of its own, so that it goes on seeing when those are changed.
            space: dict[str, Any] = {"__name__": "test_guard", "__builtins__": dict(vars(builtins))}
            exec(compile(config.pop("guard"), "test_guard", "exec"), space)
            files = [os.path.join(workspace, word) for word in config["tests"] if not word.startswith("-")]
            files += [tools, os.path.dirname(os.__file__), *config["canary"]]
            guard = reporter.guard = space["Guard"](reporter, files)
        os.read(begin, 1)  # its end
        os.close(begin)
        options = ["-c", os.devnull, "--rootdir", workspace, "-o", "addopts=", "-p", "no:cacheprovider"]
        options += ["--confcutdir", workspace]  # else it lists the folders above, which a sandbox may refuse
        options += ["--import-mode=append", "--tb=short", "-q", "--no-header", "--color=no", "-W", "ignore"]
        plugins = [word for name in config["plugins"] for word in ("-p", name)]
        code = int(pytest.main([*options, *plugins, *config["tests"], *config["canary"]], plugins=[reporter]))
        sys.stdout.flush()
        sys.stderr.flush()
        reporter.end(code, guard.changed(reporter) if guard else [])
        code = 0
    except BaseException as error:
        os.write(2, f"{type(error).__name__}: {error}\n".encode("utf-8", "backslashreplace"))
    finally:
        os._exit(code)


def _reporter(ids: list[str] | None, canary: list[str], tell: int, key: bytes) -> Any:
    """Return the pytest plugin that sends what it sees; the key stays in its closure."""
    import pytest

    n_sent, theirs = 0, set[str]()
    wanted = None if ids is None else set(ids)
    write, quote, seal = os.write, json.encoder.encode_basestring_ascii, hashlib.blake2b(key=key)
    del key

    def send(entry: dict[str, str]) -> None:
        # Nothing on this way is in Python, where it could be changed, nor is the key to be had from the seal.
        nonlocal n_sent
        body = f"{{{', '.join([f'{quote(name)}: {quote(value)}' for name, value in entry.items()])}}}"
        mac = seal.copy()
        mac.update(b"%d " % n_sent + body.encode())
        rest = mac.hexdigest().encode() + b" " + body.encode() + b"\n"
        n_sent += 1
        while rest:
            rest = rest[write(tell, rest) :]

    class Reporter:
        guard: Any = None
        config: Any = None

        def pytest_configure(self, config: Any) -> None:
            self.config = config

        def pytest_collection_modifyitems(self, config: Any, items: list[Any]) -> None:
            if wanted is not None:
                found: dict[bool, list[Any]] = {True: [], False: []}
                for item in items:
                    found[item.nodeid in wanted or str(item.path) in canary].append(item)
                items[:] = found[True]
                config.hook.pytest_deselected(items=found[False])
            theirs.update(item.nodeid for item in items if str(item.path) in canary)
            if self.guard:
                self.guard.collected(items)

        @pytest.hookimpl(tryfirst=True)
        def pytest_report_teststatus(self, report: Any) -> Any:
            return ("", "", "") if report.nodeid in theirs else None

        def pytest_runtest_call(self, item: Any) -> None:
            # Called after all that wraps it, and before pytest's own, which calls the test.
            if self.guard:
                self.guard.called(item)

        @pytest.hookimpl(tryfirst=True)
        def pytest_runtest_logreport(self, report: Any) -> None:
            if report.passed and (report.when != "call" or type(report).__name__ == "SubtestReport"):
                return  # the test's own call says it
            if report.passed and self.guard:
                self.guard.passed(report.nodeid)
            outcome = "skipped" if hasattr(report, "wasxfail") and report.skipped else report.outcome
            entry = {"id": report.nodeid, "when": report.when, "outcome": outcome}
            send(entry | ({"message": _message(report)} if report.failed else {}))

        def pytest_collectreport(self, report: Any) -> None:
            if report.failed:
                send({"id": report.nodeid, "when": "collect", "outcome": "failed", "message": _message(report)})

        def end(self, code: int, changed: list[str]) -> None:
            send({"end": str(code), "changed": "\n".join(changed[:MAX_CHANGED])})

    return Reporter()


def _message(report: Any) -> str:
    crash = getattr(report.longrepr, "reprcrash", None)
    return str(crash.message if crash else report.longrepr)[:MAX_MESSAGE]


if __name__ == "__main__":
    main()
