"""A trainer's state in one safetensors file: weights, optimizer, position and random states; no pickle."""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

SCHEMA = 1


def save(
    path: Path, weights: Mapping[str, Tensor], optimizer: torch.optim.Optimizer, position: Mapping[str, Any]
) -> None:
    """Write everything that the next update depends on to the file ``path``.

    Args:
        path: A file that does not exist yet; the caller makes the move into place atomic.
        weights: The trained parameters by name, in the optimizer's order.
        optimizer: Over the same parameters.
        position: Plain JSON.
    """
    tensors = {f"weights/{name}": p.detach().cpu().contiguous() for name, p in weights.items()}
    for name, p in weights.items():
        for key, value in optimizer.state.get(p, {}).items():
            tensors[f"optimizer/{name}/{key}"] = torch.as_tensor(value).detach().cpu().contiguous()
    meta = {"schema": SCHEMA, "position": dict(position), "random": _random_states()}
    save_file(tensors, str(path), metadata={"trainer": json.dumps(meta)})


def load(path: Path, weights: Mapping[str, Tensor], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Put the state at ``path`` into the parameters, the optimizer and the random generators; return the position.

    Nothing is changed unless everything fits.

    Raises:
        ValueError: The file is truncated, of a newer schema, or of another model.
    """
    try:
        with safe_open(str(path), framework="pt") as file:
            meta = json.loads((file.metadata() or {})["trainer"])
            tensors: dict[str, Tensor] = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise ValueError(f"no checkpoint at {path}") from None
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise ValueError(f"{path} is not a whole checkpoint of a trainer: {error}") from None
    if meta["schema"] > SCHEMA:
        raise ValueError(f"{path} has schema {meta['schema']}; this version reads up to {SCHEMA}")
    saved = {key.removeprefix("weights/"): value for key, value in tensors.items() if key.startswith("weights/")}
    _check_same(path, {n: tuple(t.shape) for n, t in saved.items()}, {n: tuple(p.shape) for n, p in weights.items()})
    with torch.no_grad():
        for name, p in weights.items():
            p.copy_(saved[name])
            prefix = f"optimizer/{name}/"
            state = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
            if state:
                optimizer.state[p] = {k: v if k == "step" else v.to(p.device) for k, v in state.items()}
            else:
                optimizer.state.pop(p, None)
    _set_random_states(meta["random"])
    return dict(meta["position"])


def _check_same(path: Path, saved: dict[str, tuple[int, ...]], here: dict[str, tuple[int, ...]]) -> None:
    if saved == here:
        return
    name = next(n for n in [*here, *saved] if saved.get(n) != here.get(n))
    raise ValueError(
        f"{path} is a checkpoint of another model: {name} is {saved.get(name, 'absent')} there, "
        f"{here.get(name, 'absent')} here"
    )


def _random_states() -> dict[str, Any]:
    kind, keys, *rest = np.random.get_state(legacy=True)
    return {
        "torch": base64.b64encode(torch.get_rng_state().numpy().tobytes()).decode(),
        "numpy": [kind, np.asarray(keys).tolist(), *rest],
        "python": random.getstate(),
    }


def _set_random_states(states: Mapping[str, Any]) -> None:
    torch.set_rng_state(torch.frombuffer(bytearray(base64.b64decode(states["torch"])), dtype=torch.uint8))
    kind, keys, *rest = states["numpy"]
    np.random.set_state((kind, np.array(keys, np.uint32), *rest))
    version, internal, gauss = states["python"]
    random.setstate((version, tuple(internal), gauss))
