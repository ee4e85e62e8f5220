"""What the output of a repository's own test command says of each test."""

from __future__ import annotations

from milepost.envs.swe import logs


def test_logs_say_the_outcome_of_each_test() -> None:
    log = """PASSED a.py::test[x - y]
FAILED a.py::test[y - z] - assert 1 == 2
FAILED a.py::T::test_c - AssertionError
ERROR b.py - ImportError
XFAIL a.py::test_x - known
XPASS a.py::test_p
SKIPPED [1] a.py:3: no
PASSEDNOT a.py::test_q
"""
    assert dict(logs.pytest_log(log)) == {
        "a.py::test[x - y]": "passed",
        "a.py::test[y - z]": "failed",
        "a.py::T::test_c": "failed",
        "b.py": "error",
        "a.py::test_x": "skipped",
        "a.py::test_p": "passed",
    }
    long = "a::" * 100_000  # in time that grows with the line: its process writes what it likes
    assert list(logs.pytest_log(f"FAILED {long} x\nERROR a::b[{'] ' * 100_000}")) == []
    log = """test_a (m.C) ... ok
test_b (m.C)
What it shows. ... FAIL
test_c (m.C) ... skipped 'no'
test_d (m.C) ... expected failure
test_e (m.C) ... ERROR
"""
    assert {name[:6]: outcome for name, outcome in logs.unittest_log(log)} == {
        "test_a": "passed",
        "test_b": "failed",
        "test_c": "skipped",
        "test_d": "skipped",
        "test_e": "error",
    }
