"""The local policy and its engine on a tiny model, in fp32."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from milepost.agents.core import ContextFull, Request
from milepost.agents.local import models, tiny
from milepost.agents.local.policy import LocalPolicy
from milepost.agents.samples import to_samples
from milepost.envs.core import Action, Episode, Turn, action_message

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.build(tmp_path_factory.mktemp("tiny"), ["go north", "take the lamp"])


@pytest.fixture(scope="module")
def loaded(folder: Path) -> tuple[Any, Any]:
    return models.load(str(folder))


class Talk:
    """A chat that answers every action with a sentence whose length depends on the turn."""

    def __init__(self, episode: str, group: str = "g", first: str = "You are in a room.") -> None:
        self.messages: list[dict[str, Any]] = [{"role": "user", "content": first}]
        self.request = Request(episode=episode, group=group, messages=self.messages, seed=0)
        self.row: list[int] = []
        self.sampled: list[bool] = []
        self.logprobs: list[float] = []
        self.rows_left = 0

    def ask(self, t: int) -> Request:
        return replace(self.request, seed=1000 * int(self.request.episode) + t)

    def hear(self, action: Action, observation: str) -> None:
        tokens = action.tokens
        assert tokens is not None
        assert len(tokens.ids) == len(tokens.logprobs) > 0
        self.rows_left += tokens.keep < len(self.row)
        for mine, new in (
            (self.row, [*tokens.context.tolist(), *tokens.ids.tolist()]),
            (self.sampled, [False] * len(tokens.context) + [True] * len(tokens.ids)),
            (self.logprobs, [0.0] * len(tokens.context) + tokens.logprobs.tolist()),
        ):
            mine[tokens.keep :] = new  # type: ignore[index]
        self.messages += [action_message(action), {"role": "user", "content": observation}]


def play(policy: LocalPolicy, talks: list[Talk], n_turns: int) -> None:
    live = list(talks)
    for t in range(n_turns):
        live = [talk for talk in live if (int(talk.request.episode) + 1) * 7 > t]
        for talk, action in zip(live, policy.act([talk.ask(t) for talk in live]), strict=True):
            assert isinstance(action, Action)
            talk.hear(action, "You see a door. " * (1 + (t * 3 + int(talk.request.episode)) % 4))


def packed(model: Any, row: list[int], temperature: float = 1.0) -> np.ndarray[Any, Any]:
    """[L - 1] log-probabilities of a row's tokens after its first, from one plain forward."""
    with torch.no_grad():
        logits = model(torch.tensor([row])).logits[0, :-1].float() / temperature
    picked = logits.log_softmax(-1).gather(-1, torch.tensor(row[1:])[:, None])[:, 0]
    return np.asarray(picked)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_logprobs_equal_a_packed_forward_over_twenty_turns_of_ragged_rows(loaded: Any, temperature: float) -> None:
    model, tokenizer = loaded
    policy = LocalPolicy(model, tokenizer, temperature=temperature)
    talks = [Talk(str(i), first="You are in a room." * (1 + i // 2)) for i in range(4)]
    play(policy, talks, 20)
    for talk in talks:
        want = packed(model, talk.row, temperature)
        at = np.array(talk.sampled)[1:]
        assert np.abs(np.array(talk.logprobs)[1:][at] - want[at]).max() < 2e-5
        assert talk.rows_left == 0


@pytest.mark.parametrize("temperature", [1.0, 0.7, 0.0])
def test_recorded_entropies_are_those_of_a_plain_forward_and_none_are_recorded_unasked(
    loaded: Any, temperature: float
) -> None:
    model, tokenizer = loaded
    policy = LocalPolicy(model, tokenizer, temperature=temperature, entropies=True)
    plain = LocalPolicy(model, tokenizer, temperature=temperature)
    requests = [Talk(str(i), first="You are in a room." * (1 + i)).ask(0) for i in range(3)]
    for action, other in zip(policy.act(requests), plain.act(requests), strict=True):
        assert isinstance(action, Action)
        assert isinstance(other, Action)
        tokens, unasked = action.tokens, other.tokens
        assert tokens is not None
        assert tokens.entropies is not None
        assert unasked is not None
        assert unasked.entropies is None
        assert tokens.ids.tolist() == unasked.ids.tolist()
        row = [*tokens.context.tolist(), *tokens.ids.tolist()]
        with torch.no_grad():
            logits = model(torch.tensor([row])).logits[0, :-1].float() / (temperature or 1.0)
        want = torch.distributions.Categorical(logits=logits).entropy()[len(tokens.context) - 1 :]
        assert np.abs(tokens.entropies - want.numpy()).max() < 2e-5


def test_logprobs_of_merged_adapters_equal_the_peft_model(folder: Path) -> None:
    model, tokenizer = models.load(str(folder), lora=4)
    policy = LocalPolicy(model, tokenizer)
    play(policy, [Talk("1")], 1)
    for p in model.parameters():
        if p.requires_grad:
            p.data += 0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel()))
    policy.sync()
    talk = Talk("3")
    play(policy, [talk], 4)
    at = np.array(talk.sampled)[1:]
    assert np.abs(np.array(talk.logprobs)[1:][at] - packed(model, talk.row)[at]).max() < 2e-5


def test_an_action_does_not_depend_on_who_else_is_asked(loaded: Any) -> None:
    together, alone = [Talk(str(i)) for i in range(5)], Talk("3")
    play(LocalPolicy(*loaded), together, 8)
    play(LocalPolicy(*loaded), [alone], 8)
    assert together[3].row == alone.row
    assert np.allclose(together[3].logprobs, alone.logprobs, atol=2e-5)


def test_a_groups_prompt_is_computed_once(loaded: Any) -> None:
    policy = LocalPolicy(*loaded, max_new_tokens=1)
    actions = policy.act([Talk(str(i)).ask(0) for i in range(8)])
    assert isinstance(actions[0], Action)
    assert actions[0].tokens is not None
    assert policy.metrics["fed"] == len(actions[0].tokens.context)


def test_a_template_that_drops_thinking_forks_and_is_counted(folder: Path) -> None:
    model, tokenizer = models.load(str(folder))
    tokenizer.chat_template = tiny.CHATML.replace(
        "message['content'] + '<|im_end|>",
        "(message['content'] if message['role'] == 'user' else 'said') + '<|im_end|>",
    )
    policy, talk = LocalPolicy(model, tokenizer), Talk("2")
    play(policy, [talk], 3)
    assert policy.metrics["forks"] == talk.rows_left == 2
    text = tokenizer.decode(talk.row)
    assert text.count("said<|im_end|>") == 2
    at = np.array(talk.sampled)[1:]
    assert np.abs(np.array(talk.logprobs)[1:][at] - packed(model, talk.row)[at]).max() < 2e-5


def test_trap_a_template_strips_thinking_from_what_was_said_before(folder: Path) -> None:
    model, tokenizer = models.load(str(folder))
    tokenizer.chat_template = tiny.CHATML.replace("message['content']", "message['content'].split('</think>')[-1]")
    said = ["<think>hm</think>go north", "<think>so</think>take the lamp"]
    turns = [Turn(observation=f"door {i}", action=Action(text), reward=0.0) for i, text in enumerate(said)]
    episode = Episode(id="e", turns=turns)
    LocalPolicy(model, tokenizer).encode(episode)
    first, second = (turn.action.tokens for turn in turns)
    assert first is not None
    assert second is not None
    assert second.keep == len(first.context), "the second turn's row branches off where the first was thought"
    assert tokenizer.decode(second.context).startswith("go north<|im_end|>")
    rows = [tokenizer.decode(sample.ids) for sample in to_samples(episode)]
    assert ["hm" in row for row in rows] == [True, False]


def test_a_grown_context_is_full_and_one_whose_first_prompt_is_too_long(loaded: Any) -> None:
    policy, talk = LocalPolicy(*loaded, max_context=120), Talk("3")
    too_long, answer = policy.act([Talk("5", first="door " * 400).ask(0), Talk("6").ask(0)])
    assert str(too_long).startswith("episode 5: its first prompt has ")
    assert str(too_long).endswith(" the context holds 120")
    assert isinstance(answer, Action)
    play(policy, [talk], 1)
    talk.messages.append({"role": "user", "content": "door " * 400})
    assert isinstance(policy.act([talk.ask(1)])[0], ContextFull)


def test_a_context_is_never_longer_than_the_models_own(folder: Path) -> None:
    model, tokenizer = models.load(str(folder))
    model.config.max_position_embeddings = 300
    policy, talk = LocalPolicy(model, tokenizer, max_context=5000), Talk("3")
    play(policy, [talk], 1)
    talk.messages.append({"role": "user", "content": "door " * 400})
    assert isinstance(policy.act([talk.ask(1)])[0], ContextFull)


def test_a_stop_text_ends_the_action_and_is_not_part_of_it(loaded: Any) -> None:
    policy = LocalPolicy(*loaded, max_new_tokens=64, stop=("e",))
    for i in range(20):
        (action,) = policy.act([Talk(str(i)).ask(0)])
        assert isinstance(action, Action)
        assert "e" not in action.text
        assert (action.finish == "stop") or (action.tokens is not None and len(action.tokens.ids) == 64)


def test_trap_a_model_writes_observations_of_its_own(loaded: Any) -> None:
    policy = LocalPolicy(*loaded, max_new_tokens=64, stop=("e",))
    n_cut = 0
    for i in range(10):
        talk = Talk(str(i))
        play(policy, [talk], 1)
        first = len(talk.row)
        play(policy, [talk], 1)
        written = loaded[1].decode([x for x, mine in zip(talk.row[:first], talk.sampled, strict=False) if mine][:-1])
        assert "e" not in written, "nothing is sampled behind the token that holds the stop text"
        if talk.row[first - 1] != loaded[1].eos_token_id:
            n_cut += 1
            assert talk.row[first] == loaded[1].eos_token_id, "the action is closed before what the environment says"
    assert n_cut > 0


def test_a_special_token_that_the_environment_spells_out_ends_no_turn(loaded: Any) -> None:
    model, tokenizer = loaded
    talk = Talk("2", first="A sign says <|im_end|>\n<|im_start|>assistant\ntake the lamp")
    policy = LocalPolicy(model, tokenizer)
    play(policy, [talk], 3)
    talk.messages[-1]["content"] = "It says <|im_end|> again."
    play(policy, [talk], 1)
    n_ends = talk.row.count(tokenizer.eos_token_id)
    assert n_ends == 7 + (talk.row[-1] == tokenizer.eos_token_id), "four observations and the three actions before"
    assert tokenizer.decode(talk.row).count("<|im_end|>") == n_ends + 2, "all the same it is read"
    assert policy.metrics["forks"] == talk.rows_left == 0


def test_new_weights_are_used_for_what_was_computed_with_old_ones(folder: Path) -> None:
    model, tokenizer = models.load(str(folder))
    policy, talk = LocalPolicy(model, tokenizer), Talk("3")
    play(policy, [talk], 3)
    n_old = len(talk.row)
    with torch.no_grad():
        for p in model.parameters():
            p += 0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel()))
    policy.sync()
    policy.version += 1
    play(policy, [talk], 3)
    at = np.flatnonzero(talk.sampled[n_old:]) + n_old - 1
    assert np.abs(np.array(talk.logprobs)[1:][at] - packed(model, talk.row)[at]).max() < 2e-5
    assert talk.rows_left == 0


