"""The auditor of credit methods passes what keeps the contract and names what does not."""

from __future__ import annotations

import re

import pytest
from broken_credits import BROKEN, Good

from milepost.credit.cards import card_of
from milepost.credit.check import check
from milepost.credit.methods import TABLE, look_up

METHODS = [name for name in TABLE if card_of(look_up(name)).kind == "reward"]


def test_a_method_that_keeps_the_contract_passes():
    assert check(Good).failures == []


@pytest.mark.parametrize(("method", "rule"), BROKEN.items())
def test_a_broken_method_fails_for_its_own_reason_alone(method, rule):
    failures = check(method).failures
    assert [finding.rule for finding in failures] == [rule], failures
    assert re.search(r"\w.*\d.*\.$", failures[0].text), "a sentence with numbers"


@pytest.mark.parametrize("name", METHODS)
def test_every_method_of_ours_keeps_the_contract(name: str):
    report = check(name)
    assert report.failures == []
    assert [note for note in report.notes if note.text.startswith("not measured")] == []
