"""A panel pins what is played; what it says wrongly is told in one line that names the field."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import driver_envs  # noqa: F401  registers driver-test/Count-v0, which has no list of tasks
import pytest

from milepost.envs.ladder import LadderEnv
from milepost.recipes.evaluate.panel import Entry, Panel
from milepost.recipes.evaluate.panel_file import panel_from, panel_names, read_panel, read_seeds
from milepost.recipes.evaluate.settings import Settings, panel_of
from milepost.recipes.evaluate.tasks import resolved, tasks_of, unpinned

LADDER: dict[str, Any] = {"name": "ladder", "env": "milepost/Ladder-v0"}


def panel(*entries: dict[str, object], **fields: object) -> Panel:
    return panel_from({"name": "p", "entries": [*entries], **fields}, "p")


def played(panel: Panel) -> list[tuple[str, int]]:
    return [(task.group, task.attempt) for task in tasks_of(resolved(panel))]


@pytest.mark.parametrize("name", panel_names())
def test_every_shipped_panel_can_be_played(name):
    assert tasks_of(resolved(read_panel(name)))


def test_the_smoke_panel_has_at_most_eight_text_games():
    games = [task for task in tasks_of(resolved(read_panel("smoke"))) if task.env_id == "milepost/TextWorld-v0"]
    assert 1 <= len(games) <= 8


def test_without_tasks_or_seeds_all_tasks_of_the_split_are_played():
    assert played(panel(LADDER)) == [(f"ladder/{task}", 0) for task in ("pear 5", "pear 6", "lime 5", "lime 6")]
    assert played(panel({**LADDER, "split": "valid", "episodes": 2})) == [("ladder/teak 5", 0), ("ladder/teak 6", 0)]


def test_attempts_at_a_task_share_its_group():
    entry = {**LADDER, "tasks": ["lime 5", "pear 5"], "attempts": 2}
    assert played(panel(entry)) == [
        ("ladder/lime 5", 0),
        ("ladder/lime 5", 1),
        ("ladder/pear 5", 0),
        ("ladder/pear 5", 1),
    ]


def test_seeds_are_resets_that_draw_from_the_split():
    (task,) = tasks_of(resolved(panel({**LADDER, "seeds": "7"})))
    assert (task.seed, task.task, task.env_kwargs) == (7, None, {"split": "test"})


def test_an_environment_without_a_list_has_seeds_of_its_own_for_each_split():
    count = {"name": "count", "env": "driver-test/Count-v0", "episodes": 2}
    assert [task.seed for task in tasks_of(resolved(panel(count)))] == [2_000_000, 2_000_001]
    with pytest.raises(ValueError, match=r"has no list of tasks: give episodes \(--episodes 20\) or seeds"):
        resolved(panel({"name": "count", "env": count["env"]}))


def test_a_split_without_tasks_or_that_the_environment_does_not_know_is_told(monkeypatch):
    monkeypatch.setattr(LadderEnv, "tasks", lambda self, split: {"train": [], "test": ["oak 5"]}[split])
    for split, told in {
        "train": "the train split of .* has no tasks",
        "dev": r"tasks\('dev'\): KeyError\('dev'\)",
    }.items():
        for more in ({}, {"tasks": ["oak 5"]}, {"episodes": 2}):
            with pytest.raises(ValueError, match=f"^ladder: .*{told}"):
                resolved(panel({**LADDER, "split": split, **more}))


def test_limits_hold_for_entries_that_say_nothing_else():
    told = panel(LADDER, {**LADDER, "name": "short", "max_turns": 3}, limits={"max_turns": 5, "timeout_s": 9})
    by_entry = {task.group.partition("/")[0]: task for task in tasks_of(resolved(told))}
    assert by_entry["ladder"].env_kwargs == {"max_episode_steps": 5}
    assert by_entry["short"].env_kwargs == {"max_episode_steps": 3}
    assert {task.timeout_s for task in by_entry.values()} == {9}


def test_what_is_pinned_survives_json():
    told = resolved(panel({**LADDER, "options": {"dust": 0.1}, "timeout_s": 2.5}, versions={"gymnasium": "1"}))
    assert panel_from(told.to_json(), "p") == told


def test_a_version_that_is_not_the_pinned_one_is_a_warning():
    told = panel(LADDER, versions={"gymnasium": "0.1", "absent": "1"})
    assert unpinned(told, {"gymnasium": "1.4.0"}) == [
        "the panel p pins gymnasium 0.1; here it is 1.4.0",
        "the panel p pins absent 1; here it is not installed",
    ]


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ({"name": "p", "entires": []}, "panel p: unknown field 'entires' (did you mean 'entries'?)"),
        (
            {"name": "p", "entries": [{**LADDER, "maxturns": 3}]},
            "unknown field 'maxturns' (did you mean 'max_turns'?)",
        ),
        (
            {"name": "p", "entries": [LADDER], "limits": {"turns": 3}},
            "limits: unknown field 'turns'",
        ),
        ({"name": "p", "entries": [{**LADDER, "episodes": "4"}]}, "episodes: expected a whole number, got '4'"),
        ({"name": "p", "entries": [{**LADDER, "episodes": 0}]}, "episodes: expected 1 or more, got 0"),
        ({"name": "p", "entries": [{**LADDER, "tasks": "pear 5"}]}, "tasks: expected a list of texts, got 'pear 5'"),
        ({"name": "p", "entries": [{**LADDER, "tasks": ["pear 5", "pear 5"]}]}, "tasks: 'pear 5' is given twice"),
        ({"name": "p", "entries": [{**LADDER, "tasks": ["a"], "seeds": [1]}]}, "expected tasks or seeds, got both"),
        ({"name": "p", "entries": [{"name": "x"}]}, "entry x: expected a field 'env'"),
        ({"name": "p", "entries": [LADDER, LADDER]}, "two entries are named 'ladder'"),
        ({"name": "p"}, "expected one [[entries]] or more"),
        ({"entries": [LADDER]}, "expected a field 'name'"),
        ({"name": "p", "entries": 3}, "entries: expected a list of tables, got 3"),
        ({"name": "p", "entries": [3]}, "entry 1: expected a table, got 3"),
        (
            {"name": "p", "entries": [LADDER], "metrics": ["sucess"]},
            "no metric 'sucess' (did you mean 'success'?)",
        ),
    ],
)
def test_a_wrong_field_is_named(record, said):
    with pytest.raises(ValueError) as error:
        panel_from(record, "p")
    assert said in str(error.value)


def test_a_task_that_is_not_in_the_split_is_named_with_what_was_meant():
    with pytest.raises(ValueError, match=r"no task 'pear5' in milepost/Ladder-v0 \(did you mean 'pear 5'\?\)"):
        resolved(panel({**LADDER, "tasks": ["pear5"]}))


def test_a_file_that_is_no_toml_or_not_there_is_named(tmp_path: Path):
    (tmp_path / "bad.toml").write_text("name = ")
    with pytest.raises(ValueError, match=r"bad.toml: expected TOML: "):
        read_panel(str(tmp_path / "bad.toml"))
    with pytest.raises(ValueError, match=r"no panel nowhere.toml: there is no such file"):
        read_panel("nowhere.toml")
    with pytest.raises(ValueError, match=r"no panel 'smok' \(did you mean 'smoke'\?\)"):
        read_panel("smok")


def test_seeds_are_numbers_and_spans():
    assert read_seeds("0-3,20") == (0, 1, 2, 3, 20)
    for text in ("", "a", "3-1", "1-", "-2"):
        with pytest.raises(ValueError, match="expected numbers and spans such as 0-9,20"):
            read_seeds(text)


def test_flags_limit_a_panel_but_do_not_change_its_tasks():
    told = panel_of(Panel(name="p", entries=(Entry(**LADDER),)), Settings(attempts=3, max_turns=6))
    assert [(e.attempts, e.max_turns) for e in told.entries] == [(3, 6)]
    two = panel(LADDER, {**LADDER, "name": "seeds", "seeds": "0-9", "episodes": 8})
    for most, n_tasks in ((1, [1, 1]), (6, [4, 6]), (50, [4, 8])):
        assert [len(e.tasks or e.seeds) for e in resolved(two, most).entries] == n_tasks
    for said in (Settings(seeds="1"), Settings(tasks="pear 5"), Settings(option=["dust=1"]), Settings(split="train")):
        with pytest.raises(ValueError, match="the panel smoke says which tasks are played"):
            panel_of("smoke", said)
    with pytest.raises(ValueError, match="a panel is played alone"):
        panel_of(["smoke", "milepost/Ladder-v0"], Settings())
