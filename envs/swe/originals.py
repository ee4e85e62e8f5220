"""What this machine's own ``/usr`` could tell an agent: the originals of packages, which programs bring along."""

from __future__ import annotations

import os
import re
from functools import cache

from milepost.envs.swe.packages import PACKAGES

STANDARD = re.compile(r"/usr/(local/)?lib/python3\.\d+(/|$)")
"""Python's own library, which may have a module of a package's name."""
PROGRAM = re.compile(r"(/(?:local/)?(?:lib|lib64|libexec|share)/(?!python3|[^/]*-linux-)[^/]+)/")
"""A folder that a program has for itself: it is hidden whole, as few places are faster to hide than many."""
INSTALLED = {"site-packages", "dist-packages"}


@cache
def originals(root: str = "/usr") -> tuple[str, ...]:
    """Return where there are folders of installed packages, wheels, or what has the name of a package of the list."""
    tops = {pattern.removeprefix("src/").split("/")[0] for one in PACKAGES.values() for pattern in one.modules}
    modules = {top if top.endswith(".py") else f"{top}.py" for top in tops}
    found: set[str] = set()
    for at, folders, files in os.walk(root):
        hidden = {name for name in folders if name in INSTALLED} | {name for name in files if name.endswith(".whl")}
        if not STANDARD.match(at):
            hidden |= modules.intersection(files)
            hidden |= {name for name in tops.intersection(folders) if os.path.exists(f"{at}/{name}/__init__.py")}
        folders[:] = [name for name in folders if name not in hidden]
        for path in (f"{at}/{name}".removeprefix(root) for name in hidden):
            program = PROGRAM.match(path)
            found.add(root + (program[1] if program else path))
    return tuple(sorted(found))
