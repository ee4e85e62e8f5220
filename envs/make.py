"""Make an environment by its id, with one clear line for each way in which that can go wrong."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from collections.abc import Iterable
from difflib import get_close_matches
from types import ModuleType
from typing import Any

import gymnasium as gym
from gymnasium.envs.registration import load_env_creator
from gymnasium.error import DependencyNotInstalled, UnregisteredEnv

import milepost.envs


def make(env_id: str, **kwargs: Any) -> gym.Env[Any, Any]:
    """Return the environment of an id; ``module:id`` imports the module first, the current folder included.

    Raises:
        gymnasium.error.UnregisteredEnv: There is no such id.
        gymnasium.error.DependencyNotInstalled: A package that it needs is missing.
        ValueError: There is no such module, or the environment has no such option.
    """
    module, _, name = env_id.rpartition(":")
    if module:
        load_module(module)
    spec = gym.registry.get(name)
    if spec is None:
        known = list(gym.registry)
        raise UnregisteredEnv(f"no environment {name!r}{did_you_mean(name, known)}; milepost envs lists ours")
    try:
        creator = load_env_creator(spec.entry_point) if isinstance(spec.entry_point, str) else spec.entry_point
        if creator is not None:
            _refuse_unknown(name, creator, kwargs)
        return gym.make(name, **kwargs)
    except ModuleNotFoundError as error:
        raise DependencyNotInstalled(f"{name} needs {error.name}: pip install {error.name}") from error


def env_ids() -> list[str]:
    """Return the ids of the environments that this package registers."""
    importlib.import_module(milepost.envs.__name__)
    return sorted(name for name, spec in gym.registry.items() if spec.namespace == "milepost")


def load_module(module: str) -> ModuleType:
    """Import a module, of the current folder too.

    Raises:
        ValueError: There is no such module.
        gymnasium.error.DependencyNotInstalled: A package that it imports is missing.
    """
    if not {"", os.getcwd()} & set(sys.path):
        sys.path.insert(0, os.getcwd())
    importlib.invalidate_caches()
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name and (module == error.name or module.startswith(f"{error.name}.")):
            raise ValueError(f"no module {module!r}, neither in {os.getcwd()} nor installed") from error
        raise DependencyNotInstalled(f"{module} needs {error.name}: pip install {error.name}") from error


def _refuse_unknown(env_id: str, creator: Any, kwargs: dict[str, Any]) -> None:
    options = inspect.signature(creator).parameters.values()
    if any(option.kind is option.VAR_KEYWORD for option in options):
        return
    names = [option.name for option in options]
    of_make = inspect.signature(gym.make).parameters
    for name in kwargs:
        if name not in names and name not in of_make:
            there_are = f"it has: {', '.join(names)}" if names else "it has none"
            raise ValueError(f"{env_id} has no option {name!r}{did_you_mean(name, names)}; {there_are}")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return `` (did you mean 'x'?)`` where a known name is close, else nothing."""
    close = get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else ""
