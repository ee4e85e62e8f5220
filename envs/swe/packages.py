"""The packages that tasks are made of: pinned source distributions whose tests run in seconds, without a network."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from milepost.envs.names import did_you_mean

Split = Literal["train", "valid", "test"]
SPLITS: tuple[Split, ...] = ("train", "valid", "test")


@dataclass(frozen=True)
class Package:
    """A source distribution on the package index; nothing of it is in this repository."""

    name: str
    version: str
    sha256: str
    """Of the source distribution."""
    licence: str
    split: Split
    """All tasks of a package are in one split."""
    modules: tuple[str, ...]
    """Patterns of the files that edits may be in."""
    tests: tuple[str, ...]
    """What ``run_tests`` is given: files and folders, and options that leave slow tests out."""

    @property
    def archive(self) -> str:
        """The source distribution's file name."""
        return f"{self.name.replace('-', '_')}-{self.version}.tar.gz"

    @property
    def test_paths(self) -> tuple[str, ...]:
        """The files and folders among ``tests``."""
        return tuple(word for word in self.tests if not word.startswith("-"))

    def files(self, tree: Path) -> list[str]:
        """Return the files of an unpacked tree that edits may be in, in order."""
        found = {path for pattern in self.modules for path in tree.glob(pattern) if path.is_file()}
        return sorted(path.relative_to(tree).as_posix() for path in found)


def package(name: str) -> Package:
    """Return a package by its name.

    Raises:
        ValueError: There is none of that name.
    """
    if name not in PACKAGES:
        raise ValueError(f"no package {name!r}{did_you_mean(name, PACKAGES)}; there are: {', '.join(PACKAGES)}")
    return PACKAGES[name]


def packages(names: Iterable[str] = (), split: str | None = None) -> list[Package]:
    """Return the packages of these names (none: all), or those of them in a split, in the list's order.

    Raises:
        ValueError: There is no such package or split.
    """
    if split is not None and split not in SPLITS:
        raise ValueError(f"SWE split: expected one of {', '.join(SPLITS)}, got {split!r}")
    wanted = [package(name) for name in names] or list(PACKAGES.values())
    return [one for one in PACKAGES.values() if one in wanted and split in (None, one.split)]


