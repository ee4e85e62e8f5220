"""One row in the form of SWE-bench, and how it is played and graded: in a folder, or in an image of Docker."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from milepost.envs.swe import logs
from milepost.envs.swe.diffs import apply_text
from milepost.envs.swe.images import repository, without_history
from milepost.envs.swe.patch import CONFIGURATION
from milepost.envs.swe.problem import TIMEOUT_S, Problem
from milepost.sandbox.core import Limits

TESTBED = "/testbed"
"""Where images have the repository."""
ACTIVATE = "[ ! -f /opt/miniconda3/bin/activate ] || . /opt/miniconda3/bin/activate testbed; "
"""SWE-bench's images have what the repository needs in an environment of that name."""
ROOMY = Limits(memory=4 << 30, disk=2 << 30, processes=512)
MAX_S = 1800.0


@dataclass(frozen=True)
class Instance:
    """One row."""

    instance_id: str
    repo: str
    base_commit: str
    patch: str
    test_patch: str
    problem_statement: str
    fail_to_pass: tuple[str, ...]
    pass_to_pass: tuple[str, ...]
    hints_text: str = ""
    created_at: str = ""
    version: str = ""
    environment_setup_commit: str = ""
    repository: str = ""
    """A folder with the repository as it is at ``base_commit``."""
    image: str = ""
    test_command: str = ""
    """Empty: pytest of the test tools in a folder, ``logs.PYTEST`` in an image."""
    log_parser: str = "pytest"
    split: str = ""
    """Empty: in every one."""
    difficulty: str = ""

    @property
    def id(self) -> str:
        """Return its id."""
        return self.instance_id

    @property
    def level(self) -> str:
        """Return how hard it is."""
        return self.difficulty

    @property
    def package(self) -> str:
        """Return the repository's own name."""
        return self.repo.rpartition("/")[2]

    def problem(self) -> Problem:
        """Return what is needed to play and to grade it.

        Raises:
            ValueError: A patch does not apply, or there is neither folder nor image.
            MachineError: No Docker engine answers, where it is in an image.
        """
        base, image = self._base()

        def read(path: str) -> bytes | None:
            file = base / path
            return file.read_bytes() if file.is_file() and not file.is_symlink() else None

        clean, hidden = (self._applied(name, read) for name in ("patch", "test_patch"))
        ids = (*self.fail_to_pass, *self.pass_to_pass)
        files = {test.partition("::")[0] for test in ids if "::" in test} or {file for file in hidden if hidden[file]}
        # What says how tests run is no more the agent's than they are: where the fix changes it, it is put as well.
        hidden = {file: clean[file] for file in clean if CONFIGURATION.search(file)} | hidden
        suffixes = {".py", *(PurePosixPath(file).suffix for file in clean.keys() - hidden.keys())}

        def counts(path: str) -> bool:
            place = PurePosixPath(path)
            if path in clean or path in hidden:
                return path not in hidden
            # A new file beside or below sources is one; one at the top could stand for what the tests import.
            above = next(folder for folder in place.parents if (base / folder).is_dir())
            beside = above.name != "" and any((base / above).glob("*.py"))
            return place.suffix in suffixes and ((base / path).is_file() or beside)

        command = self.test_command or (ACTIVATE + logs.PYTEST if image else None)
        return Problem(
            id=self.instance_id,
            statement=self.problem_statement,
            base=base,
            gold=self.patch,
            texts={file: (read(file), clean[file]) for file in clean},
            fail_to_pass=self.fail_to_pass,
            pass_to_pass=self.pass_to_pass,
            tests=tuple(sorted(files)),
            counts=counts,
            hidden=hidden,
            split=self.split,
            level=self.difficulty,
            image=image,
            workspace=TESTBED if image else None,
            command=command,
            parser=self.log_parser,
            timeout_s=MAX_S if command else TIMEOUT_S,
            limits=ROOMY if command else Limits(),
        )

    def _base(self) -> tuple[Path, str | None]:
        """Return the workspace's base, and the image if there is no folder."""
        folder = Path(self.repository)
        image = self.image or f"swebench/sweb.eval.x86_64.{self.instance_id.lower().replace('__', '_1776_')}:latest"
        at_hand = self.repository and folder.is_dir()
        try:
            source = folder if at_hand else repository(image, TESTBED)
        except ValueError as error:
            raise ValueError(f"{self.instance_id}: no folder {self.repository or '(none is named)'}; {error}") from None
        return without_history(source), self.image or (None if at_hand else image)

    def _applied(self, name: str, read: Callable[[str], bytes | None]) -> dict[str, bytes | None]:
        try:
            return apply_text(getattr(self, name), read)
        except ValueError as error:
            said = str(error).removeprefix("patch")  # which it says where it is about the patch, and not a file in it
            raise ValueError(f"{self.instance_id}: {name}{said if said[:1] in ':,' else f': {said}'}") from None