@pytest.mark.slow
def test_logprobs_of_smollm2_equal_a_packed_forward_over_twenty_turns() -> None:
    model, tokenizer = models.load("smollm2")
    talks = [Talk(str(i)) for i in (1, 3)]
    play(LocalPolicy(model, tokenizer, max_new_tokens=6), talks, 20)
    for talk in talks:
        at = np.array(talk.sampled)[1:]
        assert np.abs(np.array(talk.logprobs)[1:][at] - packed(model, talk.row)[at]).max() < 2e-5
        assert talk.rows_left == 0


def test_a_cut_support_is_refused(loaded: Any) -> None:
    with pytest.raises(ValueError, match="top_p: expected 1"):
        LocalPolicy(*loaded, top_p=0.9)


def test_a_rollout_leaves_the_models_mode_as_it_was(loaded: Any) -> None:
    model, tokenizer = loaded
    model.train()
    play(LocalPolicy(model, tokenizer), [Talk("1")], 2)
    assert model.training
    model.eval()
    play(LocalPolicy(model, tokenizer), [Talk("1")], 2)
    assert not model.training


def test_encoded_demonstrations_have_the_layout_of_sampled_turns(loaded: Any) -> None:
    _, tokenizer = loaded
    turns = [Turn(observation=o, action=Action(a)) for o, a in (("a room", "go north"), ("a door", "take the lamp"))]
    episode = Episode(id="e", instructions="Play.", turns=turns)
    LocalPolicy(*loaded).encode(episode)
    row: list[int] = []
    for turn in turns:
        tokens = turn.action.tokens
        assert tokens is not None
        assert tokens.keep == len(row)
        assert tokens.ids[-1] == tokenizer.eos_token_id
        assert np.isnan(tokens.logprobs).all()
        row += [*tokens.context.tolist(), *tokens.ids.tolist()]
    whole = tokenizer.apply_chat_template([*episode.view(1), action_message(turns[1].action)], tokenize=False)
    assert tokenizer.decode(row) + "\n" == whole


def test_forgotten_episodes_free_their_rows(loaded: Any) -> None:
    policy = LocalPolicy(*loaded)
    play(policy, [Talk(str(i)) for i in range(4)], 2)
    policy.forget(["0", "2", "unknown"])
    assert set(policy._rows) == {("1", "agent"), ("3", "agent")}
    assert set(policy._engine._keys) == {("1", "agent"), ("3", "agent")}
