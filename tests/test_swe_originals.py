"""What is installed on this machine is no answer to a task: an agent's sandbox does not show it."""

from __future__ import annotations

from pathlib import Path

import pytest
from sandboxes import need
from swe_envs import begun, tiny_tasks

from milepost.envs.swe.originals import originals
from milepost.envs.swe.packages import PACKAGES
from milepost.sandbox.make import BACKENDS

ISOLATING = [pytest.param(one, marks=pytest.mark.docker if one == "docker" else ()) for one in BACKENDS[:3]]
LOOK = """find / \\( {names} -o -name '*.whl' \\) -not -path '/proc/*' 2>/dev/null | while read -r path; do
[ -d "$path" ] && path=$path/__init__.py; head -c1 "$path" 2>/dev/null | grep -q . && echo "$path"; done
ls -d /usr/lib/python3/dist-packages/* /usr/local/lib/python3*/*-packages/* 2>/dev/null
python3 -c 'import xmltodict' 2>/dev/null && echo imported
python3 -m pytest --version >/dev/null || echo no pytest"""


@pytest.mark.parametrize("backend", ISOLATING)
def test_no_module_of_a_package_of_the_list_is_found_in_an_agent_s_sandbox(tmp_path: Path, backend: str) -> None:
    tops = {pattern.removeprefix("src/").split("/")[0] for one in PACKAGES.values() for pattern in one.modules}
    modules = {top if top.endswith(".py") else f"{top}.py" for top in tops}
    with tiny_tasks(tmp_path) as file, begun(file, backend=need(backend), actions="bash") as env:
        names = [f"-name {top} -type d" for top in sorted(tops)] + [f"-name {module}" for module in sorted(modules)]
        script = LOOK.format(names=" -o ".join(names))
        # Python's own urllib/parse.py is none of them.
        env.step(f"```bash\n({script}) | grep -v '^/usr/lib/python3[.]' > found\n```")
        assert env.unwrapped._sandbox.read("found").decode() == ""  # type: ignore[attr-defined]


def test_what_is_hidden_is_what_is_installed_wheels_and_modules_of_a_package_s_name(tmp_path: Path) -> None:
    made = ("lib/python3/dist-packages/a.py", "lib/x/vendor/toolz/__init__.py", "lib/xmltodict.py", "share/w/b-1.whl")
    for path in (*made, "share/schema/notes.txt", "lib/y/a.py"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    hidden = ("lib/python3/dist-packages", "lib/x", "lib/xmltodict.py", "share/w")
    assert sorted(originals(str(tmp_path))) == sorted(f"{tmp_path}/{path}" for path in hidden)
