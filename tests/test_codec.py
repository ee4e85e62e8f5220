"""An episode written and read again is the same episode."""

import json
import math
import sys
from dataclasses import fields, is_dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from milepost.envs import codec
from milepost.envs.core import Action, Call, ContractError, Episode, Stop, Tokens, Turn, Usage

ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=8)  # lone surrogates too
NUMBERS = st.floats(width=64) | st.integers(-(2**70), 2**70)
PLAIN = st.recursive(
    st.none() | st.booleans() | NUMBERS | ANY_TEXT,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(ANY_TEXT | st.sampled_from(["$float", "$array", "$image", "$dict"]), inner, max_size=3)
    ),
    max_leaves=5,
)
INFO = st.dictionaries(ANY_TEXT, PLAIN, max_size=2)


@st.composite
def arrays(draw, dtype, low=0, high=4):
    n = draw(st.integers(low, high))
    if np.dtype(dtype).kind == "i":
        return np.array([draw(st.integers(-(2**31), 2**31 - 1)) for _ in range(n)], dtype)
    return np.array([draw(st.floats(width=32)) for _ in range(n)], dtype)


@st.composite
def pictures(draw):
    shape = (draw(st.integers(1, 3)), draw(st.integers(1, 3)), 3)
    return np.frombuffer(draw(st.binary(min_size=27, max_size=27)), np.uint8)[: math.prod(shape)].reshape(shape)


@st.composite
def observations(draw):
    if draw(st.booleans()):
        return draw(ANY_TEXT)
    parts = {
        "text": ANY_TEXT,
        "images": st.lists(pictures(), max_size=2),
        "results": st.lists(
            st.fixed_dictionaries({"id": ANY_TEXT, "text": ANY_TEXT}, optional={"image": pictures()}), max_size=2
        ),
    }
    return draw(st.fixed_dictionaries({}, optional=parts))


@st.composite
def turns(draw):
    tokens = None
    n = draw(st.integers(0, 4))
    if draw(st.booleans()):
        tokens = Tokens(
            keep=draw(st.integers(0, 9)),
            context=draw(arrays(np.int32)),
            ids=draw(arrays(np.int32, n, n)),
            logprobs=draw(arrays(np.float32, n, n)),
            entropies=draw(st.none() | arrays(np.float32, n, n)),
            version=draw(st.integers(0, 3)),
        )
    value = st.none() | st.just(0.0) | st.floats(width=64) | arrays(np.float32, n, n)
    action = Action(
        text=draw(ANY_TEXT),
        move=draw(st.none() | ANY_TEXT),
        calls=tuple(draw(st.lists(st.builds(Call, ANY_TEXT, ANY_TEXT, ANY_TEXT), max_size=2))),
        reasoning=draw(st.none() | ANY_TEXT),
        finish=draw(st.sampled_from(["stop", "length", "calls", "filter"])),
        tokens=tokens,
        usage=draw(st.none() | st.builds(Usage, cost=st.none() | st.floats(), seconds=st.floats(0, 9))),
    )
    return Turn(
        observation=draw(observations()),
        action=action,
        reward=draw(st.floats(width=64)),
        info=draw(INFO),
        seconds=draw(st.floats(0, 9)),
        agent=draw(st.sampled_from(["agent", "white", "black"])),
        view=draw(st.none() | st.just({"turns": [[0, 1], [3, 5]], "summary": "so far"})),
        credit=draw(st.dictionaries(ANY_TEXT, value, max_size=3)),
        advantage=draw(value),
    )


EPISODES = st.builds(
    Episode,
    id=ANY_TEXT,
    env_id=ANY_TEXT,
    env_kwargs=INFO,
    task=st.none() | ANY_TEXT,
    split=st.sampled_from(["train", "valid", "test"]),
    seed=st.none() | st.integers(0, 2**63),
    attempt=st.integers(0, 9),
    group=ANY_TEXT,
    instructions=ANY_TEXT | st.dictionaries(ANY_TEXT, ANY_TEXT, max_size=2),
    tools=st.lists(INFO, max_size=2),
    info=INFO,
    turns=st.lists(turns(), max_size=3),
    last=st.none() | observations(),
    stop=st.none() | st.sampled_from(Stop),
    failure=st.none() | ANY_TEXT,
    parent=st.none() | st.just({"episode": "0:g:1", "turn": 3}),
    runtime=INFO,
)


