"""Run a causal language model over many growing rows of tokens, keeping keys and values between calls.

A row is known by a key and lives in a slot of preallocated buffers; only what a row has not been fed yet is computed.
Slots are exchanged so that the rows of a step lie side by side: a step then reads views of the buffers, not copies.

Shape letters: B rows of a step, L new tokens of the longest, S tokens behind and with it, K key heads, D their size,
V vocabulary.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import Cache

PREFILL_TOKENS = 1024
"""Most tokens, with padding, of one forward of several rows."""
CHUNK = 512
"""Most new tokens of a row in one forward: the scores of a longer piece outgrow what malloc keeps, and page faults
then take most of the time."""
WORTH_COPYING = 8
"""Fewer new tokens than this are computed again rather than copied from an equal row."""


class Slots(Cache):
    """Keys and values of all rows, per layer ``[n_slots, K, capacity, D]``, written in place."""

    def __init__(self) -> None:
        super().__init__(layers=[])
        self.n_slots = 0
        self.capacity = 0
        self.buffers: list[tuple[Tensor, Tensor]] = []
        self.starts: list[int] = []
        """Of each row of the step: how many tokens it has behind it. The rows lie in the first slots."""
        self.counts: list[int] = []
        """Of each row of the step: how many new tokens it has."""
        self.ends: Tensor | None = None
        """``starts`` as a tensor, where every row has one new token."""
        self.size = 0
        self.below: Tensor | None = None
        """What enters the layer that the engine listens to, ``[n_slots, 1, capacity, D]``."""

    def listen(self, states: Tensor) -> None:
        """Write ``[B, L, D]``, what enters a layer, behind each row."""
        if self.below is None:
            self.below = self._new(states[:, None])
        for i, (start, count) in enumerate(zip(self.starts, self.counts, strict=True)):
            self.below[i, 0, start : start + count] = states[i, :count]

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Write ``[B, K, L, D]`` behind each row and return views of all its ``[B, K, S, D]``."""
        n = len(self.starts)
        if layer_idx == len(self.buffers):
            self.buffers.append(tuple(self._new(x) for x in (key_states, value_states)))  # type: ignore[arg-type]
        keys, values = self.buffers[layer_idx]
        for buffer, new in ((keys, key_states), (values, value_states)):
            if self.ends is not None:
                buffer[torch.arange(n, device=new.device), :, self.ends] = new[:, :, 0].to(buffer.dtype)
            else:
                for i, (start, count) in enumerate(zip(self.starts, self.counts, strict=True)):
                    buffer[i, :, start : start + count] = new[i, :, :count]
        return keys[:n, :, : self.size], values[:n, :, : self.size]

    def reserve(self, n_slots: int, capacity: int) -> None:
        """Make room for so many rows of so many tokens; the number of rows grows by half, their length by an eighth."""
        if n_slots <= self.n_slots and capacity <= self.capacity:
            return
        if n_slots > self.n_slots:
            self.n_slots = max(n_slots, self.n_slots * 3 // 2, 4)
        if capacity > self.capacity:
            self.capacity = -(-max(capacity, self.capacity * 9 // 8) // 64) * 64
        for i, (keys, values) in enumerate(self.buffers):  # layer by layer: never all of them twice
            self.buffers[i] = self._grown(keys), self._grown(values)
        self.below = None if self.below is None else self._grown(self.below)

    def copy(self, source: int, target: int, n: int) -> None:
        """Copy the first ``n`` tokens of a slot to another."""
        for x in self._all():
            x[target, :, :n] = x[source, :, :n]

    def swap(self, a: int, b: int, n: int) -> None:
        """Exchange the first ``n`` tokens of two slots."""
        for x in self._all():
            kept = x[a, :, :n].clone()
            x[a, :, :n] = x[b, :, :n]
            x[b, :, :n] = kept

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Return how many tokens the longest row of the step has behind it."""
        return max(self.starts, default=0)

    def _all(self) -> Iterator[Tensor]:
        for pair in self.buffers:
            yield from pair
        if self.below is not None:
            yield self.below

    def _grown(self, old: Tensor) -> Tensor:
        new = self._new(old)
        new[: old.shape[0], :, : old.shape[2]] = old
        return new

    def _new(self, like: Tensor) -> Tensor:
        # Zeros, because what stands behind a row is multiplied by a weight of 0, and 0 times a NaN is a NaN.
        return torch.zeros(
            (self.n_slots, like.shape[1], self.capacity, like.shape[3]), dtype=like.dtype, device=like.device
        )


class Engine:
    """Rows of tokens through one model, each token once."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.cache = Slots()
        self._listening: Any = None
        self.n_computed = 0
        """Tokens forwarded so far, without padding."""
        self._keys: list[Hashable] = []
        """Slot -> its row's key."""
        self._slot: dict[Hashable, int] = {}
        self._fed: dict[Hashable, int] = {}
        self._prompts: dict[tuple[int, ...], Hashable] = {}
        self._prompt_of: dict[Hashable, tuple[int, ...]] = {}

    def listen(self, layer: int) -> None:
        """Keep what enters this layer for every token of every row; see ``states``. Rows fed before are forgotten."""
        self.clear()
        if self._listening is not None:
            self._listening.remove()
        backbone = getattr(self.model, self.model.base_model_prefix)

        def keep(module: Any, inputs: tuple[Tensor, ...], named: dict[str, Any]) -> None:
            if named.get("past_key_values") is self.cache:  # a model without adapters is forwarded by its trainer, too
                self.cache.listen(inputs[0])

        self._listening = backbone.layers[layer].register_forward_pre_hook(keep, with_kwargs=True)

    def states(self, key: Hashable) -> Tensor | None:
        """[fed, D] what entered the layer that is listened to, for every token that the row was fed."""
        if key not in self._slot or self.cache.below is None:
            return None
        return self.cache.below[self._slot[key], 0, : self._fed[key]].clone()

    def forget(self, keys: Sequence[Hashable]) -> None:
        """Free the slots of these rows; unknown keys are ignored."""
        for key in keys:
            if key not in self._slot:
                continue
            last = len(self._keys) - 1
            self._exchange(self._slot[key], last)
            self._keys.pop()
            del self._slot[key], self._fed[key]
            self._drop_prompt(key)
        if not self._keys:
            self.cache = Slots()

    def clear(self) -> None:
        """Forget all rows, because the weights changed."""
        self.forget(list(self._keys))

    def truncate(self, key: Hashable, n: int) -> None:
        """Let a row go on from its first ``n`` tokens."""
        if self._fed.get(key, 0) > n:
            self._fed[key] = n
            if len(self._prompt_of.get(key, ())) > n:
                self._drop_prompt(key)

    @torch.no_grad()
    def feed(self, keys: Sequence[Hashable], rows: Sequence[Sequence[int]]) -> Tensor:
        """[B, V] fp32 logits behind each row, computing only what its key has not been fed yet.

        New rows that are equal are computed once and copied, also from a row that began so and still lives.
        """
        if not self.model.training:  # the walk over all modules costs a tenth of a step
            return self._feed(keys, rows)
        self.model.eval()
        try:
            return self._feed(keys, rows)
        finally:
            self.model.train()

    def _feed(self, keys: Sequence[Hashable], rows: Sequence[Sequence[int]]) -> Tensor:
        self.cache.reserve(len(set(self._keys) | set(keys)), max(map(len, rows)))
        followers: dict[int, int] = {}
        histories: dict[tuple[int, ...], int] = {}
        for i, key in enumerate(keys):
            if key not in self._slot:
                self._slot[key] = len(self._keys)
                self._keys.append(key)
                self._fed[key] = 0
            if self._fed[key] == 0 and (leader := self._adopt(key, rows[i])) is not None and leader in keys:
                place = keys.index(leader)
                if self._fed[leader] == 0 and len(rows[place]) == len(rows[i]):
                    followers[i] = place
            elif (
                0 < self._fed[key] < len(rows[i]) - WORTH_COPYING
                and (place := histories.setdefault(tuple(rows[i]), i)) != i
            ):
                followers[i] = place  # the same history as another attempt, turn by turn
        logits: list[Tensor | None] = [None] * len(keys)
        own = [i for i in range(len(keys)) if i not in followers]
        for i in own:
            while len(rows[i]) - self._fed[keys[i]] > CHUNK:
                self._forward([keys[i]], [rows[i][: self._fed[keys[i]] + CHUNK]])
        for batch in self._batches([(i, len(rows[i]) - self._fed[keys[i]]) for i in own]):
            for i, row in zip(batch, self._forward([keys[i] for i in batch], [rows[i] for i in batch]), strict=True):
                logits[i] = row
        for i, leader_place in followers.items():
            self.cache.copy(self._slot[keys[leader_place]], self._slot[keys[i]], len(rows[i]))
            self._fed[keys[i]] = len(rows[i])
            logits[i] = logits[leader_place]
        return torch.stack([x for x in logits if x is not None])

    def _adopt(self, key: Hashable, row: Sequence[int]) -> Hashable | None:
        """Take over keys and values of a row that began with this one; return the row that has, or will have, them."""
        prompt = tuple(row)
        leader = self._prompts.get(prompt)
        if leader is None or leader == key:
            self._drop_prompt(key)
            self._prompts[prompt], self._prompt_of[key] = key, prompt
            return None
        if self._fed[leader] >= len(row):
            self.cache.copy(self._slot[leader], self._slot[key], len(row) - 1)
            self._fed[key] = len(row) - 1  # the last token is fed again, for its logits
        return leader

    @staticmethod
    def _batches(sizes: Sequence[tuple[int, int]]) -> list[list[int]]:
        """Return the indices in batches of similar length, the longest first."""
        batches: list[list[int]] = []
        width = 0
        for i, n in sorted(sizes, key=lambda x: -x[1]):
            if batches and (len(batches[-1]) + 1) * width <= PREFILL_TOKENS and 2 * n >= width - 8:
                batches[-1].append(i)
            else:
                batches.append([i])
                width = n
        return batches

    def _forward(self, keys: Sequence[Hashable], rows: Sequence[Sequence[int]]) -> Tensor:
        order = self._arrange(keys)
        keys, rows = [keys[i] for i in order], [rows[i] for i in order]
        cache, device = self.cache, self.model.device
        cache.starts = [self._fed[key] for key in keys]
        cache.counts = [len(row) - start for row, start in zip(rows, cache.starts, strict=True)]
        n, width = len(rows), max(cache.counts)
        # A product over a part of the buffers would copy it first: a step of one token reads all of them, masked.
        cache.size = cache.capacity if width == 1 else max(map(len, rows))
        ids = torch.zeros(n, width, dtype=torch.long)
        for i, row in enumerate(rows):
            ids[i, : cache.counts[i]] = torch.tensor(row[cache.starts[i] :])
        starts = torch.tensor(cache.starts, device=device)
        cache.ends = starts if width == 1 else None
        positions = (starts[:, None] + torch.arange(width, device=device)).clamp(max=cache.size - 1)
        hidden = torch.arange(cache.size, device=device) > positions[:, :, None]
        mask = torch.zeros(n, 1, width, cache.size, dtype=self.model.dtype, device=device)
        mask.masked_fill_(hidden[:, None], float("-inf"))
        backbone = getattr(self.model, self.model.base_model_prefix)
        states = backbone(
            input_ids=ids.to(device),
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state
        last = torch.tensor(cache.counts, device=device) - 1
        logits: Tensor = self.model.get_output_embeddings()(states[torch.arange(n, device=device), last]).float()
        if cap := getattr(self.model.config, "final_logit_softcapping", None):
            logits = (logits / cap).tanh() * cap
        for key, row in zip(keys, rows, strict=True):
            self._fed[key] = len(row)
        self.n_computed += sum(cache.counts)
        back = torch.empty(n, dtype=torch.long)
        back[torch.tensor(order)] = torch.arange(n)
        return logits[back.to(device)]

    def _arrange(self, keys: Sequence[Hashable]) -> list[int]:
        """Bring these rows into the first slots with as few exchanges as it takes; return their order there."""
        n, wanted = len(keys), set(keys)
        free = [slot for slot in range(n) if self._keys[slot] not in wanted]
        for key in keys:
            if self._slot[key] >= n:
                self._exchange(self._slot[key], free.pop())
        return sorted(range(n), key=lambda i: self._slot[keys[i]])

    def _exchange(self, a: int, b: int) -> None:
        if a == b:
            return
        first, second = self._keys[a], self._keys[b]
        self.cache.swap(a, b, max(self._fed[first], self._fed[second]))
        self._keys[a], self._keys[b] = second, first
        self._slot[first], self._slot[second] = b, a

    def _drop_prompt(self, key: Hashable) -> None:
        prompt = self._prompt_of.pop(key, None)
        if prompt is not None and self._prompts.get(prompt) == key:
            del self._prompts[prompt]
