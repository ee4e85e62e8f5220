"""What waits for an annotator, in which order it is asked, and how answers are read."""

from __future__ import annotations

import io
import subprocess
import sys
import time
from typing import Any

import pytest
import torch
from judges import Broken, Judge, Slow

from milepost.credit import prompts
from milepost.credit.annotator import Item, Queue
from milepost.envs.core import ContractError, Message


def chat(item: Item) -> list[Message]:
    return prompts.classification(item[0])


def queue(*texts: str, **options: Any) -> Queue:
    made = Queue(**options)
    for text in texts:
        made.offer((text,))
    return made


def yes() -> Judge:
    return Judge(lambda text: "FOO " + text)


def test_the_newest_are_asked_first_and_then_wait_no_longer():
    made, judge = queue("a", "b", "c", "d", "e", batch=2), yes()
    assert made.work(judge, chat) == [(("e",), "FOO e"), (("d",), "FOO d")]
    assert list(made.waiting) == [("a",), ("b",), ("c",)]
    made.offer(("f",))
    assert [item for item, _ in made.work(judge, chat)] == [("f",), ("c",)]


def test_what_waits_already_is_not_put_in_again():
    assert list(queue("a", "b", "a").waiting) == [("a",), ("b",)]


def test_a_full_queue_forgets_its_oldest_and_is_no_error():
    made = queue("a", "b", "c", capacity=2)
    assert list(made.waiting) == [("b",), ("c",)]
    assert made.n_forgotten == 1


def test_one_observation_in_every_so_many_is_due():
    made = Queue(every=10)
    assert [t for t in range(25) if made.due()] == [0, 10, 20]


def test_an_empty_queue_asks_nothing():
    judge = yes()
    assert Queue().work(judge, chat) == []
    assert judge.batches == []


def test_an_annotator_that_is_down_loses_no_question():
    made, broken = queue("a", "b"), Broken(yes(), 1)
    assert made.work(broken, chat) == []
    assert (list(made.waiting), made.n_failed) == ([("a",), ("b",)], 1)
    assert len(made.work(broken, chat)) == 2


def test_too_few_answers_stop_the_run():
    class Short:
        def annotate(self, prompts: Any) -> list[str]:
            return ["FOO"]

    with pytest.raises(ContractError, match="expected 2 answers, one a prompt, got 1"):
        queue("a", "b").work(Short(), chat)


@pytest.mark.parametrize("name", ["batch", "capacity", "every"])
def test_sizes_below_one_are_refused(name: str):
    with pytest.raises(ValueError, match=f"{name}: expected at least 1, got 0"):
        queue(**{name: 0})


def test_in_the_background_nobody_waits_and_answers_come_with_a_later_call():
    made, slow = queue("a", "b", "c", batch=2, background=True), Slow(yes())
    start = time.monotonic()
    assert made.work(slow, chat) == []
    assert made.work(slow, chat) == []
    assert time.monotonic() - start < 5
    assert len(made.waiting) == 3
    slow.go.set()
    made.join()
    assert [item for item, _ in made.work(slow, chat)] == [("c",), ("b",)]
    made.join()
    assert slow.judge.batches == [2, 1]


