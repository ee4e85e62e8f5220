"""The command ``milepost mcp``: serve an environment to an agent that speaks the Model Context Protocol."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from milepost.recipes.console import did_you_mean, parse, read_option

if TYPE_CHECKING:
    from milepost.envs.hosted import Hosted


@dataclass
class Args:
    """Serve an environment as an MCP server; the agent calls its tools, or ``act(text)`` where it has none."""

    env: Annotated[str, tyro.conf.Positional]
    """Gymnasium id; ``module:id`` imports the module first, the current folder included."""
    option: Annotated[list[str], tyro.conf.UseAppendAction] = field(default_factory=list)
    """An option of the environment as ``name=value``; may be given several times."""
    seed: int | None = None
    """Of an episode for which the agent names neither seed nor task; without it 0, then 1 and so on."""
    task: str | None = None
    """Likewise; without it, the one that the seed gives."""
    split: str | None = None
    """Play a task of this split, the seed says which."""
    transport: Literal["stdio", "http"] = "stdio"
    """How the client connects: it starts this command, or it is given the address."""
    host: str = "127.0.0.1"
    """For http. Anyone who reaches the port can play."""
    port: int = 8765
    """For http; 0 is any that is free."""
    out: Path | None = None
    """Append every episode to this run folder."""


def command(argv: Sequence[str]) -> int:
    """Serve an environment until the client or the user ends it."""
    args = parse(Args, argv, prog="milepost mcp")
    from milepost.envs.mcp_server import PATH, EnvServer, bound

    options = dict(read_option(text) for text in args.option)
    make = partial(_host, args, options)
    if args.transport == "stdio":
        EnvServer(make).serve_stdio()
        return 0
    with bound(args.host, args.port) as sock:
        server = EnvServer(make)
        host = f"[{args.host}]" if ":" in args.host else args.host
        url = f"http://{host}:{sock.getsockname()[1]}{PATH}"
        print(f"milepost: serving {args.env} at {url}", file=sys.stderr, flush=True)
        server.serve_http(args.host, sock)
    return 0


def _host(args: Args, options: dict[str, Any]) -> Hosted:
    """Make the environment, and open the run folder where one is asked for."""
    from milepost.envs.hosted import Hosted
    from milepost.envs.make import make
    from milepost.envs.runs import Run

    env = make(args.env, **options)
    try:
        task = args.task if args.split is None else _task(env, args.split, args.seed, args.task)
        hosted = Hosted(env, args.seed, task)
        if args.out is not None:
            hosted.record_in(Run.open(args.out, "mcp", {"env": args.env, "options": options}, resume=True))
    except BaseException:
        env.close()
        raise
    return hosted


def _task(env: Any, split: str, seed: int | None, task: str | None) -> str:
    tasks = env.get_wrapper_attr("tasks")(split) if env.has_wrapper_attr("tasks") else None
    if not tasks:
        raise ValueError(f"--split {split}: expected an environment with a list of tasks, {env.spec.id} has none")
    if task is not None and task not in tasks:
        raise ValueError(f"--task: expected one of split {split}, got {task!r}{did_you_mean(task, tasks)}")
    return task if task is not None else str(tasks[(seed or 0) % len(tasks)])
