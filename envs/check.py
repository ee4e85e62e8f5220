"""Check an environment, ours or a user's, against the contract of docs/your-environment.md.

Gymnasium's own checker runs last, where the rules found nothing: what it says of an environment that breaks one of them
is the same fault in other words.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

from gymnasium.utils.env_checker import check_env

from milepost.envs.core import INFO_KEYS
from milepost.envs.replay import replay
from milepost.envs.rules import RULES, Env, Subject, begins, infos, said


class Finding(NamedTuple):
    """What was found about one rule."""

    rule: str
    text: str


class Report(NamedTuple):
    """What ``check`` found."""

    failures: list[Finding]
    """Rules that are broken."""
    notes: list[Finding]
    """What is optional and absent, and what that costs."""

    @property
    def ok(self) -> bool:
        """Whether the contract is kept."""
        return not self.failures


def check(env: str | Env, **kwargs: Any) -> Report:
    """Check an environment, or what ``make(env, **kwargs)`` makes, against the contract.

    Raises:
        ValueError, gymnasium.error.Error: It cannot be made.
    """
    subject = Subject(env, kwargs)
    failures: list[Finding] = []
    notes: list[Finding] = []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            broken = [Finding(*found) for found in begins(subject)]
            for name, rule in () if broken else RULES.items():
                broken += [Finding(name, text) for text in rule(subject)]
            raised = any(finding.rule == "garbage" for finding in broken)
            if subject.error and not raised:
                broken.append(Finding("step", subject.error))
            if not broken:
                broken += list(_gymnasium(subject))
            failures = list(dict.fromkeys(broken))
            notes = [] if subject.episodes == [] else list(_notes(subject))
    finally:
        subject.close()
    return Report(failures, notes)


def _gymnasium(subject: Subject) -> Iterator[Finding]:
    try:
        check_env(subject.env.unwrapped, skip_render_check=True, skip_close_check=True)
    except Exception as error:
        yield Finding("gymnasium", f"Gymnasium's checker: {said(error)}")


def _notes(subject: Subject) -> Iterator[Finding]:
    keys = {key for episode in subject.episodes for info in infos(episode) for key in info}
    if absent := [key for key in INFO_KEYS if key not in keys]:
        yield Finding("absent", f"optional keys of info that were not seen: {', '.join(absent)}.")
    names = ("instructions", "oracle", "tasks", "score")
    if absent := [name for name in names if subject.attribute(name) is None]:
        yield Finding("absent", f"optional attributes that it does not have: {', '.join(absent)}.")
    limit = subject.spec.max_episode_steps if subject.spec else None
    if limit is None:
        yield Finding("limit", "there is no turn limit: give max_episode_steps to gym.register.")
    elif subject.attribute("score") is None:
        yield Finding(
            "limit",
            f"there is a limit of {limit} turns and no score(): an episode that runs out of turns is not scored, so "
            "every loser that does leaves its group, and the group's mean is too good.",
        )
    if subject.other() is None:
        yield Finding("shared", "it has no spec, so no second instance was made: not checked for shared state.")
    source = max(subject.episodes, key=lambda episode: len(episode.turns))
    try:
        replay(subject.env, source, len(source.turns))
        yield Finding("replay", f"replayable: {len(source.turns)} recorded turns gave the same observations again.")
    except Exception as error:
        yield Finding("replay", f"not replayable, so no episode can branch: {said(error)}")