def test_in_the_background_an_error_of_the_caller_is_raised_and_one_of_the_machine_counted():
    made = queue("a", background=True)
    made.work(Broken(yes()), chat)
    made.join()
    assert made.work(Judge(lambda text: str(1 // 0)), chat) == []
    assert made.n_failed == 1
    made.join()
    with pytest.raises(ZeroDivisionError):
        made.work(yes(), chat)


def test_python_ends_when_the_annotator_in_the_background_is_back():
    script = """
import threading, time
from milepost.credit.annotator import Queue
class Late:
    def annotate(self, prompts):
        asked.set()
        time.sleep(1)
        print("back", flush=True)
        return ["FOO"]
asked, queue = threading.Event(), Queue(background=True)
queue.offer(("a",))
queue.work(Late(), lambda item: [])
asked.wait()
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "back\n", "")


def test_what_is_under_way_is_asked_again_after_a_restart():
    made, slow = queue("a", "b", batch=1, background=True), Slow(yes())
    made.work(slow, chat)
    buffer = io.BytesIO()
    torch.save(made.state_dict(), buffer)
    buffer.seek(0)
    other = Queue(batch=1)
    other.load_state_dict(torch.load(buffer, weights_only=True))
    slow.go.set()
    assert [item for item, _ in other.work(yes(), chat)] == [("b",)]
    assert other.state_dict() == {"waiting": [["a"]], "observed": 0, "forgotten": 0, "failed": 0}


@pytest.mark.parametrize(
    ("answer", "label", "failed"),
    [("FOO", 1.0, False), ("BAR", 0.0, False), ("not BAR but FOO", 1.0, False), ("foo", 0.0, True), ("", 0.0, True)],
)
def test_a_classification_is_positive_where_the_positive_tag_stands_anywhere(answer: str, label: float, failed: bool):
    assert prompts.read_classification(answer) == (label, failed)


@pytest.mark.parametrize(
    ("answer", "label", "failed"),
    [
        ('{"best_description": 1}', (1.0, 0.0), False),
        ("best_description: 2.", (0.0, 1.0), False),
        ("best_description = '1'", (1.0, 0.0), False),
        ("**Best_Description**: **2**", (0.0, 1.0), False),
        ('"best_description": None', (0.5, 0.5), False),
        ("best_description is 1 or 2; I say best_description: 2", (0.0, 1.0), False),
        ("best_description: 12", (0.5, 0.5), True),
        ("the first", (0.5, 0.5), True),
        ("", (0.5, 0.5), True),
    ],
)
def test_a_preference_is_the_field_and_else_a_tie(answer: str, label: tuple[float, float], failed: bool):
    assert prompts.read_ranking(answer) == (label, failed)


@pytest.mark.parametrize(
    "word", ["yes", "True", "1", "YES.", '"true"', '{"key": true}', '{"Key": 1}', '{"key": "Yes"}']
)
def test_one_sub_goal_is_achieved_by_a_yes_in_any_case(word: str):
    assert prompts.read_transition(word, ["key"]) == ({"key": True}, False)


@pytest.mark.parametrize("word", ["no", "FALSE", "0", '{"key": false}', '{"key": "0"}'])
def test_a_no_is_a_judgement(word: str):
    assert prompts.read_transition(word, ["key"]) == ({"key": False}, False)


@pytest.mark.parametrize(
    "text",
    [
        *("", "perhaps", "{", "[" * 100_000, '{"a":' * 50_000, "9" * 5000, "{" * 99, "\0\ud800", "[1]"),
        *('{"key": null}', '{"key": NaN}', '{"key": ' + "9" * 5000 + "}", '{"other": true}', '{"key": 1.0}'),
        '{"key": {"key2": 1}}',
    ],
)
def test_what_cannot_be_read_is_not_achieved_and_never_raises(text: str):
    assert prompts.read_transition(text, ["key"]) == ({"key": False}, True)
    assert isinstance(prompts.read_subgoals(text), list)
    prompts.read_ranking(text)
    prompts.read_classification(text)


def test_the_last_object_that_names_a_sub_goal_is_read():
    answer = 'At first {"key": true, "door": true}; but no:\n```json\n{"key": false, "door": "yes"}\n``` {"note": 1}'
    assert prompts.read_transition(answer, ["key", "door"]) == ({"key": False, "door": True}, False)


def test_a_sub_goal_that_is_left_out_is_a_failed_reading_of_that_one():
    assert prompts.read_transition('{"key": true}', ["key", "door"]) == ({"key": True, "door": False}, True)
    assert prompts.read_transition("yes", ["key", "door"]) == ({"key": False, "door": False}, True)


def test_names_of_sub_goals_are_read_from_a_list_each_once():
    assert prompts.read_subgoals('They are ["open the box", " take the coin ", "open the box"]. [1]') == [
        "open the box",
        "take the coin",
    ]
    assert prompts.read_subgoals("none") == []


def test_a_prompt_shows_its_goal_its_texts_and_nothing_of_empty_parts():
    (_, user) = prompts.classification("It hits you.", "stairs")
    assert prompts.GOALS["stairs"] in user["content"]
    assert "<<<\nIt hits you.\n>>>" in user["content"]
    assert "my own goal" in prompts.ranking("a", "b", "my own goal")[1]["content"]
    (_, user) = prompts.transition(["key"], "before", "go", "after", legend="@ is you")
    assert "@ is you" in user["content"]
    assert "Task" not in user["content"]
    assert prompts.classification("x", "none")[1]["content"].startswith("Here is a message")
