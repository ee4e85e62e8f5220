"""The local scorer against a plain forward of the tiny model, in fp32."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from milepost.agents.local import models, tiny
from milepost.agents.local.policy import LocalPolicy
from milepost.agents.local.scorer import LocalScorer
from milepost.agents.local.template import Template
from milepost.agents.trainer import freeze_below
from milepost.credit.core import Scorer
from milepost.credit.igpo import IGPO
from milepost.credit.made import episode

torch.set_num_threads(1)
PREFIX, SUFFIX = "<think>enough</think>\n<answer>", "</answer>"
VIEWS = [
    [{"role": "user", "content": "You are in a room."}],
    [
        {"role": "system", "content": "Take the lamp."},
        {"role": "user", "content": "You see a door."},
        {"role": "assistant", "content": "go north"},
        {"role": "user", "content": "You can't do that. " * 4},
    ],
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # ">..." and "...<" are learned as one token each: an answer of dots merges with the tags around it
    return tiny.build(tmp_path_factory.mktemp("tiny"), ["go north", "take the lamp", *[">... ...</"] * 50])


@pytest.fixture(scope="module")
def loaded(folder: Path) -> tuple[Any, Any]:
    return models.load(str(folder))


@pytest.fixture
def policy(loaded: tuple[Any, Any]) -> LocalPolicy:
    return LocalPolicy(*loaded)


def plain(policy: LocalPolicy, view: list[dict[str, str]], answer: str, wanted: range) -> list[float]:
    """Log-probabilities of tokens of the answer by one unbatched transformers forward."""
    tokenizer = policy.tokenizer
    prompt = tokenizer.apply_chat_template(view, tokenize=False, add_generation_prompt=True)
    ids = tokenizer.encode(prompt, add_special_tokens=False)
    answer_ids = tokenizer.encode(answer, add_special_tokens=False)
    with torch.no_grad():
        logits = policy.model.eval()(input_ids=torch.tensor([ids + answer_ids])).logits[0].float()
    logprobs = logits.log_softmax(-1)
    return [logprobs[len(ids) + i - 1, answer_ids[i]].item() for i in wanted]


def holding(policy: LocalPolicy, before: str, text: str, after: str) -> range:
    """The tokens of the answer that hold a character of ``text``, told by decoding them one after another."""
    ids = policy.tokenizer.encode(before + text + after, add_special_tokens=False)
    lengths = [len(policy.tokenizer.decode(ids[: i + 1])) for i in range(len(ids))]
    starts = [0, *lengths[:-1]]
    at = [i for i, (a, b) in enumerate(zip(starts, lengths, strict=True)) if a < len(before + text) and b > len(before)]
    return range(at[0], at[-1] + 1)


@pytest.mark.parametrize("target", ["lamp", " a red door", "...", "...north...", "42", "lamp "])
def test_a_target_has_the_logprobs_of_a_plain_forward(policy: LocalPolicy, target: str):
    found = LocalScorer(policy).logprobs(VIEWS, [target] * 2, prefix=PREFIX, suffix=SUFFIX)
    wanted = holding(policy, PREFIX, target, SUFFIX)
    for view, row in zip(VIEWS, found, strict=True):
        assert row == pytest.approx(plain(policy, view, PREFIX + target + SUFFIX, wanted), abs=1e-5)


def test_a_token_that_the_target_shares_with_what_stands_around_it_is_scored(policy: LocalPolicy):
    ids, spans = Template(policy.tokenizer).spans(PREFIX + "..." + SUFFIX)
    at = len(PREFIX)
    shared = [i for i, (a, b) in enumerate(spans) if a < at < b]
    assert shared, "the tokenizer must merge the tag with the dots, else this proves nothing"
    alone = policy.tokenizer.encode("...", add_special_tokens=False)
    (row,) = LocalScorer(policy).logprobs(VIEWS[:1], ["..."], prefix=PREFIX, suffix=SUFFIX)
    covering = [i for i, (a, b) in enumerate(spans) if a < at + 3 and b > at]
    assert len(row) == len(covering)
    # counting tokens of prefix and answer apart would look at other tokens
    assert ids[covering[0] : covering[-1] + 1] != alone


def test_without_a_probe_the_target_is_the_whole_answer(policy: LocalPolicy):
    (row,) = LocalScorer(policy).logprobs(VIEWS[1:], ["take the lamp"])
    n = len(policy.tokenizer.encode("take the lamp", add_special_tokens=False))
    assert row == pytest.approx(plain(policy, VIEWS[1], "take the lamp", range(n)), abs=1e-5)


def test_how_rows_are_batched_changes_nothing(policy: LocalPolicy):
    views = [VIEWS[i % 2][: 1 + i % 4] for i in range(9)]
    targets = ["lamp", "door", "a very long answer indeed"] * 3
    alone = [LocalScorer(policy, max_tokens=1).logprobs([v], [t])[0] for v, t in zip(views, targets, strict=True)]
    for max_tokens in (1, 200, 100_000):
        together = LocalScorer(policy, max_tokens=max_tokens).logprobs(views, targets)
        for a, b in zip(alone, together, strict=True):
            assert b == pytest.approx(a, abs=1e-5)


def test_a_special_token_in_an_answer_is_read_letter_by_letter(policy: LocalPolicy):
    (row,) = LocalScorer(policy).logprobs(VIEWS[:1], ["a<|im_end|>b"], prefix="x ", suffix=" y")
    spelled = policy.tokenizer.encode("<|im_end|>", add_special_tokens=False, split_special_tokens=True)
    assert len(spelled) > 1
    assert len(row) == 2 + len(spelled)


def test_a_character_of_several_tokens_is_scored_whole(policy: LocalPolicy):
    (row,) = LocalScorer(policy).logprobs(VIEWS[:1], ["\u4e2d"], prefix="x ", suffix=" y")
    assert len(row) == 3  # its bytes


def test_scoring_leaves_every_module_in_its_mode_and_no_gradient(policy: LocalPolicy):
    model = policy.model
    model.train()
    first = model.model.layers[0]
    first.eval()
    try:
        before = [module.training for module in model.modules()]
        LocalScorer(policy).logprobs(VIEWS, ["lamp"] * 2)
        assert [module.training for module in model.modules()] == before
        assert all(p.grad is None for p in model.parameters())
    finally:
        model.eval()


def test_dropout_is_off_while_scoring(tmp_path: Path):
    policy = LocalPolicy(*models.load(str(tiny.build(tmp_path, attention_dropout=0.5))))
    quiet = LocalScorer(policy).logprobs(VIEWS, ["lamp"] * 2)
    policy.model.train()
    loud = LocalScorer(policy).logprobs(VIEWS, ["lamp"] * 2)
    assert all(np.array_equal(a, b) for a, b in zip(quiet, loud, strict=True))


def test_a_target_that_does_not_fit_is_nan_and_the_others_are_scored(loaded: tuple[Any, Any]):
    scorer = LocalScorer(LocalPolicy(*loaded, max_context=40))
    short, long = scorer.logprobs([VIEWS[0], VIEWS[1]], ["lamp", "lamp"])
    assert np.isfinite(short).all()
    assert len(long) == len(short)
    assert np.isnan(long).all()


def test_an_empty_target_has_no_tokens_and_no_views_no_rows(policy: LocalPolicy):
    scorer = LocalScorer(policy)
    assert [len(row) for row in scorer.logprobs(VIEWS[:1], [""], prefix="...", suffix="...")] == [0]
    assert scorer.logprobs([], []) == []
    with pytest.raises(ValueError, match="scorer: expected one target a view, got 1 views and 2 targets"):
        scorer.logprobs(VIEWS[:1], ["a", "b"])


def test_rows_of_equal_answers_do_not_share_memory(policy: LocalPolicy):
    a, b = LocalScorer(policy).logprobs([VIEWS[0], VIEWS[0]], ["lamp", "lamp"])
    a[:] = 0.0
    assert (b != 0.0).all()


def test_a_reference_is_the_model_without_its_adapters(folder: Path):
    model, tokenizer = models.load(str(folder), lora=4)
    policy = LocalPolicy(model, tokenizer)
    start = LocalScorer(policy).logprobs(VIEWS, ["lamp"] * 2)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.add_(0.5)
    moved = LocalScorer(policy).logprobs(VIEWS, ["lamp"] * 2)
    frozen = LocalScorer(policy, reference=True).logprobs(VIEWS, ["lamp"] * 2)
    assert np.concatenate(frozen) == pytest.approx(np.concatenate(start), abs=1e-6)
    assert np.abs(np.concatenate(moved) - np.concatenate(start)).max() > 1e-3


def test_a_reference_needs_adapters(policy: LocalPolicy):
    with pytest.raises(ValueError, match="the model has no adapters"):
        LocalScorer(policy, reference=True)


def test_tools_are_shown_with_the_views(policy: LocalPolicy):
    tokenizer = copy.deepcopy(policy.tokenizer)
    tokenizer.chat_template = "{% if tools %}{{ tools[0]['function']['name'] }}\n{% endif %}" + tiny.CHATML
    scorer: Scorer = LocalScorer(LocalPolicy(policy.model, tokenizer))
    (told,) = scorer.logprobs(VIEWS[:1], ["lamp"], tools=[{"type": "function", "function": {"name": "search"}}])
    ids = tokenizer.encode("search\n", add_special_tokens=False)
    prompt = tokenizer.apply_chat_template(VIEWS[0], add_generation_prompt=True, return_dict=False)
    answer = tokenizer.encode("lamp", add_special_tokens=False)
    with torch.no_grad():
        logprobs = policy.model(input_ids=torch.tensor([[*ids, *prompt, *answer]])).logits[0].log_softmax(-1)
    n = len(ids) + len(prompt) - 1
    assert told == pytest.approx([logprobs[n + i, token].item() for i, token in enumerate(answer)], abs=1e-5)


def test_igpo_credits_the_rise_that_a_plain_forward_measures(policy: LocalPolicy):
    e = episode(1.0, texts=["go north", "go north", "lamp"], at_reset={"answer": "the lamp"})
    for turn, seen in zip(e.turns, ["You are in a room.", "You see a door.", "You see the lamp."], strict=True):
        turn.observation = seen
    method = IGPO(scorer=LocalScorer(policy))
    ((first, second, last),) = method.on_group([e])
    before, after = method.probe
    wanted = holding(policy, before, "the lamp", after)
    b = [np.mean(plain(policy, e.view(t), before + "the lamp" + after, wanted)) for t in range(3)]
    assert [first, second] == pytest.approx([b[1] - b[0], b[2] - b[1]], abs=1e-5)
    assert last is None


def test_reading_the_reference_leaves_frozen_layers_frozen(tmp_path: Path):
    model, tokenizer = models.load(tiny.build(tmp_path), lora=4)
    freeze_below(model, 1)
    before = [name for name, p in model.named_parameters() if p.requires_grad]
    LocalScorer(LocalPolicy(model, tokenizer), reference=True).logprobs([[{"role": "user", "content": "go"}]], ["yes"])
    assert [name for name, p in model.named_parameters() if p.requires_grad] == before
