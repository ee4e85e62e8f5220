"""Files of tasks in the form of SWE-bench: JSON, JSON lines or parquet, read and written.

Beside the published columns a row may have ``repository`` (a folder, from the file's), ``image``, ``test_command``
(with ``{tests}`` in it, and ``{tools}`` for the test tools), ``log_parser``, ``split`` and ``difficulty``. Without a
folder of its own an instance is looked for in ``NAME/INSTANCE_ID`` beside a file ``NAME.jsonl``, then in its image,
then in the one that SWE-bench publishes for it.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from milepost.envs.files import replacing
from milepost.envs.swe import logs, tasks
from milepost.envs.swe.diffs import unified
from milepost.envs.swe.instance import Instance
from milepost.envs.swe.tasks import SweTask, base, gold

TEXTS = ("instance_id", "repo", "base_commit", "patch", "test_patch", "problem_statement")
TESTS = ("FAIL_TO_PASS", "PASS_TO_PASS")
LESS = ("hints_text", "created_at", "version", "environment_setup_commit")
"""Published columns that may be empty or missing."""
SUFFIXES = (".json", ".jsonl", ".parquet")
MORE = ("repository", "image", "test_command", "log_parser", "split", "difficulty")


def read(path: Path) -> list[SweTask] | list[Instance]:
    """Read a file of tasks, ours or in the form of SWE-bench.

    Raises:
        ValueError: The file is missing, or one of its rows is no task: it says which and why.
    """
    if path.suffix == ".jsonl" and path.is_file():
        with path.open("rb") as file:
            if b'"instance_id"' not in file.readline():
                return tasks.read(path)
    return load(path)


def load(path: Path) -> list[Instance]:
    """Read a file in the form of SWE-bench; see ``read``."""
    if not path.is_file():
        raise ValueError(f"tasks: no file {path}")
    found: dict[str, Instance] = {}
    for where, row in _rows(path):
        try:
            instance = from_row(row() if callable(row) else row, path)
            if instance.instance_id in found:
                raise ValueError(f"instance_id: {instance.instance_id} is there twice")
        except ValueError as error:
            raise ValueError(f"{path}, {where}: {error}") from None
        found[instance.instance_id] = instance
    return list(found.values())


def from_row(row: Any, path: Path) -> Instance:
    """Return the instance of a row of a file.

    Raises:
        ValueError: A column is missing, or has a value of another type.
    """
    if not isinstance(row, Mapping):
        raise ValueError(f"expected an object, got {type(row).__name__}")
    missing = [name for name in (*TEXTS, *TESTS) if row.get(name) is None]
    if missing:
        raise ValueError(f"expected a value for {', '.join(missing)}; got {', '.join(map(str, row)) or 'nothing'}")
    values: dict[str, Any] = {name.lower(): _tests(name, row[name]) for name in TESTS}
    for name in (*TEXTS, *LESS, *MORE):
        value = row.get(name)
        if value is None:
            continue
        if name == "created_at" and not isinstance(value, str):
            value = str(value)  # some files have a time, or the milliseconds of one
        if not isinstance(value, str):
            raise ValueError(f"{name}: expected a text, got {type(value).__name__} {value!r:.40}")
        values[name] = value
    if not values["fail_to_pass"]:
        raise ValueError("FAIL_TO_PASS: expected at least one test, got none")
    if set(values["instance_id"]) & set("/\\\0") or values["instance_id"] in ("", ".", ".."):
        raise ValueError(f"instance_id: expected a name without slashes, got {values['instance_id']!r}")
    logs.parser(values.get("log_parser") or "pytest")
    folder = values.get("repository") or f"{path.stem}/{values['instance_id']}"
    return Instance(**{**values, "repository": str(path.absolute().parent / folder)})


def _tests(name: str, value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError as error:
            raise ValueError(f"{name}: expected a JSON list of test ids, got {value!r:.40} ({error})") from None
    if not isinstance(value, list) or not all(isinstance(test, str) for test in value):
        raise ValueError(f"{name}: expected a list of test ids, got {value!r:.40}")
    return tuple(value)


def _rows(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield where a row is, and the row, or a function that reads it."""
    if path.suffix not in SUFFIXES:
        raise ValueError(f"{path}: expected a file that ends in .json, .jsonl or .parquet")
    if path.suffix == ".jsonl":
        for number, line in enumerate(path.read_bytes().splitlines(), 1):
            if line.strip():
                yield f"line {number}", partial(tasks.parsed, line)
    elif path.suffix == ".json":
        try:
            rows = json.loads(path.read_bytes())
        except ValueError as error:
            raise ValueError(f"{path}: expected JSON: {error}") from None
        if not isinstance(rows, list):
            raise ValueError(f"{path}: expected a list of objects, got {type(rows).__name__}")
        yield from ((f"row {number}", row) for number, row in enumerate(rows, 1))
    else:
        import pyarrow
        import pyarrow.parquet

        try:
            rows = pyarrow.parquet.read_table(path).to_pylist()
        except (pyarrow.ArrowException, OSError) as error:
            raise ValueError(f"{path}: expected parquet: {str(error).splitlines()[0]}") from None
        yield from ((f"row {number}", row) for number, row in enumerate(rows, 1))


def write(path: Path, given: Iterable[SweTask], *, hide_tests: bool = False) -> list[Instance]:
    """Write tasks of our own in the form of SWE-bench, with a folder for each beside the file; return what was written.

    Args:
        path: The file, whose suffix says its format; the folders are in one of its name without the suffix.
        given: The tasks.
        hide_tests: Whether files with failing tests are left out of the folder and come with ``test_patch``, as where
            a fix was published together with its tests.

    Raises:
        ValueError: The file's suffix is none of .json, .jsonl, .parquet; or see ``base``.
    """
    if path.suffix not in SUFFIXES:
        raise ValueError(f"{path}: expected a file that ends in .json, .jsonl or .parquet")
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = []
    for task in given:
        digest = hashlib.sha256(repr((task.id, task.edits)).encode()).digest()
        name = f"{task.package}__{task.package}-{int.from_bytes(digest[:4])}"
        folder = path.parent / path.stem / name
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(base(task), folder)
        files = sorted({test.partition("::")[0] for test in task.fail_to_pass}) if hide_tests else []
        hidden = {file: (folder / file).read_bytes() for file in files}
        for file in files:
            (folder / file).unlink()
        commit = hashlib.sha1(base(task).name.encode()).hexdigest()
        rows.append(
            {
                "instance_id": name,
                "repo": f"{task.package}/{task.package}",
                "base_commit": commit,
                "patch": gold(task),
                "test_patch": unified({}, hidden),
                "problem_statement": task.statement,
                "hints_text": "",
                "created_at": "",
                "version": task.version,
                "FAIL_TO_PASS": json.dumps(task.fail_to_pass),
                "PASS_TO_PASS": json.dumps(task.pass_to_pass),
                "environment_setup_commit": commit,
                "split": task.split,
                "difficulty": task.level,
            }
        )
    _write(path, rows)
    return [from_row(row, path) for row in rows]


def _write(path: Path, rows: list[dict[str, str]]) -> None:
    """Write rows; the file is there whole or as it was before."""
    with replacing(path) as file:
        if path.suffix == ".parquet":
            import pyarrow
            import pyarrow.parquet

            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file)
        elif path.suffix == ".jsonl":
            file.writelines(json.dumps(row).encode() + b"\n" for row in rows)
        else:
            file.write(json.dumps(rows, indent=1).encode() + b"\n")
