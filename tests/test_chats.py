"""Chats answered by a tiny model: what is kept of a conversation saves work and changes nothing."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from milepost.agents.core import Request
from milepost.agents.local import models, tiny
from milepost.agents.local.chat_api import Chat, Refused, Reply
from milepost.agents.local.chats import Chats
from milepost.agents.local.policy import LocalPolicy
from milepost.agents.local.server import Batches
from milepost.agents.local.tool_text import as_text, read_calls
from milepost.envs.core import Action

torch.set_num_threads(1)
FIND = {"type": "function", "function": {"name": "find", "description": "Find a word."}}


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    return models.load(tiny.build(tmp_path_factory.mktemp("tiny"), ["go north", "take the lamp"]))


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def chat(*texts: str, **options: Any) -> Chat:
    """Return a chat of the user's and the assistant's texts in turn."""
    roles = ("user", "assistant")
    messages = [{"role": roles[i % 2], "content": text} for i, text in enumerate(texts)]
    return Chat(messages, **({"max_tokens": 12, "seed": 5} | options))


def answers(chats: Chats, *asked: Chat) -> list[Action]:
    replies = chats.answer(asked)
    assert all(isinstance(reply, Reply) for reply in replies), replies
    return [reply.action for reply in replies if isinstance(reply, Reply)]


def same(a: Action, b: Action) -> None:
    assert a.tokens is not None
    assert b.tokens is not None
    assert a.text == b.text
    assert a.tokens.ids.tolist() == b.tokens.ids.tolist()
    assert np.abs(a.tokens.logprobs - b.tokens.logprobs).max() < 1e-5


def test_an_answer_is_the_same_with_and_without_what_is_kept_of_the_conversation(loaded: Any) -> None:
    kept = Chats(*loaded)
    talks = [["You are in a room. " * 4], ["You see a door."], ["You are in a room. " * 4 + "go"]]
    cached = 0
    for turn in range(4):
        asked = [chat(*talk, seed=10 * turn + i) for i, talk in enumerate(talks)]
        for talk, one, action in zip(talks, asked, answers(kept, *asked), strict=True):
            (alone,) = answers(Chats(*loaded), one)
            same(action, alone)
            assert action.usage is not None
            assert alone.usage is not None
            assert (action.usage.prompt, alone.usage.cached) == (alone.usage.prompt, 0)
            assert (action.usage.cached > 0) == (turn > 0)
            cached += action.usage.cached
            talk += [action.text, "You can't do that."]
    assert kept.metrics["fed"] < sum(len(a) for t in talks for a in t), "a chat is not computed from its start"
    assert cached == kept.metrics["cached"]


def test_a_conversation_whose_past_the_client_rewrote_is_read_as_it_is_now(loaded: Any) -> None:
    kept = Chats(*loaded)
    answers(kept, chat("You are in a room."))
    changed = chat("You are in a room.", "take the lamp", "You see a door.")
    same(answers(kept, changed)[0], answers(Chats(*loaded), changed)[0])


def test_at_most_so_many_conversations_are_kept_and_those_used_last_are(loaded: Any) -> None:
    chats = Chats(*loaded, slots=2)

    def cached(*texts: str) -> int:
        (action,) = answers(chats, chat(*texts))
        assert len(chats._engine._keys) == len(chats._kept) <= 2
        talks[texts[0]] = [*texts, action.text]
        assert action.usage is not None
        return action.usage.cached

    talks: dict[str, list[str]] = {}
    cached("one")
    cached("two")
    assert cached(*talks["one"], "and") > 0
    cached("three")
    assert cached(*talks["one"], "on") > 0
    assert cached(*talks["two"], "and") == 0, "it had not been used for longest when the third came"


def test_the_answer_to_a_chat_is_that_of_the_policy_with_its_settings(loaded: Any) -> None:
    settings = [(1.0, 12, ()), (0.7, 5, ()), (0.0, 9, ("a",)), (0.7, 12, ("e", "o"))]
    asked = [
        chat("You are in a room.", temperature=t, max_tokens=n, stop=stop, seed=seed)
        for seed, (t, n, stop) in enumerate(settings)
    ]
    for seed, (one, action) in enumerate(zip(asked, answers(Chats(*loaded), *asked), strict=True)):
        policy = LocalPolicy(
            *loaded, temperature=one.temperature, max_new_tokens=one.max_tokens or 0, stop=one.stop, max_context=200
        )
        (alone,) = policy.act([Request("e", "g", one.messages, seed=seed)])
        assert isinstance(alone, Action)
        same(action, alone)
        assert action.finish == alone.finish


def test_without_a_seed_answers_differ_and_at_temperature_0_they_do_not(loaded: Any) -> None:
    chats = Chats(*loaded)
    texts = {a.text for a in answers(chats, *(chat("go", seed=None) for _ in range(3)))}
    assert len(texts) == 3
    texts = {a.text for a in answers(chats, *(chat("go", seed=None, temperature=0.0) for _ in range(3)))}
    assert len(texts) == 1


def test_a_chat_that_is_too_long_is_refused_alone_with_both_numbers(loaded: Any) -> None:
    chats = Chats(*loaded, max_context=40)
    long, short = chats.answer([chat("room " * 50), chat("go")])
    assert isinstance(short, Reply)
    assert isinstance(long, Refused)
    n = len(loaded[1].apply_chat_template([user("room " * 50)], add_generation_prompt=True)["input_ids"])
    assert f"the context holds 40 tokens; the messages have {n}, the answer needs 12" in str(long)
    assert (long.status, long.code) == (400, "context_length_exceeded")


def test_an_answer_whose_length_is_not_said_takes_the_room_there_is(loaded: Any) -> None:
    (action,) = answers(Chats(*loaded, max_context=40), chat("go", max_tokens=None, seed=3))
    assert action.usage is not None
    assert action.finish == "length"
    assert action.usage.prompt + action.usage.completion == 40


class Watched(Chats):
    """Says who was answered together, and waits for ``go`` before it answers."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.sizes: list[int] = []
        self.go = threading.Event()

    def answer(self, chats: Sequence[Chat]) -> list[Reply | Refused]:
        self.sizes.append(len(chats))
        assert self.go.wait(30)
        if any(chat.messages[0]["content"] == "break" for chat in chats):
            raise RuntimeError("broken")
        return super().answer(chats)


