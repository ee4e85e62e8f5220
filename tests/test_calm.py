"""CALM: what achieved sub-goals pay, what is shown to the judge, and what its silence means."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
import torch
from judges import Judge

from milepost.credit import advantage
from milepost.credit.calm import CALM, cropped
from milepost.credit.core import assign, restore, saved
from milepost.credit.subgoals import Mode, Verdict, bonus, confusion
from milepost.envs.core import Action, ContractError, Episode, Message, Stop, Turn
from milepost.sandbox.core import EndpointError

WEIGHTS = {"key": 0.25, "door": 0.5}
NAN = float("nan")


def played(*screens: str, subgoals: Sequence[str] | None = ("key", "door"), **kwargs: Any) -> Episode:
    """An episode that shows the screens one after another, the last one after its last action."""
    turns = [Turn(screen, Action(f"to {after}")) for screen, after in pairwise(screens)]
    info = {} if subgoals is None else {"subgoals": list(subgoals)}
    last = screens[-1] if screens else None
    return Episode(
        **{"env_id": "my/Env-v0", "turns": turns, "last": last, "info": info, "stop": Stop.TERMINATED, **kwargs}
    )


def holds(before: str, action: str, after: str) -> str:
    """Judge by the words of the screens: a sub-goal is achieved when its word appears."""
    return json.dumps({name: name in after and name not in before for name in ("key", "door")})


def said(*names: str) -> Verdict:
    return {name: name in names for name in WEIGHTS}


class FailsAt:
    """A judge that is down where one of its texts is asked about."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.judge = Judge(holds)

    def annotate(self, prompts: Sequence[Sequence[Message]]) -> list[str]:
        if any(self.text in chat[-1]["content"] for chat in prompts):
            raise EndpointError("no answer")
        return self.judge.annotate(prompts)


def row(*screens: str, **options: Any) -> Any:
    return CALM(annotator=Judge(holds), weights=WEIGHTS, **options).on_group([played(*screens)])[0]


# what is paid


def test_the_first_time_pays_and_the_second_does_not():
    # the key is taken, dropped, taken again; then the door
    screens = ("room", "key", "room", "key", "key door")
    assert row(*screens) == [0.25, 0.0, 0.0, 0.5]
    assert row(*screens, mode="every_termination") == [0.25, 0.0, 0.25, 0.5]


def test_farming_pays_only_where_every_termination_does():
    screens = ("room", "key") * 20
    assert sum(row(*screens)) == 0.25
    assert sum(row(*screens, mode="every_termination")) == 5.0


def test_a_potential_takes_back_at_the_end_what_it_paid():
    # Phi 0, .25, .25, 0 (terminal); with gamma .5: .125 - 0, .125 - .25, 0 - .25
    verdicts = [said("key"), said("key"), said("door")]
    assert bonus(verdicts, WEIGHTS, "pbrs") == [0.25, 0.0, -0.25]
    assert bonus(verdicts, WEIGHTS, "pbrs", gamma=0.5) == [0.125, -0.125, -0.25]
    assert bonus(verdicts, WEIGHTS, "pbrs", terminated=False) == [0.25, 0.0, 0.5]


def test_an_episode_that_was_cut_keeps_its_potential():
    method = CALM(annotator=Judge(holds), weights=WEIGHTS, mode="pbrs")
    group = [played("room", "key", "key door"), played("room", "key", "key door", stop=Stop.MAX_TURNS)]
    assert method.on_group(group) == [[0.25, -0.25], [0.25, 0.5]]


def test_sub_goals_weigh_alike_and_add_up_to_one_unless_told_otherwise():
    assert CALM(annotator=Judge(holds)).on_group([played("room", "key", "key door")]) == [[0.5, 0.5]]


@pytest.mark.parametrize("mode", ["first_only", "every_termination"])
def test_without_a_verdict_a_turn_is_not_judged_and_the_others_are(mode: Mode):
    assert bonus([None, said("key"), None, said()], WEIGHTS, mode) == [None, 0.25, None, 0.0]
    assert bonus([], WEIGHTS, mode) == []


def test_a_potential_with_a_gap_is_not_judged_at_all():
    assert bonus([said("key"), None], WEIGHTS, "pbrs") == [None, None]
    assert bonus([], WEIGHTS, "pbrs") == []


# what is asked


def test_the_judge_sees_what_was_before_the_action_and_what_came_after():
    judge = Judge(holds)
    CALM(annotator=judge).on_group([played("room", "key", "hall")])
    assert judge.asked == [["room", "to key", "key"], ["key", "to hall", "hall"]]


def test_the_prompt_has_every_part_that_is_given():
    class Reader(Judge):
        def annotate(self, prompts: Sequence[Sequence[Message]]) -> list[str]:
            self.content = prompts[0][1]["content"]
            return super().annotate(prompts)

    reader = Reader(holds)
    options = {"environment": "A dungeon.", "legend": "@ is you.", "subgoals": ["key", "door"]}
    CALM(annotator=reader, **options).on_group([played("a", "b", subgoals=None, instructions="Open the door.")])
    for text in ("A dungeon.", "@ is you.", "Open the door.", "- key\n- door", '{"key": false, "door": false}'):
        assert text in reader.content


def test_the_same_transition_is_asked_about_once_and_in_batches():
    judge = Judge(holds)
    group = [played("room", "key", "hall"), played("room", "key", "room"), played("room")]
    assert CALM(annotator=judge, batch=2, weights=WEIGHTS).on_group(group) == [[0.25, 0.0], [0.25, 0.0], []]
    assert judge.batches == [2, 1]


