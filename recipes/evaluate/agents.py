"""From what ``--agent`` says to a policy of the driver."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from milepost.agents import function
from milepost.agents.context import Context, LastTurns, TokenBudget
from milepost.agents.core import Policy
from milepost.agents.gather import How
from milepost.agents.scaffolded import Scaffolded
from milepost.agents.scaffolds import Scaffold, scaffold
from milepost.agents.scripted import OraclePolicy, RandomPolicy
from milepost.envs.core import Episode
from milepost.envs.names import did_you_mean
from milepost.sandbox.process import room_for

if TYPE_CHECKING:
    from milepost.agents.local.policy import LocalPolicy
    from milepost.recipes.evaluate.settings import Settings

REFERENCES: dict[str, Callable[[], Policy]] = {"oracle": OraclePolicy, "random": RandomPolicy}
"""Policies that look into the environment."""
KINDS = ("openai", "local", "exec")
FORMS = "oracle, random, openai:MODEL, local:FOLDER, module:function or exec:COMMAND"
LOCAL_MAX_TOKENS = 64
"""Most tokens of a local model's answer, where nothing says."""


@dataclass
class Agent:
    """Who is evaluated."""

    name: str
    policy: Policy
    gather: How = "greedy"
    local: LocalPolicy | None = None
    """The model in this process, for credit methods that score with it."""
    scaffold: Scaffold | None = None
    context: str | None = None
    close: Callable[[], None] = lambda: None

    def scaffold_of(self, episode: Episode) -> dict[str, Any] | None:
        """Return what a record says of how the agent was asked; None where nothing stood between."""
        if self.scaffold is None and self.context is None:
            return None
        name, text = (self.scaffold.name, self.scaffold.instructions(episode.tools)) if self.scaffold else (None, "")
        return {"name": name, "text": text, "context": self.context}


def name_of(agent: object) -> str:
    """Return how an agent is called in records.

    Raises:
        ValueError: It is no agent, or of no known kind.
    """
    if isinstance(agent, str):
        kind, colon, rest = agent.partition(":")
        if agent in REFERENCES or (colon and rest and kind):
            return agent
        guess = did_you_mean(kind, [*REFERENCES, *(f"{name}:..." for name in KINDS)])
        raise ValueError(f"no agent {agent!r}{guess}; expected {FORMS}")
    if hasattr(agent, "act"):
        return type(agent).__name__
    if callable(agent):
        return f"{getattr(agent, '__module__', '')}:{getattr(agent, '__qualname__', type(agent).__name__)}"
    raise ValueError(f"agent: expected a text, a policy or a function, got {agent!r}")


def agent_of(agent: object, settings: Settings) -> Agent:
    """Return an agent that is ready to play.

    Raises:
        ValueError: There is no such model, module or function, a key or a flag is missing: one line.
        Unreachable: Nothing answers at the endpoint.
    """
    name = name_of(agent)
    if settings.max_cost is not None and (name in REFERENCES or name.startswith("local:")):
        raise ValueError(f"--max-cost: {name} costs nothing that is known")
    made = _made(agent, name, settings)
    reference = bool(getattr(made.policy, "reference", False))
    if reference and (settings.scaffold or settings.context):
        raise ValueError(f"{name} looks into the environment: --scaffold and --context are for other agents")
    form = settings.scaffold or ("act" if made.local else None)  # it calls no tool natively: they are told it as text
    if form or settings.context:
        made.scaffold, made.context = scaffold(form) if form else None, settings.context
        made.policy = Scaffolded(made.policy, made.scaffold, _context(made.context) if made.context else None)
    return made


def _made(agent: object, name: str, settings: Settings) -> Agent:
    if not isinstance(agent, str):
        if hasattr(agent, "act"):
            return Agent(name, agent)  # type: ignore[arg-type]
        assert callable(agent)
        return Agent(name, function.FunctionPolicy(agent))
    if agent in REFERENCES:
        return Agent(name, REFERENCES[agent]())
    kind, _, rest = agent.partition(":")
    if kind == "openai":
        return _remote(name, rest, settings)
    if kind == "local":
        return _local(name, rest, settings)
    if kind == "exec":
        from milepost.agents.process import ProcessPolicy

        process = ProcessPolicy(rest)
        return Agent(name, process, close=process.close)
    try:
        return Agent(name, function.load(agent))
    except ValueError as error:
        guess = did_you_mean(kind, KINDS)
        raise ValueError(f"{error}{guess and f'{guess[:-3]}:{rest}{guess[-3:]}'}") from None


def _context(text: str) -> Context:
    """Return the context of ``last:8`` or ``tokens:4000``."""
    kind, _, number = text.partition(":")
    kinds: dict[str, Callable[[int], Context]] = {"last": LastTurns, "tokens": TokenBudget}
    if kind not in kinds or not number.isdecimal():
        raise ValueError(f"--context: expected last:8 (turns) or tokens:4000, got {text!r}")
    return kinds[kind](int(number))


def _remote(name: str, model: str, settings: Settings) -> Agent:
    from milepost.agents.remote import EndpointPolicy
    from milepost.envs.completions import read_prices
    from milepost.envs.endpoint import Endpoint

    prices = read_prices(settings.prices) if settings.prices else None
    if settings.max_cost is not None and model not in (prices or {}):
        where = f"{settings.prices} has none of {model}" if settings.prices else "give --prices FILE"
        raise ValueError(f"--max-cost needs the price of {model}: {where}")
    room_for(settings.concurrency)
    endpoint = Endpoint(settings.base_url, per_minute=settings.per_minute, prices=prices)
    _apart(_find_model, Endpoint(settings.base_url, timeout_s=20.0, tries=3), model)
    policy = EndpointPolicy(endpoint, model, temperature=settings.temperature, max_tokens=settings.max_tokens)
    return Agent(name, policy)


async def _find_model(endpoint: Any, model: str) -> None:
    """Refuse a model that the endpoint does not list; one that has no list is believed."""
    from milepost.envs.endpoint import Unreachable
    from milepost.sandbox.core import EndpointError

    try:
        names = await endpoint.models()
    except Unreachable:
        raise
    except (EndpointError, ValueError) as error:
        if any(f": {status}: " in str(error) for status in (401, 403)):
            raise
        return
    finally:
        await endpoint.aclose()
    if names and model not in names:
        listed = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
        raise ValueError(f"{endpoint.base_url} has no model {model!r}{did_you_mean(model, names)}; it has {listed}")


def _apart(ask: Callable[..., Any], *args: Any) -> None:
    """Run a coroutine to its end in a thread, so that it does not matter whether an event loop runs in this one."""
    with ThreadPoolExecutor(1) as thread:
        thread.submit(lambda: asyncio.run(ask(*args))).result()


def _local(name: str, folder: str, settings: Settings) -> Agent:
    from milepost.agents.local import models, tiny
    from milepost.agents.local.policy import LocalPolicy

    with models.quiet(), tempfile.TemporaryDirectory() as made:
        if folder == "tiny":
            tiny.build(made)
        dtype: models.Dtype = "fp32" if settings.credit else "bf16"  # methods may train a model beside it
        model, tokenizer = models.load(made if folder == "tiny" else folder, device=settings.device, dtype=dtype)
    policy = LocalPolicy(
        model,
        tokenizer,
        temperature=settings.temperature or 0.0,
        max_new_tokens=settings.max_tokens or LOCAL_MAX_TOKENS,
        stop=(),
    )
    return Agent(name, policy, gather="round", local=policy)
