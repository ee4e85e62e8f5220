"""Data parallel by torchrun: one thread a process, gloo on the CPU; everything is a no-op in a single process."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch import distributed as dist

from milepost.sandbox.core import MachineError
from milepost.sandbox.process import die_with_parent

if TYPE_CHECKING:
    from collections.abc import Iterator


class RankLostError(MachineError):
    """Another process of this run is gone."""


def init(device: str = "cpu", timeout_s: float = 1800.0) -> bool:
    """Join the processes that torchrun started, one thread each; return whether there are several.

    torchrun says who is who in the variables it sets (``WORLD_SIZE`` and its like); without them nothing happens.

    Args:
        device: Where the model runs; with ``cuda`` every process takes a GPU of its own.
        timeout_s: How long one rank may wait for the others before it counts them as lost, in seconds.

    Raises:
        ValueError: There are more processes than GPUs.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return False
    if not dist.is_initialized():
        die_with_parent(os.getppid())  # the launcher: killed outright, it cannot end its ranks itself
        torch.set_num_threads(1)
        on_gpu = device.startswith("cuda") and torch.cuda.is_available()
        if on_gpu:
            torch.cuda.set_device(own_gpu(int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()))
        backend = "cpu:gloo,cuda:nccl" if on_gpu else "gloo"
        dist.init_process_group(backend, timeout=timedelta(seconds=timeout_s))
    return True


def own_gpu(place: int, n_gpus: int) -> int:
    """Return the GPU of a machine's process number ``place``, from 0.

    Raises:
        ValueError: There are not so many.
    """
    if place >= n_gpus:
        raise ValueError(
            f"device cuda: process {place + 1} of this machine needs a GPU of its own, got {n_gpus}: "
            f"start {n_gpus} (make train PROCESSES={n_gpus})"
        )
    return place


def close() -> None:
    """Leave the group, where there is one."""
    if dist.is_initialized():
        dist.destroy_process_group()


def rank() -> int:
    """Return which process this is; 0 is the one that writes."""
    return dist.get_rank() if dist.is_initialized() else 0


def world() -> int:
    """Return how many processes work together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def share(items: Sequence[Any]) -> list[Any]:
    """Return this rank's part of ``items``: every world-th one, so that sizes differ by at most one."""
    return list(items[rank() :: world()])


def gather(value: object) -> list[Any]:
    """Return every rank's ``value``, in the order of ranks."""
    if world() == 1:
        return [value]
    values: list[Any] = [None] * world()
    with _others_alive():
        dist.all_gather_object(values, value)
    return values


def barrier() -> None:
    """Wait for all ranks."""
    gather(None)


def sum_tensors(tensors: Iterable[Tensor]) -> None:
    """Replace each tensor by its sum over ranks, in one message."""
    tensors = list(tensors)
    if world() == 1 or not tensors:
        return
    flat = torch.cat([t.reshape(-1) for t in tensors])
    with _others_alive():
        dist.all_reduce(flat)
    for tensor, part in zip(tensors, torch.split(flat, [t.numel() for t in tensors]), strict=True):
        tensor.copy_(part.view_as(tensor))


def copy_from_first(tensors: Iterable[Tensor]) -> None:
    """Replace each tensor by that of rank 0."""
    if world() > 1:
        with _others_alive():
            for tensor in tensors:
                dist.broadcast(tensor, 0)


def sum_numbers(numbers: Mapping[str, float]) -> dict[str, float]:
    """Return the sums over ranks; every rank must have the same keys."""
    ranks = gather(dict(numbers))
    return {key: sum(rank_numbers[key] for rank_numbers in ranks) for key in numbers}


@contextmanager
def _others_alive() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1][:200]
        raise RankLostError(
            f"rank {rank()} of {world()}: another process of this run died or hangs ({reason}); "
            "its own message says why, and --resume goes on from the last checkpoint"
        ) from None
