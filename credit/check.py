"""Check a credit method, ours or a user's: the contract's rules, and what is worth knowing about its numbers.

A method that says honestly what it is passes, with notes; only a broken contract fails.
"""

from __future__ import annotations

import warnings
from typing import Any

from milepost.credit.audit.form import begins
from milepost.credit.audit.properties import PROPERTIES
from milepost.credit.audit.rules import AFTER_MEMORY, MEMORY, RULES
from milepost.credit.audit.subject import NoStandinError, Subject
from milepost.credit.core import Credit
from milepost.envs.check import Finding, Report
from milepost.envs.rules import said


def check(method: str | type[Credit] | Credit, **options: Any) -> Report:
    """Check a method by its id, ``module:Class``, class or instance; ``options`` go to its constructor.

    Of a scorer, a token model, an annotator or a replay that it needs it gets a small stand-in; an instance keeps
    what it has.

    Raises:
        ValueError: There is no such method, or it cannot be made with these options.
    """
    try:
        return _checked(Subject(method, options))
    except NoStandinError as error:
        return Report([], [Finding("stand-in", str(error))])


def _checked(subject: Subject) -> Report:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        failures = [Finding(*found) for found in begins(subject)]
        for name, rule in {} if failures else RULES.items():
            if name in AFTER_MEMORY and MEMORY & {finding.rule for finding in failures}:
                continue
            try:
                failures += [Finding(name, text) for text in rule(subject)]
            except Exception as error:
                failures.append(Finding("raises", f"while the rule {name!r} asked, it raised {said(error)}."))
        notes = []
        for name, note in {} if failures else PROPERTIES.items():
            try:
                notes += [Finding(name, text) for text in note(subject)]
            except Exception as error:
                notes.append(Finding(name, f"not measured: {said(error)}"))
    return Report(list(dict.fromkeys(failures)), notes)