def test_what_arrives_while_the_model_is_busy_is_answered_together_and_who_leaves_disturbs_nobody(
    loaded: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    async def serve() -> None:
        chats = Watched(*loaded, slots=4)
        batches = Batches(chats)
        running = asyncio.create_task(batches.ask(chat("go", max_tokens=3000)))
        while not chats.sizes:
            await asyncio.sleep(0.01)
        waiting = [asyncio.create_task(batches.ask(chat(f"go {i}"))) for i in range(7)]
        await asyncio.sleep(0.01)
        running.cancel()
        waiting[2].cancel()
        await asyncio.sleep(0.01)
        chats.go.set()
        replies = await asyncio.gather(*waiting[:2], *waiting[3:])
        assert all(isinstance(reply, Reply) for reply in replies)
        assert chats.sizes == [1, 4, 2]
        assert chats.metrics["sampled"] < 100, "nobody wants the rest of the long answer"
        broken = await batches.ask(chat("break"))
        assert isinstance(broken, Refused)
        assert (broken.status, str(broken)) == (500, "the model failed: RuntimeError: broken")
        assert "Traceback" in capsys.readouterr().err
        assert isinstance(await batches.ask(chat("go")), Reply)
        await batches.close()

    asyncio.run(serve())


@pytest.mark.parametrize(
    ("text", "content", "calls"),
    [
        ('<tool_call>\n{"name": "find", "arguments": {"n": 1}}\n</tool_call>', "", [("call_2", "find", '{"n": 1}')]),
        (
            'Two: <tool_call>{"name": "a", "arguments": {}}</tool_call>\n<tool_call>{"name": "b", "arguments": "{"}',
            "Two:",
            [("call_2", "a", "{}"), ("call_3", "b", "{")],
        ),
        ('{"name": "a", "parameters": {"x": "\u00e9"}}', "", [("call_2", "a", '{"x": "\u00e9"}')]),
        ('```json\n[{"name": "a", "arguments": {}}]\n```', "", [("call_2", "a", "{}")]),
        (
            '<tool_call>{"name": </tool_call><tool_call>{"name": "a", "arguments": {}}</tool_call>',
            '<tool_call>{"name": </tool_call>',
            [("call_2", "a", "{}")],
        ),
        (' <tool_call>{"name": "a", "arguments": {', ' <tool_call>{"name": "a", "arguments": {', []),
        ('{"name": "Ada", "age": 36}', '{"name": "Ada", "age": 36}', []),
        ("[" * 5000, "[" * 5000, []),
        ("find(n=1)", "find(n=1)", []),
        ("[]", "[]", []),
    ],
)
def test_a_models_text_is_read_as_calls_and_broken_ones_stay_text(text: str, content: str, calls: list[Any]) -> None:
    assert read_calls(text, 2) == (content, calls)


def test_a_template_without_tools_is_told_them_in_the_system_message_and_reads_calls_as_text(loaded: Any) -> None:
    call = {"id": "call_0", "type": "function", "function": {"name": "find", "arguments": {"n": 1}}}
    messages = [
        {"role": "system", "content": "Be brief."},
        user("go"),
        {"role": "assistant", "content": "Well.", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_0", "content": "nothing"},
    ]
    told = as_text(messages, [FIND])
    assert told[0]["content"].startswith("Be brief.\n\nYou may call these tools.")
    assert told[0]["content"].endswith("\nfind(): Find a word.")
    assert told[1:] == [
        user("go"),
        {"role": "assistant", "content": 'Well.\n<tool_call>{"name": "find", "arguments": {"n": 1}}</tool_call>'},
        user("<tool_response>\nnothing\n</tool_response>"),
    ]
    assert as_text(messages[:1], []) == messages[:1]
    assert [message["role"] for message in as_text(messages[1:2], [FIND])] == ["system", "user"]
    (reply,) = Chats(*loaded).answer([Chat(messages, [FIND], max_tokens=2)])
    assert isinstance(reply, Reply)
    assert "find(): Find a word." in loaded[1].decode(reply.prompt)


def test_a_template_that_knows_tools_gets_them_and_one_that_refuses_a_chat_is_quoted(loaded: Any) -> None:
    _, tokenizer = loaded
    before = tokenizer.chat_template
    tokenizer.chat_template = (
        "{% if messages[0].content == 'no' %}{{ raise_exception('no system message') }}{% endif %}"
        "{{ tools | tojson if tools else '' }}{% for m in messages %}{% for c in m.tool_calls or [] %}"
        "{{ c.function.arguments.n }}{% endfor %}{% endfor %}" + before
    )
    try:
        chats = Chats(*loaded)
        call = {"id": "call_0", "type": "function", "function": {"name": "find", "arguments": {"n": 77}}}
        messages = [user("go"), {"role": "assistant", "content": "", "tool_calls": [call]}]
        good, bad = chats.answer([Chat(messages, [FIND], max_tokens=2), Chat([user("no")], max_tokens=2)])
    finally:
        tokenizer.chat_template = before
    assert isinstance(good, Reply)
    assert '"Find a word."' in tokenizer.decode(good.prompt)
    assert "77<|im_start|>" in tokenizer.decode(good.prompt)
    assert isinstance(bad, Refused)
    assert str(bad) == "the model's chat template refuses these messages or tools: no system message"
