"""What people use instead of our sandboxes, for ``benchmarks/sandbox.py``: plain containers and SWE-ReX."""

from __future__ import annotations

import json
import os
import subprocess
import venv
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from table import timed

LABEL = "milepost.benchmark"
REX = """
import asyncio, sys, time
out, sys.stdout = sys.stdout, sys.stderr  # which it writes to as well
from swerex.deployment.local import LocalDeployment
from swerex.runtime.abstract import BashAction, CreateBashSessionRequest

async def begun():
    deployment = LocalDeployment()
    await deployment.start()
    await deployment.runtime.create_session(CreateBashSessionRequest())
    return deployment

async def main():
    mine = await begun()
    print("ready", file=out, flush=True)
    for line in sys.stdin:
        start = time.perf_counter()
        if line == "start\\n":
            other = await begun()
            took = time.perf_counter() - start
            await other.stop()
        else:
            await mine.runtime.run_in_session(BashAction(command="true"))
            took = time.perf_counter() - start
        print(took * 1e3, file=out, flush=True)
    await mine.stop()

asyncio.run(main())
"""


class PlainContainers:
    """Containers as the Docker SDK's guide starts them, of the image that ours have, removed at the end."""

    def __init__(self) -> None:
        import docker

        from milepost.sandbox import skeleton

        self.client, self._image = docker.from_env(), skeleton.NAME

    def start(self, folder: Path | None = None) -> Any:
        """Return a new container that has answered a command, perhaps with a folder of the host to look at."""
        volumes = {"/usr": {"bind": "/usr", "mode": "ro"}}
        if folder:
            volumes[str(folder)] = {"bind": "/workspace", "mode": "ro"}
        container = self.client.containers.run(
            self._image,
            ["sleep", "infinity"],
            detach=True,
            network_mode="none",
            user="1000:1000",
            labels={LABEL: str(os.getpid())},
            volumes=volumes,
            working_dir="/workspace",
        )
        container.exec_run(["true"])
        return container

    @contextmanager
    def one(self) -> Iterator[Any]:
        """Lend a container."""
        container = self.start()
        try:
            yield container
        finally:
            container.remove(force=True)

    def close(self) -> None:
        """Remove all that are left."""
        for container in self.client.containers.list(all=True, filters={"label": f"{LABEL}={os.getpid()}"}):
            with suppress(Exception):
                container.remove(force=True)


class Rex:
    """SWE-ReX's local deployment, which isolates nothing, in a Python environment and a process of its own."""

    def __init__(self, folder: Path) -> None:
        """Install it below a folder, and start it."""
        venv.create(folder / "rex", with_pip=True)
        python = folder / "rex" / "bin" / "python"
        pip = [python, "-m", "pip", "--disable-pip-version-check"]
        subprocess.run([*pip, "install", "-qq", "swe-rex"], check=True, stdout=subprocess.DEVNULL)
        listed = subprocess.run([*pip, "list", "--format", "json"], check=True, capture_output=True).stdout
        self.version = {row["name"]: row["version"] for row in json.loads(listed)}["swe-rex"]
        self._process = subprocess.Popen(
            [python, "-c", REX], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        while self._answer() != "ready":
            if self._process.poll() is not None:
                raise RuntimeError("SWE-ReX did not start")

    def run(self) -> float:
        """Return the milliseconds of ``true`` in its session."""
        return self._ask("run")

    def start(self) -> float:
        """Return the milliseconds until another deployment with a session is there."""
        return self._ask("start")

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30)

    def _ask(self, what: str) -> float:
        assert self._process.stdin is not None
        self._process.stdin.write(what + "\n")
        self._process.stdin.flush()
        return float(self._answer())

    def _answer(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


def git_reset(repository: Path, change: str) -> Callable[[], float]:
    """Return what changes a repository and gives the milliseconds in which git has it as it was."""
    undo = ["sh", "-c", "git reset -q --hard && git clean -qfdx"]

    def job() -> float:
        subprocess.run(["sh", "-c", change], cwd=repository, check=True)
        return timed(lambda: subprocess.run(undo, cwd=repository, check=True))

    return job
