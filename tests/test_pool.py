"""Pools: a bounded number of sandboxes, lent in order, as new, and closed together."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from milepost.sandbox import folders
from milepost.sandbox.core import Limits, Result, SandboxError, Settings
from milepost.sandbox.pool import Pool

A, B, C = (Settings(env={"NAME": name}) for name in "ABC")


class Place:
    """A sandbox that only counts."""

    backend, workspace = "none", "/workspace"
    made: list[Any]

    def __init__(self, settings: Settings) -> None:
        self.settings, self.n_resets, self.n_closed, self.dead = settings, 0, 0, False
        self.made.append(self)

    def run(self, command: Any, **_: Any) -> Result:
        if self.dead or self.n_closed:
            raise SandboxError("none: it is gone")
        return Result(0, 0.0, b"")

    def reset(self) -> None:
        self.run("")
        self.n_resets += 1

    def close(self) -> None:
        time.sleep(0.02)
        self.n_closed += 1

    @property
    def name(self) -> str:
        return self.settings.env["NAME"]


@pytest.fixture(autouse=True)
def places() -> list[Any]:
    Place.made = []
    return Place.made


def pool(size: int, **settings: Any) -> Pool:
    make: Any = Place
    return Pool(make, size, **settings)


def test_a_sandbox_is_reset_and_used_again_for_equal_settings_only(places: list[Any]) -> None:
    with pool(2) as made:
        with made.take(A) as first:
            pass
        with made.take(Settings(env={"NAME": "A"})) as again:
            assert again is first
        with made.take(Settings(env={"NAME": "A"}, limits=Limits(memory=1 << 20))) as other:
            assert other is not first
    assert [place.n_resets for place in places] == [2, 1]
    assert [place.n_closed for place in places] == [1, 1]


def test_the_least_recently_used_one_makes_room(places: list[Any]) -> None:
    with pool(2) as made:
        for settings in (A, B, A, C):
            with made.take(settings):
                pass
        a, b, c = places
        assert (a.name, b.name, c.name) == ("A", "B", "C")
        assert (a.n_closed, b.n_closed, c.n_closed) == (0, 1, 0)
        with made.take(A) as again:
            assert again is a


def test_a_base_that_changed_is_not_served_by_an_older_sandbox(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(folders, "_root", lambda: tmp_path)
    base = tmp_path / "given"
    base.mkdir()
    with pool(2) as made:
        with made.take(Settings(base=base)) as first:
            pass
        (base / "file").touch()
        with made.take(Settings(base=base)) as second:
            assert second is not first


def test_a_dead_one_is_replaced_and_what_fails_in_use_is_not_used_again(places: list[Any]) -> None:
    with pool(1) as made:
        with made.take(A):
            pass
        places[0].dead = True
        with made.take(A) as second:
            places[1].dead = True
            assert second is places[1]  # the first died while idle
        with made.take(A) as third:
            assert third is places[2]  # the second died while lent, and could not be reset
        with pytest.raises(SandboxError), made.take(A):
            raise SandboxError("out of order")
        with pytest.raises(ZeroDivisionError), made.take(A):
            raise ZeroDivisionError  # says nothing of the sandbox
        with made.take(A) as last:
            assert last is places[3]
    assert [place.n_closed for place in places] == [1, 1, 1, 1]


def test_one_that_does_not_start_leaves_its_place_to_the_next(places: list[Any]) -> None:
    def make(settings: Settings) -> Any:
        if settings == B:
            raise ValueError("no such image")
        return Place(settings)

    with Pool(make, 1) as made:
        with made.take(A):
            pass
        for _ in range(3):
            with pytest.raises(ValueError, match="no such image"), made.take(B):
                pass
        with made.take(A):
            pass


def interrupted(*_: Any, **__: Any) -> Any:
    raise KeyboardInterrupt


@pytest.mark.parametrize("deed", ["run", "reset"])
def test_one_that_is_interrupted_as_it_is_taken_or_given_back_is_closed_and_leaves_its_place(
    deed: str, places: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pool(1) as made:
        with made.take(A):
            pass
        with monkeypatch.context() as patch:
            patch.setattr(Place, deed, interrupted)
            with pytest.raises(KeyboardInterrupt), made.take(A):
                pass
        with made.take(A, wait_s=0.0) as another:
            assert another is places[1]
        assert places[0].n_closed == 1


@pytest.mark.parametrize("what", ["milepost.sandbox.pool._at_once", f"{Place.__module__}.Place.__init__"])
def test_a_warming_that_is_interrupted_leaves_its_place(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pool(1) as made:
        with monkeypatch.context() as patch:
            patch.setattr(what, interrupted)
            with pytest.raises(KeyboardInterrupt):
                made.warm(A)
        with made.take(A, wait_s=0.0):
            pass


def test_waiters_are_served_in_the_order_in_which_they_came() -> None:
    served: list[int] = []

    def wait(n: int) -> None:
        with made.take(A if n % 2 else B):
            served.append(n)

    with pool(1) as made:
        with made.take(A):
            threads = []
            for n in range(6):
                threads.append(threading.Thread(target=wait, args=(n,)))
                threads[-1].start()
                while len(made._waiting) <= n:
                    time.sleep(0.001)
        for thread in threads:
            thread.join()
    assert served == [0, 1, 2, 3, 4, 5]


def test_who_waits_too_long_is_told_in_one_line_and_holds_up_nobody() -> None:
    with pool(1) as made:
        with made.take(A), pytest.raises(SandboxError, match=r"none of its 1 sandboxes became free in 0\.01 s"):
            made.take(A, wait_s=0.01).__enter__()
        with made.take(A):
            pass
    with pytest.raises(ValueError, match="pool size: expected at least 1, got 0"):
        pool(0)


def test_never_more_than_its_size_are_there(places: list[Any]) -> None:
    most = 0

    def work(n: int) -> None:
        nonlocal most
        for m in range(20):
            with made.take((A, B, C)[(n + m) % 3]):
                most = max(most, sum(place.n_closed == 0 for place in list(places)))

    with pool(3) as made:
        threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert most <= 3
    assert all(place.n_closed == 1 for place in places)


def test_closing_ends_what_is_lent_and_who_waits(places: list[Any]) -> None:
    made, seen = pool(1), []

    def wait() -> None:
        try:
            made.take(A).__enter__()
        except SandboxError as error:
            seen.append(str(error))

    thread = threading.Thread(target=wait)
    with made.take(A) as lent:
        thread.start()
        while len(made._waiting) < 1:
            time.sleep(0.001)
        made.close()
        with pytest.raises(SandboxError):
            lent.run("true")
        thread.join()
    assert seen == ["pool: closed"]
    assert len(places) == 1
    with pytest.raises(SandboxError, match="closed"), made.take(A):
        pass
    made.close()


def test_warming_starts_as_many_as_there_is_room_for(places: list[Any]) -> None:
    with pool(4) as made:
        made.warm(A, 3)
        made.warm(B, 3)
        assert [place.name for place in places] == ["A", "A", "A", "B"]
        with made.take(B), made.take(A), made.take(A), made.take(A):
            assert len(places) == 4
    assert [place.n_closed for place in places] == [1, 1, 1, 1]


def test_a_child_process_neither_uses_nor_closes_its_parents_sandboxes(places: list[Any]) -> None:
    with pool(1) as made:
        with made.take(A):
            pass
        pid = os.fork()
        if pid == 0:
            code = 4
            try:
                made.close()
                code = 1 if places[0].n_closed else 2
                made.take(A).__enter__()
            except ValueError as error:
                code = 0 if "expected a pool of its own" in str(error) and code == 2 else 3
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_a_pool_is_closed_when_its_program_ends() -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from test_pool import *\n"
        "Place.made = []; Place.close = lambda self: os.write(1, b'closed\\n')\n"
        "made = pool(3); made.warm(A, 3); lent = made.take(A).__enter__()"
    )
    said = subprocess.run(
        [sys.executable, "-c", code, str(Path(__file__).parent)], capture_output=True, text=True, check=True
    )
    assert said.stdout.split() == ["closed"] * 3
