"""Writes the table of attacks into docs/sandbox.md: ``python docs/attacks.py``, as root, with a Docker engine.

Each attack is played on each backend, and once more without what refuses it.
"""

from __future__ import annotations

import time
from pathlib import Path

from milepost.sandbox.attacks import suite
from milepost.sandbox.attacks.core import Attack, Control

PAGE = Path(__file__).parent / "sandbox.md"
BEGIN, END = "<!-- attacks -->\n", "<!-- end of attacks -->\n"
BACKENDS = ("docker", "bubblewrap", "landlock")


def left_out(attack: Attack, backend: str, shown: suite.Row) -> str:
    """Return what was left out where the attack succeeded; "none": nothing can be."""
    control = attack.control_on(backend)
    if not isinstance(control, Control):
        return "hole" if attack.hole_on(backend) else "none"
    if shown.refused:
        return "**refused**"
    told = shown.detail.partition("; without them: ")[0].partition("refused ")[2].partition(": ")[2]
    parts = told.replace(" and ", ", ") or ", ".join(control.parts[:1])
    return parts or "its own limit"


def table() -> str:
    """Play everything and return the table, how many were refused in what time, and why some cannot be shown."""
    columns, total, reasons = [], [], dict[str, list[str]]()
    for backend in BACKENDS:
        start = time.monotonic()
        played = list(suite.play(backend))
        seconds = time.monotonic() - start
        shown = list(suite.controls(backend))
        n_refused, n_shown = sum(row.refused is True for row in played), sum(row.refused is False for row in shown)
        total.append(f"| {backend} | {n_refused} of {len(played)} | {seconds:.0f} | {n_shown} |")
        columns.append(
            [
                (("yes" if row.refused else "no"), left_out(attack, backend, control))
                for attack, row, control in zip(suite.ATTACKS, played, shown, strict=True)
            ]
        )
        for row in shown:
            if row.refused is None and not row.detail.startswith("a known hole"):
                reasons.setdefault(f"{row.name}: {row.detail}", []).append(backend)
    rows = [
        "| backend | refused | seconds | succeed without what refuses them |",
        "| --- | --- | --- | --- |",
        *total,
        "",
    ]
    rows += [f"| attack | {' | '.join(f'{name} | left out' for name in BACKENDS)} |", f"| {' | '.join(['---'] * 7)} |"]
    for attack, *cells in zip(suite.ATTACKS, *columns, strict=True):
        rows.append(f"| {attack.name} | {' | '.join(f'{refused} | {without}' for refused, without in cells)} |")
    holes = [(attack.name, attack.hole) for attack in suite.ATTACKS if attack.hole]
    rows += ["", "Known holes (`hole` where root has them):", ""]
    rows += [f"- {name} ({hole.where}): {hole.why}" for name, hole in holes]
    rows += ["", "Not shown (`none`), because:", ""]
    rows += [f"- {said} ({', '.join(where)})" if len(where) < 3 else f"- {said}" for said, where in reasons.items()]
    return "\n".join([*rows, ""])


if __name__ == "__main__":
    before, _, rest = PAGE.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(before + BEGIN + table() + END + after)
