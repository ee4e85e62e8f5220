"""A copy of a peft model for sampling, its adapters merged into the weights and all else shared."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM


@torch.no_grad()
def merged(model: Any, into: Any = None, *, adapters: bool = True) -> Any:
    """Return a plain model that computes what ``model`` does, refreshing ``into`` where it is such a copy.

    A model without adapters is returned itself. Only the adapted matrices take memory of their own; with
    ``adapters=False``, the model below its adapters, nothing does.
    """
    if not hasattr(model, "peft_config"):
        return model
    base = model.get_base_model()
    if into is None or into is model:
        with torch.device("meta"):
            auto: Any = AutoModelForCausalLM
            into = auto.from_config(base.config, dtype=base.dtype)
        into.eval()
    modules = dict(base.named_modules())
    for name, target in into.named_modules():
        source = modules[name]
        for key in target._parameters:
            own = target._parameters[key]
            if hasattr(source, "base_layer"):
                weight = getattr(source.base_layer, key)
                if weight is not None and key == "weight" and adapters:
                    weight = _weight(source, own)
                target._parameters[key] = _frozen(weight, own)
            else:
                target._parameters[key] = getattr(source, key)
        for key in target._buffers:
            target._buffers[key] = getattr(source, key)
    into.config._attn_implementation = base.config._attn_implementation
    return into


def _weight(layer: Any, own: Tensor | None) -> Tensor:
    weight: Tensor = layer.base_layer.weight
    if layer.disable_adapters or not layer.active_adapters:
        return weight
    total = weight.float()
    for name in layer.active_adapters:
        if name in layer.lora_A:
            up, down = layer.lora_B[name].weight.float(), layer.lora_A[name].weight.float()
            total = torch.addmm(total, up, down, alpha=layer.scaling[name])
    if own is None or own.device.type == "meta":
        return total.to(weight.dtype)
    return own.copy_(total)


def _frozen(weight: Tensor | None, own: Any) -> Any:
    if weight is None or weight is own:
        return own
    return torch.nn.Parameter(weight.detach(), requires_grad=False)
