"""The command ``milepost serve``: an OpenAI-compatible endpoint over a model in this process."""

from __future__ import annotations

import json
import signal
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, Literal

import tyro

from milepost.envs.files import clear_when_full
from milepost.envs.names import did_you_mean
from milepost.recipes.console import parse

LOOPBACK = ("127.", "::1", "localhost")
NAMES = ("smollm2", "tiny")


@dataclass
class ServeArgs:
    """Serve a model as an OpenAI-compatible endpoint: chat, tools and log-probabilities."""

    model: Annotated[str, tyro.conf.Positional]
    """``smollm2``, a run's folder or its ``model``, another folder, a hub name, or ``tiny`` (made here, for tests)."""
    host: str = "127.0.0.1"
    """Where to listen; anything but this machine lets others use the model."""
    port: int = 8000
    """0 takes any that is free."""
    dtype: Literal["fp32", "bf16"] = "fp32"
    """What the weights are kept in."""
    device: str = "cpu"
    """``cpu``, ``cuda`` or ``cuda:N``."""
    max_new_tokens: int = 512
    """Most tokens of an answer whose request does not say."""
    max_context: int | None = None
    """Most tokens of a chat with its answer; without it, the model's own limit."""
    slots: int = 16
    """Chats that are answered at once, and conversations whose keys and values are kept."""
    json: bool = False
    """Print ``{"base_url", "model"}`` as one line when it is ready."""


def command(argv: Sequence[str]) -> int:
    """Serve until Ctrl-C (exit code 130) or SIGTERM (0)."""
    args = parse(ServeArgs, argv, prog="milepost serve")
    before = signal.signal(signal.SIGTERM, _end)
    try:
        return serve(args)
    finally:
        signal.signal(signal.SIGTERM, before)


def serve(args: ServeArgs) -> int:
    """Listen, load the model, say so, and answer.

    Raises:
        ValueError: No such model, a port in use, a setting out of range.
    """
    from milepost.agents.local import server  # a package that is missing is told before a model is loaded
    from milepost.agents.local.chats import Chats

    listening, base_url = server.listen(args.host, args.port)
    with listening:
        model, tokenizer = _load(args)
        chats = Chats(
            model, tokenizer, slots=args.slots, max_new_tokens=args.max_new_tokens, max_context=args.max_context
        )
        runner = server.server(server.application(chats, args.model))
        if not args.host.startswith(LOOPBACK):
            print(f"warning: anyone who reaches {args.host} can use this model; it asks for no key", file=sys.stderr)
        print(f"serving {args.model} on {base_url}", file=sys.stderr, flush=True)
        if args.json:
            print(json.dumps({"base_url": base_url, "model": args.model}), flush=True)
        runner.run(sockets=[listening])
    return 0


def _load(args: ServeArgs) -> tuple[Any, Any]:
    from milepost.agents.local import models, tiny

    with models.quiet(), tempfile.TemporaryDirectory() as folder:
        name = args.model
        if name == "tiny":
            with clear_when_full(Path(folder)):
                tiny.build(folder)
            name = folder
        elif (Path(name) / "model" / "config.json").is_file():
            name = str(Path(name) / "model")
        elif name not in NAMES and "/" not in name and not Path(name).is_dir():
            raise ValueError(
                f"model {name!r}: no such folder{did_you_mean(name, NAMES)}; expected {' or '.join(NAMES)}, the folder "
                f"of a run or of a model, or a hub name (owner/name)"
            )
        return models.load(name, device=args.device, dtype=args.dtype)


def _end(signum: int, frame: FrameType | None) -> None:
    raise SystemExit(0)