PACKAGES = {
    one.name: one
    for one in (
        Package(
            "inflection",
            "0.5.1",
            "1a29730d366e996aaacffb2f1f1cb9593dc38e2ddd30c91250c6dde09ea9b417",
            "MIT",
            "train",
            ("inflection/__init__.py",),
            ("test_inflection.py",),
        ),
        Package(
            "cachetools",
            "6.2.0",
            "38b328c0889450f05f5e120f56ab68c8abaf424e1275522b138ffc93253f7e32",
            "MIT",
            "train",
            ("src/cachetools/*.py",),
            ("tests",),
        ),
        Package(
            "humanize",
            "4.13.0",
            "78f79e68f76f0b04d711c4e55d32bebef5be387148862cb1ef83d2b58e7935a0",
            "MIT",
            "train",
            ("src/humanize/*.py",),
            ("tests",),
        ),
        Package(
            "sqlparse",
            "0.5.3",
            "09f67787f56a0b16ecdbde1bfc7f5d9c3371ca683cfeaa8e6ff60b4807ec9272",
            "BSD-3-Clause",
            "train",
            ("sqlparse/*.py", "sqlparse/*/*.py"),
            ("tests",),
        ),
        Package(
            "toolz",
            "1.0.0",
            "2c86e3d9a04798ac556793bced838816296a2f085017664e4995cb40a1047a02",
            "BSD-3-Clause",
            "train",
            ("toolz/itertoolz.py", "toolz/functoolz.py", "toolz/dicttoolz.py", "toolz/recipes.py"),
            ("toolz/tests",),
        ),
        Package(
            "more-itertools",
            "10.8.0",
            "f638ddf8a1a0d134181275fb5d58b086ead7c6a72429ad725c67503f13ba30bd",
            "MIT",
            "train",
            ("more_itertools/recipes.py",),
            ("tests/test_recipes.py", "--deselect=tests/test_recipes.py::PrimeFunctionTests::test_primes"),
        ),
        Package(
            "xmltodict",
            "1.0.4",
            "6d94c9f834dd9e44514162799d344d815a3a4faec913717a9ecbfa5be1bb8e61",
            "MIT",
            "train",
            ("xmltodict.py",),
            ("tests",),
        ),
        Package(
            "parse",
            "1.22.4",
            "706d458feed5a81b02768d3156e8070baf6cee7d150a3a3c0cd43101a875c3b5",
            "MIT",
            "train",
            ("parse/*.py",),
            ("tests",),
        ),
        Package(
            "isodate",
            "0.7.2",
            "4cd1aa0f43ca76f4a6c6c0292a85f40b35ec2e43e315b59f06e6d32171a953e6",
            "BSD-3-Clause",
            "train",
            ("src/isodate/*.py",),
            ("tests",),
        ),
        Package(
            "h11",
            "0.16.0",
            "4e35b956cf45792e4caa5885e69fba00bdbc6ffafbfa020300e549b208ee5ff1",
            "MIT",
            "train",
            ("h11/*.py",),
            ("h11/tests", "--ignore=h11/tests/test_against_stdlib_http.py"),
        ),
        Package(
            "rfc3986",
            "2.0.0",
            "97aacf9dbd4bfd829baad6e6309fa6573aaf1be3f6fa735c8ab05e46cecb261c",
            "Apache-2.0",
            "train",
            ("src/rfc3986/*.py",),
            ("tests", "--ignore=tests/test_uri.py"),
        ),
        Package(
            "bracex",
            "3.2.3",
            "8fbf92b4db3c31de999145e22a47d4ffdbefb983a98583c3272bd7d570f9a343",
            "MIT",
            "train",
            ("bracex/*.py",),
            ("tests",),
        ),
        Package(
            "voluptuous",
            "0.16.0",
            "006535e22fed944aec17bef6e8725472476194743c87bd233e912eb463f8ff05",
            "BSD-3-Clause",
            "train",
            ("voluptuous/*.py",),
            ("voluptuous/tests/tests.py", "--deselect=voluptuous/tests/tests.py::test_validation_performance"),
        ),
        Package(
            "itsdangerous",
            "2.2.0",
            "e0050c0b7da1eea53ffaf149c0cfbb5c6e2e2b69c4bef22c81fa6eb73e5f6173",
            "BSD-3-Clause",
            "valid",
            ("src/itsdangerous/*.py",),
            ("tests",),
        ),
        Package(
            "webcolors",
            "25.10.0",
            "62abae86504f66d0f6364c2a8520de4a0c47b80c03fc3a5f1815fedbef7c19bf",
            "BSD-3-Clause",
            "valid",
            ("src/webcolors/*.py",),
            ("tests",),
        ),
        Package(
            "tabulate",
            "0.9.0",
            "0095b12bf5966de529c0feb1fa08671671b3368eec77d7ef7ab114be2c068b3c",
            "MIT",
            "test",
            ("tabulate/__init__.py",),
            ("test",),
        ),
        Package(
            "semver",
            "3.1.2",
            "bea193552413194252d33ff26ce0962b76669bd1c6fb17e8e203ac37f072feaf",
            "BSD-3-Clause",
            "test",
            ("src/semver/*.py",),
            ("tests",),
        ),
        Package(
            "schema",
            "0.7.8",
            "e86cc08edd6fe6e2522648f4e47e3a31920a76e82cce8937535422e310862ab5",
            "MIT",
            "test",
            ("schema/__init__.py",),
            ("test_schema.py",),
        ),
        Package(
            "unidiff",
            "1.0.1",
            "d9425bc516390c54743a1045b2c1c97f02d245a913a241dd499f958adb2df998",
            "MIT",
            "test",
            ("unidiff/*.py",),
            ("tests",),
        ),
    )
}
"""By name. Pure Python, MIT, BSD or Apache."""
