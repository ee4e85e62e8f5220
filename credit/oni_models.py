"""The reward models of ONI: a convolutional network over the characters of a caption, and its training.

B captions, S symbols of a caption, E width of a symbol, C channels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

Head = Literal["classification", "ranking"]
"""Whether a score is the log-odds of progress, or a worth that is compared with another caption's."""
KERNELS = ((7, True), (7, True), (3, False), (3, False), (3, False), (3, True))
"""Of each convolution: its kernel, and whether pooling by 3 follows (where is unverified: as in Zhang et al. 2015)."""


class CharCNN(nn.Module):
    """Captions to scores: embedding, six convolutions with pooling, two hidden layers.

    A caption is its first ``length`` bytes in UTF-8; what differs only beyond them looks the same. The sizes but
    ``length`` are the published ones.
    """

    def __init__(
        self,
        *,
        symbols: int = 256,
        embedding: int = 32,
        channels: int = 64,
        hidden: int = 512,
        dropout: float = 0.1,
        length: int = 256,
    ) -> None:
        super().__init__()
        self.symbols, self.length = symbols, length
        self.embedding = nn.Embedding(symbols, embedding)
        layers: list[nn.Module] = []
        width, size = embedding, length
        for kernel, pooled in KERNELS:
            layers += [nn.Conv1d(width, channels, kernel, padding=kernel // 2), nn.ReLU()]
            width = channels
            if pooled:
                layers.append(nn.MaxPool1d(3))
                size //= 3
        if size < 1:
            raise ValueError(
                f"length: expected at least 27 bytes, which three poolings by 3 leave one of, got {length}"
            )
        self.convolutions = nn.Sequential(*layers)
        self.mlp = nn.Sequential(
            nn.Linear(channels * size, hidden),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, 1),
        )

    def forward(self, ids_BS: Tensor) -> Tensor:
        """Return ``[B]`` a score for each row of ``encode``."""
        features_BCS = self.convolutions(self.embedding(ids_BS).transpose(1, 2))
        scores_B1: Tensor = self.mlp(features_BCS.flatten(1))
        return scores_B1.squeeze(1)

    def encode(self, captions: Sequence[str]) -> Tensor:
        """Return ``[B, S]`` the bytes of captions, zeros behind their ends."""
        ids = np.zeros((len(captions), self.length), np.int64)
        for row, caption in zip(ids, captions, strict=True):
            found = np.frombuffer(caption.encode("utf-8", "replace")[: self.length], np.uint8).astype(np.int64)
            row[: len(found)] = found % self.symbols
        return torch.from_numpy(ids).to(self.embedding.weight.device)


def classification_loss(scores_B: Tensor, labels_B: Tensor) -> Tensor:
    """Return the mean cross-entropy of ``p = sigmoid(score)`` with labels of 0 or 1, in nats."""
    return functional.binary_cross_entropy_with_logits(scores_B, labels_B)


def ranking_loss(scores_B2: Tensor, labels_B2: Tensor) -> Tensor:
    """Return the mean of ``-sum_k y_k log softmax(r_1, r_2)_k`` over pairs with soft labels, in nats."""
    return -(labels_B2 * scores_B2.log_softmax(1)).sum(1).mean()


class CaptionModel:
    """A network with its optimizer. What it draws depends on ``seed`` and the train steps taken, on nothing else.

    Args:
        head: What a score means, and so which loss it is trained by.
        steps: Train steps of one ``fit``.
        batch: Labels in one train step; all of them, while there are fewer.
        lr: Of Adam.
        clip: Most norm of a gradient; None: any.
        sizes: Arguments of ``CharCNN`` other than the published ones.
    """

    def __init__(
        self,
        head: Head,
        *,
        seed: int = 0,
        device: str | torch.device = "cpu",
        steps: int = 32,
        batch: int = 256,
        lr: float = 1e-4,
        clip: float | None = None,
        **sizes: Any,
    ) -> None:
        if head not in get_args(Head):
            raise ValueError(f"head: expected one of {', '.join(get_args(Head))}, got {head!r}")
        self.head, self.seed, self.steps, self.batch, self.clip = head, seed, steps, batch, clip
        self.device = torch.device(device)
        with self._own_randomness(0):
            self.network = CharCNN(**sizes).to(self.device)
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=lr)
        self.n_steps = 0

    @torch.no_grad()
    def scores(self, captions: Sequence[str]) -> list[float]:
        """Return a score for each caption: log-odds of progress, or its worth."""
        self.network.eval()
        found: list[float] = []
        for start in range(0, len(captions), self.batch):
            found += self.network(self.network.encode(captions[start : start + self.batch])).tolist()
        return found

    def fit(self, items: Sequence[tuple[str, ...]], labels: Sequence[float | Sequence[float]]) -> float:
        """Take the train steps on labelled captions or pairs; return the mean loss, in nats."""
        self.network.train()
        total = 0.0
        for _ in range(self.steps):
            self.n_steps += 1
            random = np.random.default_rng([self.seed, self.n_steps])
            chosen = random.choice(len(items), min(self.batch, len(items)), replace=False)
            captions = [caption for i in chosen for caption in items[i]]
            target = torch.tensor([labels[i] for i in chosen], device=self.device)
            with self._own_randomness(self.n_steps):
                scores = self.network(self.network.encode(captions)).view(target.shape)
            loss = (
                classification_loss(scores, target) if self.head == "classification" else ranking_loss(scores, target)
            )
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            if self.clip is not None:
                nn.utils.clip_grad_norm_(self.network.parameters(), self.clip)
            self.optimizer.step()
            total += loss.item()
        return total / self.steps

    def state_dict(self) -> dict[str, Any]:
        """Return weights, optimizer and the count of train steps."""
        own = {"network": self.network.state_dict(), "optimizer": self.optimizer.state_dict(), "n_steps": self.n_steps}
        return deepcopy(own)  # else training on would change what was saved

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what ``state_dict`` returned."""
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(deepcopy(state["optimizer"]))
        self.n_steps = state["n_steps"]

    @contextmanager
    def _own_randomness(self, n: int) -> Iterator[None]:
        """Draw from ``seed`` and ``n``, and leave the process's generators as they were."""
        gpus = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=gpus):
            seed = int(np.random.SeedSequence([self.seed, n]).generate_state(1)[0])
            torch.default_generator.manual_seed(seed)  # torch.manual_seed would touch the generators of other devices
            for gpu in gpus:
                with torch.cuda.device(gpu):
                    torch.cuda.manual_seed(seed)
            yield
