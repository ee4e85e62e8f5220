"""Compute every key that the worked examples of a file expect, and compare."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from milepost.recipes.vectors.family import Family, NotComputed

FAMILIES: dict[str, str] = {
    **dict.fromkeys(("COM", "MTG"), "common"),
    **dict.fromkeys(("GRA",), "gates"),
    **dict.fromkeys(("IGPO", "MIG", "TIPS", "TRACE", "R3", "NOUS"), "answers"),
    **dict.fromkeys(("SPA", "OPRL", "PRIME", "ARCH", "BILEVEL"), "models"),
    **dict.fromkeys(("ONI", "CALM"), "annotated"),
    **dict.fromkeys(("PAR", "GDPO", "ENS", "CHI", "RTO", "TGD", "DRW", "KRC", "ADS"), "combined"),
    **dict.fromkeys(("URPO", "DRIRL", "AMFT", "ERANK"), "combined"),
    **dict.fromkeys(("GIGPO", "MTGRPO", "VINE", "ARPO", "EMPG"), "peers"),
    **dict.fromkeys(("GUI", "VRFT", "VT", "UIG"), "visual"),
}
"""Letters of an id -> the module beside this one that has their family, under the letters in lower case."""
TOLERANCE = 1e-5
"""Most absolute difference of two numbers that are the same."""


@dataclass(frozen=True)
class Result:
    """What became of one key of one example."""

    id: str
    key: str
    ok: bool
    text: str = ""
    """Why it is not right: the first entry that differs, or why it could not be computed."""


def run(path: Path, only: str | None = None) -> list[Result]:
    """Return the results of all keys of all examples of a file, in its order, or of the one with that id.

    Raises:
        ValueError: The file is not there, does not parse or is not of the form; one line.
    """
    vectors = read(path)
    return [result for id, vector in vectors.items() if only in (None, id) for result in _run(vector, vectors)]


def read(path: Path) -> dict[str, dict[str, Any]]:
    """Return the examples of a file by id: YAML documents, each with ``id``, ``given`` and ``expect``.

    Raises:
        ValueError: See ``run``.
    """
    import yaml

    try:
        documents = [d for d in yaml.safe_load_all(path.read_text(encoding="utf-8")) if d is not None]
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: cannot be read: {error}") from error
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: is not YAML: {' '.join(str(error).split())}") from error
    vectors: dict[str, dict[str, Any]] = {}
    for n, document in enumerate(documents, start=1):
        where = f"{path}: example {n}"
        if not isinstance(document, Mapping) or not {"id", "given", "expect"} <= set(document):
            raise ValueError(f"{where}: expected a mapping with id, given and expect, got {_short(document)}")
        if not isinstance(document["id"], str):
            raise ValueError(f"{where}: expected a text as id, got {_short(document['id'])}")
        if not all(isinstance(document[key], Mapping) for key in ("given", "expect")) or not document["expect"]:
            raise ValueError(f"{where}, {document['id']}: expected given and expect to be mappings, expect not empty")
        if document["id"] in vectors:
            raise ValueError(f"{where}: the id {document['id']} comes twice")
        vectors[document["id"]] = dict(document)
    if not vectors:
        raise ValueError(f"{path}: has no example")
    return vectors


def compute(id: str, key: str, given: Mapping[str, Any]) -> Any:
    """Return what the library computes for a key of an example.

    Raises:
        NotComputed: Nothing does.
    """
    letters = id.rpartition("-")[0] or id
    if letters not in FAMILIES:
        raise NotComputed(f"no family has the letters {letters!r}; there is {', '.join(FAMILIES)}")
    module = importlib.import_module(f"milepost.recipes.vectors.{FAMILIES[letters]}")
    family: Family = getattr(module, letters.lower())
    return family.compute(key, given)


def difference(expected: Any, got: Any, where: str = "") -> str | None:
    """Return where two values first differ and how, or None where they do not."""
    got = got.tolist() if isinstance(got, np.ndarray | np.generic) else got
    if isinstance(expected, Mapping):
        if not isinstance(got, Mapping) or set(expected) != set(got):
            return f"{where}: expected {_short(expected)}, got {_short(got)}"
        return next((d for k in expected if (d := difference(expected[k], got[k], f"{where}.{k}"))), None)
    if isinstance(expected, list):
        if not isinstance(got, Sequence) or isinstance(got, str) or len(expected) != len(got):
            return f"{where}: expected {_short(expected)}, got {_short(got)}"
        pairs = enumerate(zip_longest(expected, got))
        return next((d for i, (a, b) in pairs if (d := difference(a, b, f"{where}[{i}]"))), None)
    if isinstance(expected, bool) or not isinstance(expected, int | float):
        same = expected == got
    else:
        same = isinstance(got, int | float) and abs(expected - got) <= TOLERANCE
    return None if same else f"{where}: expected {expected}, got {_short(got)}"


def _run(vector: Mapping[str, Any], vectors: Mapping[str, Mapping[str, Any]]) -> list[Result]:
    given = dict(vector["given"])
    if (source := given.pop("same_as", None)) is not None:
        if not isinstance(source, str) or source not in vectors:
            raise ValueError(f"{vector['id']}: same_as names {source!r}, which is not in the file")
        given = {**vectors[source]["given"], **given}
    results = []
    for key, expected in vector["expect"].items():
        try:
            told = difference(expected, compute(vector["id"], key, given), key)
        except NotComputed as error:
            told = f"{key}: not computed: {error}"
        except Exception as error:  # whatever an odd example makes of our functions, the others are still computed
            told = f"{key}: not computed: {type(error).__name__}: {error}"
        results.append(Result(vector["id"], key, told is None, told or ""))
    return results


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