def test_text_of_mixed_observations_is_shown():
    judge = Judge(holds)
    episode = played("x", "y")
    episode.turns[0].observation = {"results": [{"id": "1", "text": "a key"}], "text": "and more", "images": []}
    CALM(annotator=judge).on_group([episode])
    assert judge.asked[0][0] == "a key\nand more"


def test_a_crop_is_centred_on_the_agent_and_stops_at_the_edges():
    screen = "abcde\nfghij\nkl@no\npqrst\nuvwxy"
    assert cropped(screen, 3) == "ghi\nl@n\nqrs"
    assert cropped("@bc\ndef\nghi", 3) == "@b\nde"
    assert cropped("ab\nc@", 3) == "ab\nc@"
    assert cropped("no agent", 3) == "no agent"
    assert cropped("", 3) == ""
    judge = Judge(holds)
    CALM(annotator=judge, crop=3).on_group([played(screen, "far @")])
    assert judge.asked[0] == ["ghi\nl@n\nqrs", "to far @", " @"]


def test_sub_goals_are_identified_once_a_task_and_kept():
    def rule(*texts: str) -> str:
        return '["key", "door"]' if len(texts) == 1 else holds(*texts)

    judge = Judge(rule)
    method = CALM(annotator=judge, identify=True)
    group = [played("room", "key", subgoals=None, task="t1"), played("room", "hall", subgoals=None, task="t1")]
    assert method.on_group(group) == [[0.5], [0.0]]
    buffer = io.BytesIO()
    torch.save(saved(method), buffer)
    buffer.seek(0)
    resumed = CALM(annotator=judge, identify=True)
    restore(resumed, torch.load(buffer, weights_only=True))
    assert resumed.on_group(group) == [[0.5], [0.0]]
    assert [len(texts) for texts in judge.asked] == [1, 3, 3, 3, 3]
    assert resumed.fit([]) == {**method.fit([]), "credit/calm/asked": 4.0}


def test_a_task_without_identified_sub_goals_is_not_judged():
    method = CALM(annotator=Judge(lambda *texts: "I cannot"), identify=True)
    assert method.on_group([played("room", "key", subgoals=None), Episode()]) == [[None], []]
    assert method.fit([])["credit/calm/unidentified"] == 1


# what silence means


def test_a_judge_that_is_down_leaves_turns_unjudged_and_counted_and_is_no_zero():
    method = CALM(annotator=FailsAt("to key\n"), weights=WEIGHTS, batch=1)
    group = [played("room", "key", "key door"), played("room", "hall")]
    metrics = assign([method], [group])
    assert [[turn.credit["calm"] for turn in episode.turns] for episode in group] == [[None, 0.5], [0.0]]
    assert metrics["credit/calm/judged"] == 2
    assert method.fit([]) == {
        "credit/calm/asked": 3,
        "credit/calm/unjudged": 1,
        "credit/calm/unparsed": 0,
        "credit/calm/unidentified": 0,
    }
    assert method.fit([])["credit/calm/unjudged"] == 0
    rewards = advantage.rewards([group], [method], outcome=0.0)
    assert advantage.normalised(rewards, over="group") == [[[None, 0.25], [-0.25]]]


def test_an_answer_that_cannot_be_read_is_a_zero_and_counted():
    method = CALM(annotator=Judge(lambda *texts: "well"), weights=WEIGHTS)
    assert method.on_group([played("room", "key")]) == [[0.0]]
    assert method.fit([])["credit/calm/unparsed"] == 1


def test_what_is_missing_is_named():
    group = [played("room", "key", subgoals=None)]
    with pytest.raises(ContractError, match=re.escape("calm needs info['subgoals'] from reset; my/Env-v0 gave none")):
        CALM(annotator=Judge(holds)).on_group(group)
    with pytest.raises(ContractError, match="calm needs an annotator: the recipe gives it"):
        CALM().on_group([played("room", "key")])
    with pytest.raises(ContractError, match="calm: weights has no 'door'; it has key"):
        CALM(annotator=Judge(holds), weights={"key": 1.0}).on_group([played("room", "key")])
    with pytest.raises(ValueError, match="calm: mode: expected one of first_only, every_termination, pbrs, got 'all'"):
        CALM(mode="all")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="calm: weights: expected a finite number for 'key', got nan"):
        CALM(weights={"key": NAN})
    with pytest.raises(ValueError, match="batch and crop: expected at least 1"):
        CALM(crop=0)


def test_an_empty_group_has_no_rows():
    assert CALM(annotator=Judge(holds)).on_group([]) == []


# how well it judges


def test_shares_of_nothing_are_zero():
    assert set(confusion([], []).values()) == {0.0}
    never = confusion([True, False], [False, False])
    assert (never["precision"], never["recall"], never["f1"], never["accuracy"]) == (0.0, 0.0, 0.0, 0.5)


def test_precision_is_of_what_was_said_and_recall_of_what_was_so():
    # said so 3 times, rightly 2; it was so 4 times: 2/3, 2/4, 2 * (1/3) / (7/6) = 4/7; right on 2 + 1 of 6
    found = confusion([True, True, True, True, False, False], [True, True, False, False, True, False])
    assert found == pytest.approx(
        {"tp": 2, "fp": 1, "fn": 2, "tn": 1, "precision": 2 / 3, "recall": 0.5, "f1": 4 / 7, "accuracy": 0.5}
    )


def test_what_was_not_judged_counts_neither_way():
    assert confusion([True, None, True], [True, True, None])["tp"] == 1
    with pytest.raises(ValueError):
        confusion([True], [])