def same(a: Any, b: Any) -> bool:
    """Equality in which nan is nan, 1 is not True, and arrays have a dtype."""
    if isinstance(a, float) and isinstance(b, float):
        return a == b or (math.isnan(a) and math.isnan(b))
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return a.dtype == b.dtype and np.array_equal(a, b, equal_nan=a.dtype.kind == "f")
    if type(a) is not type(b):
        return False
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if is_dataclass(a):
        return all(same(getattr(a, f.name), getattr(b, f.name)) for f in fields(a))
    return a == b


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(EPISODES, st.booleans())
def test_what_is_written_is_read_without_loss(episode, apart):
    album = {}

    def keep(image):
        album[name := f"{len(album)}.png"] = image
        return name

    line = codec.dumps(codec.to_json(episode, keep if apart else None))
    assert b"\n" not in line
    assert same(codec.from_json(codec.loads(line), album.__getitem__), episode)


@given(ANY_TEXT, st.floats(width=64))
def test_a_line_is_strict_json_unless_two_surrogates_stand_together(text, number):
    line = codec.dumps(codec.pack({"text": text, "number": number}))

    def refuse(name):
        raise AssertionError(name)

    try:
        assert json.loads(line.decode(), parse_constant=refuse)["text"] == text
    except UnicodeDecodeError:
        assert any("\ud800" <= a <= "\udbff" and "\udc00" <= b <= "\udfff" for a, b in pairwise(text))


def test_two_surrogates_that_stand_together_stay_two():
    assert len(codec.loads(codec.dumps("\ud83d\ude00"))) == 2
    assert len(codec.loads(codec.dumps("\U0001f600"))) == 1


def test_never_judged_is_not_judged_zero():
    episode = Episode(turns=[Turn("o", Action("a"), credit={"x": None, "y": 0.0}, advantage=a) for a in (None, 0.0)])
    first, second = codec.from_json(codec.to_json(episode)).turns
    assert (first.credit, first.advantage) == ({"x": None, "y": 0.0}, None)
    assert second.advantage == 0.0


def test_a_plain_turn_costs_two_keys():
    record = codec.to_json(Episode(id="e", turns=[Turn("look", Action("go"))]))
    assert record == {"schema": 1, "id": "e", "turns": [{"observation": "look", "action": "go"}]}


def test_tokens_can_be_left_out():
    tokens = Tokens(0, np.array([1], np.int32), np.array([2], np.int32), np.array([-0.5], np.float32))
    (turn,) = codec.from_json(codec.to_json(Episode(turns=[Turn("o", Action("a", tokens=tokens))]), tokens=False)).turns
    assert turn.action == Action("a")


def test_arrays_that_were_read_can_be_written_to():
    turn = Turn("o", Action("a"), advantage=np.zeros(2, np.float32))
    back = codec.from_json(codec.to_json(Episode(turns=[turn]))).turns[0].advantage
    assert isinstance(back, np.ndarray)
    back[0] = 1.0


@pytest.mark.parametrize("value", [{1, 2}, object(), {1: 2}, b"bytes", np.array(["text"])])
def test_what_is_not_plain_json_is_named_with_episode_and_turn(value):
    episode = Episode(id="7:g:0", env_id="my/Env-v0", turns=[Turn("o", Action("a"), info={"x": value})])
    with pytest.raises(ContractError, match=r"episode '7:g:0' of my/Env-v0, turn 0: expected plain JSON"):
        codec.to_json(episode)


def test_a_newer_schema_is_refused_with_a_sentence():
    with pytest.raises(ValueError, match="episode 'e' has schema 2, this version reads up to 1: install a newer"):
        codec.from_json({"schema": 2, "id": "e", "whatever": []})


def test_a_picture_without_pillow_says_what_to_install(tmp_path, monkeypatch):
    from gymnasium.error import DependencyNotInstalled

    from milepost.envs.files import Images

    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(DependencyNotInstalled, match=r"pip install 'milepost\[images\]'"):
        Images(tmp_path).save(np.zeros((1, 1, 3), np.uint8))
