"""The one table from a method's name to what it is; ``module:Class`` takes anyone's."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from collections.abc import Callable
from difflib import get_close_matches
from typing import Any

from milepost.credit.cards import Card, card_of
from milepost.credit.core import Credit

TABLE: dict[str, str] = {
    # what turns earn
    "outcome": "outcome:Outcome",
    "dense": "dense:Dense",
    "progress": "progress:Progress",
    "validity": "validity:Validity",
    "gra": "gra:GRA",
    "dra": "gra:DRA",
    "igpo": "igpo:IGPO",
    "spa": "spa:SPA",
    "oprl": "oprl:OPRL",
    "oni_retrieval": "oni:Retrieval",
    "oni_classification": "oni:Classification",
    "oni_ranking": "oni:Ranking",
    "calm": "calm:CALM",
    "prime": "peers.prime:PRIME",
    "mig": "peers.mig:MIG",
    "tips": "peers.tips:TIPS",
    "trace": "peers.trace:TRACE",
    "nous": "combine.nous:Nous",
    "r3": "combine.r3:R3",
    "agentprm": "peers.agentprm:AgentPRM",
    "sweet": "peers.sweet:SWEET",
    # what was expected of a state
    "critic": "peers.ppo:Critic",
    "turn_critic": "peers.turn_ppo:TurnCritic",
    "vineppo": "peers.vineppo:VinePPO",
    "spo": "peers.spo:SPO",
    "archer": "peers.archer:ArCHer",
    # advantages
    "turn": "advantage:turn_rtg",
    "rloo": "advantage:rloo",
    "grpo": "advantage:grpo",
    "pooled": "advantage:pooled",
    "reinforce_pp": "peers.reinforce_pp:reinforce_pp",
    "loop": "peers.loop:loop",
    "ppo": "peers.ppo:ppo",
    "turn_ppo": "peers.turn_ppo:turn_ppo",
    "bilevel_gae": "peers.bilevel_gae:bilevel_gae",
    "monte_carlo": "peers.vineppo:monte_carlo",
    "gigpo": "peers.gigpo:gigpo",
    "hgpo": "peers.hgpo:hgpo",
    "mt_grpo": "peers.mt_grpo:mt_grpo",
    "istar": "oprl:istar",
    "prime_rloo": "peers.prime:prime_rloo",
    "trace_sum": "peers.trace:trace_sum",
    "tree_grpo": "peers.tree_grpo:tree_grpo",
    "pure": "peers.pure:pure",
    "empg": "peers.empg:empg",
    "gdpo": "combine.gdpo:gdpo",
    "as_is": "peers.archer:as_is",
    "q_rloo": "peers.agentprm:q_rloo",
    "spo_segments": "peers.spo:spo_segments",
    # many signals into one
    "conditional": "combine.gdpo:conditional",
    "par": "combine.par:par",
    "wco": "combine.ensemble:wco",
    "uwo": "combine.ensemble:uwo",
    "krc": "combine.krc:krc",
    "rto": "combine.rto:rto",
    "dr_irl": "combine.dr_irl:dr_irl",
    "kendall": "combine.urpo:kendall",
    "occupancy": "combine.occupancy:objective",
    # losses, samplers, schedules, metrics
    "tgdpo": "combine.tgdpo:tgdpo",
    "starpo_s": "peers.starpo:starpo_s",
    "arpo": "peers.arpo:arpo",
    "ads": "combine.ads:discount",
    "hypervolume": "combine.hypervolume:multiplier",
    "gradient_weights": "combine.gradient_weights:gradient_weights",
    "amft": "combine.amft:amft",
    "effective_rank": "combine.effective_rank:effective_rank",
}
"""Id -> ``module:name`` below ``milepost.credit``."""


def resolve(name: str, **kwargs: Any) -> Credit:
    """Return a credit method by its id in ``TABLE`` or as ``module:Class``; the current folder is on the path.

    Raises:
        ValueError: No such method, module or class, it is no credit method, or it has no such option: one line.
    """
    check_options(name, **kwargs)
    return find(name)(**kwargs)


def check_options(name: str, **kwargs: Any) -> None:
    """Raise what ``resolve`` would with these options, and make nothing."""
    signature = inspect.signature(find(name))
    try:
        signature.bind(**kwargs)
    except TypeError as error:
        options = ", ".join(signature.parameters) or "no options"
        raise ValueError(f"credit {name!r}: {error}; it takes {options}") from None


def find(name: str) -> type[Credit]:
    """Return the class of a credit method; see ``resolve``."""
    found = look_up(name)
    if not (isinstance(found, type) and issubclass(found, Credit)):
        if name in TABLE:
            kind = card_of(found).kind
            article = "an" if kind[0] in "aeiou" else "a"
            raise ValueError(
                f"credit {name!r} is {article} {kind} ({TABLE[name]}), not a method that says what turns earned"
            )
        raise ValueError(f"credit {name!r}: expected a subclass of milepost.credit.core.Credit, got {found!r}")
    if not found.name:
        raise ValueError(f"credit {name!r}: the class sets no name, so its numbers would have no label")
    return found


def look_up(name: str) -> Callable[..., Any]:
    """Return the class or function behind an id of ``TABLE``, or behind ``module:name``.

    Raises:
        ValueError: There is none: one line, with a guess.
    """
    path = f"milepost.credit.{TABLE[name]}" if name in TABLE else name
    module, colon, attribute = path.partition(":")
    if not (module and colon and attribute):
        close = get_close_matches(name, TABLE, 1, 0.5)
        hint = f"did you mean {close[0]!r}?" if close else f"there is {', '.join(TABLE)}"
        raise ValueError(f"no credit method {name!r}: {hint} Your own is module:Class")
    found: Callable[..., Any] | None = getattr(_module(module, name), attribute, None)
    if found is None:
        raise ValueError(f"credit {name!r}: module {module!r} has no class {attribute!r}")
    return found


def cards() -> list[Card]:
    """Return the cards of all methods in the order of ``TABLE``."""
    return [card_of(look_up(name)) for name in TABLE]


def _module(module: str, name: str) -> Any:
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            if module.startswith("milepost."):
                raise
            raise ValueError(f"credit {name!r}: {module!r} needs {error.name!r}, which is not there") from error
        raise ValueError(f"credit {name!r}: there is no module {module!r} (looked in {os.getcwd()} too)") from None
    except Exception as error:
        if module.startswith("milepost."):
            raise
        what = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise ValueError(f"credit {name!r}: {module!r} cannot be imported: {what}") from error
