"""Answer chats with a local model: an answer depends on its chat alone, whatever is still kept of earlier ones."""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
from typing import Any

from jinja2 import TemplateError

from milepost.agents.core import Request
from milepost.agents.local.chat_api import Chat, Refused, Reply, Spoken
from milepost.agents.local.policy import LocalPolicy, _Row
from milepost.agents.local.sampling import Sampling
from milepost.agents.local.tool_text import as_text
from milepost.envs.core import Action, Message

AGENT = "agent"
SLACK = 4
"""So many tokens at the end of a prompt may be written otherwise once the answer stands behind it."""


class Chats(LocalPolicy):
    """Answer chats that come without a history of ours; keep keys and values of the newest ``slots`` conversations.

    An episode's row keeps the tokens as they were sampled. A chat comes as text, so here the whole chat is encoded
    anew each time, and what a conversation still holds is used as far as its tokens are the same ones: with the cache
    or without it, the model reads the same.
    """

    def __init__(
        self, model: Any, tokenizer: Any, *, slots: int = 16, max_new_tokens: int = 512, max_context: int | None = None
    ) -> None:
        """Wrap a model as ``models.load`` returns it; see ``LocalPolicy``.

        Raises:
            ValueError: No chat template, or a setting out of range.
        """
        if slots < 1 or (max_context is not None and max_context < 2):
            raise ValueError(f"expected slots >= 1 and max_context >= 2, got {slots} and {max_context}")
        super().__init__(model, tokenizer, max_new_tokens=max_new_tokens, max_context=max_context)
        self.slots = slots
        """Most chats of one ``answer``, and most conversations that are kept."""
        self.keep_states = False
        self._knows_tools = "tools" in str(tokenizer.chat_template)
        self._bytes = _Bytes(tokenizer)
        self._kept: dict[str, int] = {}
        """Conversation -> length of its last prompt; the one that was used last stands last."""
        self._n_begun = 0
        self._prompts: dict[str, list[int]] = {}
        """What each conversation is asked now."""

    def answer(self, chats: Sequence[Chat]) -> list[Reply | Refused]:
        """Return a reply for each of at most ``slots`` chats, or why there is none."""
        prompts = [self._prompt(chat) for chat in chats]
        asked = [(chat, ids) for chat, ids in zip(chats, prompts, strict=True) if not isinstance(ids, Refused)]
        replies: list[Reply] = []
        if asked:
            names = self._conversations([ids for _, ids in asked])
            self._prompts = {name: ids for name, (_, ids) in zip(names, asked, strict=True)}
            requests = [
                Request(name, "", chat.messages, seed=secrets.randbits(63) if chat.seed is None else chat.seed % 2**63)
                for name, (chat, _) in zip(names, asked, strict=True)
            ]
            try:
                actions = self.act(requests, [self._sampling(chat, len(ids)) for chat, ids in asked])
            except BaseException:
                self.forget(list(self._kept))  # what they hold is not known
                self._kept = {}
                raise
            for (chat, ids), action in zip(asked, actions, strict=True):
                assert isinstance(action, Action)
                replies.append(Reply(action, ids, self._spoken(action) if chat.logprobs else ()))
        rest = iter(replies)
        return [ids if isinstance(ids, Refused) else next(rest) for ids in prompts]

    def _prompt(self, chat: Chat) -> list[int] | Refused:
        """Return the chat as tokens."""
        messages: Sequence[Message] = chat.messages
        try:
            if not self._knows_tools:
                messages = as_text(messages, chat.tools)
            text = self._template.render(messages, chat.tools if self._knows_tools else ())
            ids = self._template.ids(text.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))
        except (TemplateError, TypeError, ValueError, LookupError, AttributeError, RecursionError) as error:
            return Refused(f"the model's chat template refuses these messages or tools: {error}", "messages")
        n_new = chat.max_tokens or 1
        if len(ids) + n_new > self.max_context:
            return Refused(
                f"the context holds {self.max_context} tokens; the messages have {len(ids)}, the answer needs {n_new}",
                "messages",
                code="context_length_exceeded",
            )
        return ids

    def _sampling(self, chat: Chat, n_prompt: int) -> Sampling:
        n_new = chat.max_tokens or min(self.max_new_tokens, self.max_context - n_prompt)
        return Sampling(chat.temperature, n_new, chat.stop, lambda: not chat.gone)

    def _conversations(self, prompts: Sequence[list[int]]) -> list[str]:
        """Return the conversation that each prompt goes on with, or a new one, in place of one not used for long."""
        taken: dict[int, str] = {}
        for i, ids in enumerate(prompts):
            best = 0
            for name, n in self._kept.items():
                if name in taken.values() or len(ids) <= n:
                    continue
                same = _same(self._rows[name, AGENT].ids, ids)
                if same >= n - SLACK and same > best:
                    best, taken[i] = same, name
        for i, ids in enumerate(prompts):
            if i not in taken:
                if len(self._kept) >= self.slots:
                    oldest = next(name for name in self._kept if name not in taken.values())
                    del self._kept[oldest]
                    self.forget([oldest])
                self._n_begun += 1
                taken[i] = str(self._n_begun)
            self._kept.pop(taken[i], None)
            self._kept[taken[i]] = len(ids)
        return [taken[i] for i in range(len(prompts))]

    def _plan(self, request: Request) -> tuple[int, list[int], str]:
        """Keep of the row what it has in common with the prompt, all but a token whose logits are needed."""
        ids = self._prompts[request.episode]
        keep = _same(self._rows.get((request.episode, AGENT), _Row()).ids, ids[:-1])
        return keep, ids[keep:], ""

    def _spoken(self, action: Action) -> list[Spoken]:
        assert action.tokens is not None
        ids, logprobs = action.tokens.ids.tolist(), action.tokens.logprobs.tolist()
        return [Spoken(self.tokenizer.decode([i]), self._bytes[i], p) for i, p in zip(ids, logprobs, strict=True)]


def _same(a: list[int], b: list[int]) -> int:
    """Return how many tokens two rows begin with alike."""
    n = min(len(a), len(b))
    if a[:n] == b[:n]:
        return n
    return next(i for i in range(n) if a[i] != b[i])


class _Bytes:
    """The bytes that a token stands for, which may be a part of a character."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._whole = {int(i): str(token) for i, token in tokenizer.added_tokens_decoder.items()}
        self._by_byte = "ByteLevel" in str(
            getattr(tokenizer, "backend_tokenizer", None) and tokenizer.backend_tokenizer.decoder
        )
        shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
        self._byte = {chr(b): b for b in shown}
        self._byte |= {chr(256 + i): b for i, b in enumerate(b for b in range(256) if b not in shown)}

    def __getitem__(self, token: int) -> bytes:
        text = self._whole.get(token)
        if text is not None:
            return text.encode()
        text = str(self._tokenizer.convert_ids_to_tokens(token))
        if self._by_byte:
            return bytes(self._byte[c] for c in text)
        if match := re.fullmatch(r"<0x([0-9A-F]{2})>", text):
            return bytes.fromhex(match[1])
        return text.replace("\u2581", " ").encode()
