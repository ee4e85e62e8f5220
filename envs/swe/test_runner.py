"""Runs pytest INSIDE a sandbox: a parent that tested code cannot read reports what a child, which tests, tells it.

Started as ``python3 -s -S -B -c THIS`` by ``testing.run_tests``: standard library only, and pytest from the folder of
test tools. Standard input is a length, a JSON of settings, and a secret that is read only after the child was forked
and has closed it. The parent's last line is that secret and a JSON of what it knows; a line that tested code prints
does not begin with it. The parent is not dumpable: its memory and descriptors are closed to the user it shares with
the child, and the child's messages are signed with a key that the child's reporter alone holds.
"""

# ruff: noqa: E402
from __future__ import annotations

import sys

sys.path[:] = [folder for folder in sys.path if folder]  # "" is the workspace, which may hold a json.py

import ctypes
import hashlib
import hmac
import json
import os
import resource
import select
import signal
import time
from contextlib import suppress
from typing import Any

PR_SET_DUMPABLE = 4
MAX_OUTPUT = 1 << 16
MAX_MESSAGE = 2000


def main() -> None:
    """Fork the tests, listen to them until their end or the end of their time, and report."""
    config = json.loads(_read(int(_read(8))))
    prctl = ctypes.CDLL(None).prctl
    prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
    key = os.urandom(32)
    (reports, tell), (output, say) = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)
        os.close(reports)
        os.close(output)
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
        _child(config, tell, key)
    os.close(tell)
    os.close(say)
    secret = _read(32).decode()
    report = _listen(pid, reports, output, key, config["timeout_s"])
    os.write(1, b"\n")
    rest = memoryview(f"{secret} {json.dumps(report)}\n".encode())
    while rest:
        rest = rest[os.write(1, rest) :]


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
    told: list[dict[str, Any]] = []
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
                    mac, _, body = line.partition(b" ")
                    if hmac.compare_digest(mac, _mac(key, len(told), body)):
                        told.append(json.loads(body))
                    else:
                        forged = True
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
        "end": told[-1]["end"] if ended else None,
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


def _mac(key: bytes, n: int, body: bytes) -> bytes:
    """The count is signed too: no message can be repeated or left out unseen."""
    return hmac.new(key, b"%d " % n + body, hashlib.sha256).hexdigest().encode()


def _child(config: dict[str, Any], tell: int, key: bytes) -> None:
    """Run pytest; never returns."""
    code = 70
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
        reporter = _reporter(config["ids"], tell, key)
        options = ["-c", os.devnull, "--rootdir", workspace, "-o", "addopts=", "-p", "no:cacheprovider"]
        options += ["--import-mode=append", "--tb=short", "-q", "--no-header", "--color=no", "-W", "ignore"]
        plugins = [word for name in config["plugins"] for word in ("-p", name)]
        code = int(pytest.main([*options, *plugins, *config["tests"]], plugins=[reporter]))
        sys.stdout.flush()
        sys.stderr.flush()
        reporter.end(code)
        code = 0
    except BaseException as error:
        os.write(2, f"{type(error).__name__}: {error}\n".encode("utf-8", "backslashreplace"))
    finally:
        os._exit(code)


def _reporter(ids: list[str] | None, tell: int, key: bytes) -> Any:
    """Return the pytest plugin that sends what it sees; the key stays in its closure."""
    import pytest

    n_sent = 0
    wanted = None if ids is None else set(ids)
    write, dumps, mac = os.write, json.dumps, _mac

    def send(entry: dict[str, Any]) -> None:
        nonlocal n_sent
        body = dumps(entry).encode()
        rest = mac(key, n_sent, body) + b" " + body + b"\n"
        n_sent += 1
        while rest:
            rest = rest[write(tell, rest) :]

    class Reporter:
        def pytest_collection_modifyitems(self, config: Any, items: list[Any]) -> None:
            if wanted is not None:
                left_out = [item for item in items if item.nodeid not in wanted]
                items[:] = [item for item in items if item.nodeid in wanted]
                config.hook.pytest_deselected(items=left_out)

        @pytest.hookimpl(tryfirst=True)
        def pytest_runtest_logreport(self, report: Any) -> None:
            if report.passed and (report.when != "call" or type(report).__name__ == "SubtestReport"):
                return  # the test's own call says it
            outcome = "skipped" if hasattr(report, "wasxfail") and report.skipped else report.outcome
            entry = {"id": report.nodeid, "when": report.when, "outcome": outcome}
            send(entry | ({"message": _message(report)} if report.failed else {}))

        def pytest_collectreport(self, report: Any) -> None:
            if report.failed:
                send({"id": report.nodeid, "when": "collect", "outcome": "failed", "message": _message(report)})

        def end(self, code: int) -> None:
            send({"end": code})

    return Reporter()


def _message(report: Any) -> str:
    crash = getattr(report.longrepr, "reprcrash", None)
    return str(crash.message if crash else report.longrepr)[:MAX_MESSAGE]


if __name__ == "__main__":
    main()
