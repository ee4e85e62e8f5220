"""A chat as text and as tokens, by a tokenizer's own chat template."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from milepost.envs.core import Message

_FIRST = 0x10F000
"""Where the private characters begin that stand for spelled-out special tokens."""


class Template:
    """Render chats and encode what is rendered; only the template itself can write special tokens.

    A special token that is spelled out in a message, as when an environment prints ``<|im_end|>``, stands as a private
    character in the rendered text and is encoded letter by letter: it is read, and ends no turn.
    """

    def __init__(self, tokenizer: Any) -> None:
        """Wrap a tokenizer.

        Raises:
            ValueError: It has no chat template.
        """
        if not getattr(tokenizer, "chat_template", None):
            raise ValueError("tokenizer: it has no chat template; an instruct model has one")
        self.tokenizer = tokenizer
        added = {str(tokenizer.eos_token)} | {
            str(token) for token in tokenizer.added_tokens_decoder.values() if token.special
        }
        self._special = sorted(added | set(tokenizer.all_special_tokens), key=lambda text: (-len(text), text))
        self._spelled = re.compile("|".join(map(re.escape, self._special)))
        self._private = re.compile(f"([{''.join(chr(_FIRST + i) for i in range(len(self._special)))}])")
        self.end = self._end_of_turn()
        """The token that the template writes behind an action, or else the model's end of text."""
        self.end_text = str(tokenizer.convert_ids_to_tokens(self.end))

    def render(self, messages: Sequence[Message], tools: Sequence[dict[str, Any]] = ()) -> str:
        """Return the chat's text up to where the next action begins.

        The whole chat is rendered each time, because a template may rewrite what it wrote before: 2,000 messages take
        8 ms, so an episode of 1,000 turns 4 s in all.
        """
        text: str = self.tokenizer.apply_chat_template(
            [self._message(message) for message in messages],
            tools=list(tools) or None,
            tokenize=False,
            add_generation_prompt=True,
        )
        return text

    def plain(self, text: str) -> str:
        """Return the text as it stands in a rendered chat."""
        return self._spelled.sub(lambda match: chr(_FIRST + self._special.index(match[0])), text)

    def ids(self, text: str) -> list[int]:
        """Return the tokens of rendered text."""
        ids: list[int] = []
        for i, part in enumerate(self._private.split(text)):
            if i % 2:
                spelled = self._special[ord(part) - _FIRST]
                ids += self.tokenizer.encode(spelled, add_special_tokens=False, split_special_tokens=True)
            elif part:
                ids += self.tokenizer.encode(part, add_special_tokens=False)
        return ids

    def spans(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Return the tokens of rendered text, as ``ids``, and of each the characters ``[from, to)`` it stands for.

        Raises:
            ValueError: The tokenizer does not know them; a fast one does.
        """
        if not self.tokenizer.is_fast:
            raise ValueError("tokenizer: it keeps no offsets; load the fast one (use_fast=True)")
        ids: list[int] = []
        spans: list[tuple[int, int]] = []
        at = 0
        for i, part in enumerate(self._private.split(text)):
            if i % 2:
                spelled = self.ids(part)
                ids += spelled
                spans += [(at, at + 1)] * len(spelled)
            elif part:
                found = self.tokenizer(part, add_special_tokens=False, return_offsets_mapping=True)
                ids += found["input_ids"]
                spans += [(at + start, at + end) for start, end in found["offset_mapping"]]
            at += len(part)
        return ids, spans

    def _message(self, message: Message) -> Message:
        texts = {key: value for key, value in message.items() if key != "role"}
        return {**message, **self._walk(texts)} if self._spelled.search(str(texts)) else message

    def _walk(self, value: Any) -> Any:
        if isinstance(value, str):
            return self.plain(value)
        if isinstance(value, dict):
            return {key: self._walk(x) for key, x in value.items()}
        return [self._walk(x) for x in value] if isinstance(value, list) else value

    def _end_of_turn(self) -> int:
        turn = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "milepost"}]
        text: str = self.tokenizer.apply_chat_template(turn, tokenize=False)
        tail = self.ids(text.rpartition("milepost")[2])
        special = set(self.tokenizer.all_special_ids) | set(self.tokenizer.get_added_vocab().values())
        return tail[0] if tail and tail[0] in special else int(self.tokenizer.eos_token_id)
