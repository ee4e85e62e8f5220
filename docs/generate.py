"""Write the tables of docs/credit.md from the code: ``python docs/generate.py``; ``--check`` only compares.

What stands between ``<!-- NAME -->`` and ``<!-- end of NAME -->`` is replaced; the rest of the page is written by hand.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from milepost.credit.audit.bias import survey, truth
from milepost.credit.audit.standins import PARTS
from milepost.credit.cards import Card, card_of
from milepost.credit.check import check
from milepost.credit.core import Credit
from milepost.credit.methods import TABLE, look_up

PAGE = Path(__file__).parent / "credit.md"
HEADINGS = {
    "reward": "What turns earn, and what was expected of a state (classes)",
    "estimator": "Advantages (pure functions)",
    "combiner": "Many signals into one",
    "loss": "Losses",
    "sampler": "Which states or groups to play or train on",
    "schedule": "Coefficients",
    "metric": "Numbers to watch",
}
NUMBER = r"-?\d+(?:\.\d+)?"
GIVEN = {*PARTS, "self", "groups", "rewards", "label", "labels", "values", "credits"}


def methods() -> str:
    """Return the tables of what there is, one for each kind."""
    parts = []
    for kind, heading in HEADINGS.items():
        found = [(card_of(look_up(name)), look_up(name)) for name in TABLE]
        rows = [_row(card, what) for card, what in found if card.kind == kind]
        if not rows:
            continue
        if kind == "reward":
            head = ["id", "what it does", "level", "channel", "has the outcome", "when", "needs", "options", "paper"]
        else:
            head = ["id", "what it does", "level", "needs", "options", "paper"]
        lines = [f"| {' | '.join(row[h] for h in head)} |" for row in rows]
        parts += [f"**{heading}**", "\n".join([f"| {' | '.join(head)} |", "|" + " --- |" * len(head), *lines])]
    return "\n\n".join(parts)


def bias() -> str:
    """Return what both games say of every estimator."""
    stopping, detour = truth()
    text = f"""\
Measured by enumerating every group of 4 in two games (`credit/audit/bias.py`), against the exact gradient of the
expected sum of what is earned (gamma 1). *Stopping*: at most 3 turns, each goes on (earns 0.5) or stops (0). *Detour*:
two places, two moves, at most 3 turns, the right two moves win (outcome 1) and a turn earns 0.2 or -0.1 on the way; two
logits. A group is a batch of its own. Unbiased is what is off by less than 1e-9 in both games; the exact gradients are
**{_numbers(stopping)}** and **{_numbers(detour)}**. What reads a critic gets an arbitrary number for each state: a
baseline may be wrong, but what is bootstrapped from it is biased until the critic has learned."""
    lines = ["| estimator | verdict | stopping | detour |", "| --- | --- | --- | --- |"]
    for found in survey():
        bold = f"**{found.verdict}**" if found.verdict.startswith("unbiased") else found.verdict
        cells = [f"`{found.name}`", bold, _numbers(found.stopping), _numbers(found.detour)]
        lines.append(f"| {' | '.join(cells)} |")
    return f"{text}\n\n" + "\n".join(lines)


def audit() -> str:
    """Return what ``milepost credit check`` says of every method of ours, a row each."""
    head = ["method", "with", "contract", "dark room: left at 1/100", "stopping", "an idle turn changes", "farmed"]
    lines = [f"| {' | '.join(head)} |", "|" + " --- |" * len(head)]
    for name in TABLE:
        method = look_up(name)
        if card_of(method).kind != "reward" or card_of(method).channel == "value":
            continue
        report = check(name)
        notes = {note.rule: note.text for note in report.notes}
        estimator = re.search(r"'(\w+)' estimates", notes["stopping"])
        cells = [
            f"`{name}`",
            f"`{estimator[1]}`" if estimator else "",
            "kept" if report.ok else f"**broken: {', '.join(f.rule for f in report.failures)}**",
            _found(r"leaves (\d+%)", notes["dark room"]) or "pays nothing",
            _found(rf"(unbiased|biased by [+-]{NUMBER})", notes["stopping"]),
            "nothing"
            if "changes no total" in notes["length"]
            else _found(rf"({NUMBER} -> {NUMBER})", notes["length"])
            or f"{_found(rf'gets ({NUMBER}) more', notes['length'])} in the first turn",
            _farmed(notes["farming"]),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _farmed(note: str) -> str:
    win, lose = _found(rf"shortest way up earns ({NUMBER})", note), _found(rf", ({NUMBER}): ", note)
    return f"**yes** ({lose} > {win})" if "can be farmed" in note else f"no ({lose} < {win})" if win else "pays nothing"


def _found(pattern: str, text: str) -> str:
    found = re.search(pattern, text)
    return found[1] if found else ""


SECTIONS: dict[str, Callable[[], str]] = {"methods": methods, "audit": audit, "bias": bias}


def page(text: str) -> str:
    """Return the page with its generated parts anew."""
    for name, write in SECTIONS.items():
        pattern = re.compile(f"(<!-- {name} -->\n).*?(<!-- end of {name} -->)", re.DOTALL)
        body = write()
        text, n = pattern.subn(lambda found, body=body: f"{found[1]}{body}\n{found[2]}", text)
        if n != 1:
            raise ValueError(f"{PAGE.name}: expected <!-- {name} --> and <!-- end of {name} --> once, found {n}")
    return text


def _row(card: Card, what: Callable[..., Any]) -> dict[str, str]:
    words = (inspect.getdoc(what) or "").partition("\n\n")[0].split()
    sentence = re.split(r"(?<=[a-z0-9`)\]])\.(?: |$)", " ".join(words).replace("``", "`"), maxsplit=1)[0]
    row = {
        "id": f"`{card.id}`",
        "what it does": sentence.removeprefix("Return ").replace("|", "\\|"),
        "level": card.level,
        "channel": str(card.channel or ""),
        "needs": " ".join(f"`{need}`" for need in sorted(card.needs)),
        "options": " ".join(f"`{name}`" for name in _options(what)),
        "paper": card.paper,
    }
    if isinstance(what, type) and issubclass(what, Credit):
        row["has the outcome"] = "yes" if what.includes_outcome else ""
        row["when"] = "during play" if what.live else "after play"
    return row


def _options(what: Callable[..., Any]) -> list[str]:
    parameters = inspect.signature(what).parameters.values()
    return [p.name for p in parameters if p.name not in GIVEN and p.default is not p.empty]


def _numbers(values: Any) -> str:
    return "" if np.isnan(values).any() else ", ".join(f"{v:.4f}" for v in values)


def main(argv: list[str]) -> int:
    """Write the page, or check it; return 1 if it is not what the code says."""
    old = PAGE.read_text(encoding="utf-8")
    new = page(old)
    if "--check" in argv:
        print(f"{PAGE.name}: {'is' if old == new else 'is not'} what the code says; python docs/generate.py writes it")
        return 0 if old == new else 1
    PAGE.write_text(new, encoding="utf-8")
    print(f"{PAGE.name}: {len(TABLE)} of {len(TABLE)} methods")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
