"""Our advantages beside those of public trainers, on the same random ragged batches: the largest difference.

    python -m venv --system-site-packages /tmp/trainers          # of the interpreter that has milepost and torch
    python -c 'import site; print(site.getsitepackages()[0])' > /tmp/trainers/lib/python3.11/site-packages/milepost.pth
    /tmp/trainers/bin/pip install --no-deps verl==0.9.1 ray tensordict omegaconf antlr4-python3-runtime==4.9.3 \\
        codetiming pyvers msgpack protobuf orjson
    /tmp/trainers/bin/pip install --no-deps skyrl==0.3.0 skyrl-gym==0.4.0 jaxtyping wadler-lindig loguru pandas
    /tmp/trainers/bin/pip install --no-deps tinker-cookbook==0.6.1 tinker chz distro blobfile lxml pylatexenc \\
        datasets multiprocess pyarrow dill xxhash aiohttp aiohappyeyeballs aiosignal frozenlist multidict propcache \\
        yarl attrs
    /tmp/trainers/bin/python benchmarks/differential.py

The second line makes the first environment's packages seen, for ``--system-site-packages`` sees only those of the
interpreter. ``--no-deps`` keeps torch as it is. A trainer that is not there is left out; where none is, GiGPO remains,
which no installable package has: its formula, as the authors released it, is written down here.

Rewards stand on the last sampled token of each turn, observations lie between turns, rows are padded at the right, all
in float64, so that what differs is a convention. A difference above 1e-6 has its convention beside it.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import typing
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any, Literal, NamedTuple

import numpy as np
import typing_extensions

from milepost.credit import advantage, normalise, returns
from milepost.credit.made import episode
from milepost.credit.normalise import Floats
from milepost.credit.peers.gigpo import gigpo
from milepost.credit.peers.reinforce_pp import reinforce_pp

N_BATCHES, GAMMA, LAM = 20, 0.95, 0.9
MODULES = {
    "verl": "verl.trainer.ppo.core_algos",
    "skyrl": "skyrl.backends.skyrl_train.utils.ppo_utils",
    "tinker-cookbook": "tinker_cookbook.rl.data_processing",
}


class Made(NamedTuple):
    """A batch of ours and the same as a trainer has it: B rows of L tokens."""

    rewards: list[list[list[float]]]
    """``[N][G][T]``"""
    keys: list[list[list[str]]]
    """``[N][G][T]`` states."""
    mask_BL: Floats
    """1 on the policy's own tokens."""
    real_BL: Floats
    """1 on observations as well, 0 on padding alone."""
    turn_BL: np.ndarray[Any, np.dtype[np.int64]]
    """-1 off the policy's own tokens."""
    rewards_BL: Floats
    values_BL: Floats
    group_B: np.ndarray[Any, np.dtype[np.int64]]


Rows = Callable[[Made], Any]
"""A batch -> ``[B, L]``; what is off the policy's own tokens is not compared."""


class Case(NamedTuple):
    """One comparison."""

    estimator: str
    trainer: str
    ours: str
    """Which call of ours."""
    run: Rows
    theirs: Rows
    batch: Callable[[int], Made]
    convention: str = ""


def made(
    seed: int,
    *,
    attempts: tuple[int, int] = (2, 6),
    turns: tuple[int, int] = (1, 7),
    sampled: tuple[int, int] = (1, 5),
    observed: tuple[int, int] = (1, 4),
    outcomes: Literal["random", "equal"] = "random",
) -> Made:
    """Return 8 groups; the pairs are the least number and one more than the largest."""
    rng = np.random.default_rng(seed)
    counts = [[int(rng.integers(*turns)) for _ in range(rng.integers(*attempts))] for _ in range(8)]
    rewards, rows = [], []
    for n, group in enumerate(counts):
        rewards.append([rng.normal(size=n_turns).tolist() for n_turns in group])
        for row in rewards[-1]:
            row[-1] += float(rng.integers(2))
            if outcomes == "equal":
                row[:] = [0.0] * (len(row) - 1) + [0.1 * (n + 1)]
        for row in rewards[-1]:
            turn, own = [], []
            for t, r in enumerate(row):
                n_observed = int(rng.integers(*observed)) if t else 0
                n_sampled = int(rng.integers(*sampled))
                turn += [-1] * n_observed + [t] * n_sampled
                own += [0.0] * (n_observed + n_sampled - 1) + [r]
            rows.append((turn, own, n))
    length = max(len(turn) for turn, *_ in rows)
    turn_BL = np.array([turn + [-1] * (length - len(turn)) for turn, *_ in rows])
    mask_BL = (turn_BL >= 0).astype(float)
    real_BL = (np.arange(length) < np.array([[len(turn)] for turn, *_ in rows])).astype(float)
    return Made(
        rewards,
        [[[f"s{s}" for s in rng.integers(3, size=n_turns)] for n_turns in group] for group in counts],
        mask_BL,
        real_BL,
        turn_BL,
        np.array([own + [0.0] * (length - len(own)) for _, own, _ in rows]),
        rng.normal(size=turn_BL.shape) * real_BL,
        np.array([n for *_, n in rows]),
    )


def even(n_groups: int, n_attempts: int, n_turns: int, n_tokens: int) -> Made:
    """Return a batch of equal lengths without observations, to take the time on."""
    rng = np.random.default_rng(0)
    n_rows, length = n_groups * n_attempts, n_turns * n_tokens
    turn_BL = np.tile(np.repeat(np.arange(n_turns), n_tokens), (n_rows, 1))
    rewards_BL = np.where(np.arange(length) % n_tokens == n_tokens - 1, rng.normal(size=turn_BL.shape), 0.0)
    mask_BL, group_B = np.ones_like(rewards_BL), np.repeat(np.arange(n_groups), n_attempts)
    return Made([], [], mask_BL, mask_BL, turn_BL, rewards_BL, rng.normal(size=turn_BL.shape), group_B)


def trainers() -> dict[str, Any]:
    """Return the modules that can be imported here."""
    # SkyRL is written for Python 3.12, where pydantic takes typing's TypedDict.
    setattr(typing, "TypedDict", typing_extensions.TypedDict)  # noqa: B010
    found = {}
    for name, path in MODULES.items():
        try:
            found[name] = importlib.import_module(path)
        except ImportError as error:
            print(f"without {name}: {error}")
    if "skyrl" in found:
        importlib.import_module("loguru").logger.disable("skyrl")  # a warning for every lone attempt
    return found


def functions() -> dict[tuple[str, str], Rows]:
    """Return the trainers' functions by estimator and trainer, each on a whole batch."""
    import torch

    found: dict[tuple[str, str], Rows] = {}
    modules = trainers()

    def tensors(m: Made, name: str = "verl") -> dict[str, Any]:
        # SkyRL's trainer gives its functions the mask of the whole response, and the policy's own in the loss only.
        rewards, mask = torch.from_numpy(m.rewards_BL), torch.from_numpy(m.real_BL if name == "skyrl" else m.mask_BL)
        return {"token_level_rewards": rewards, "response_mask": mask}

    for name in ("verl", "skyrl"):
        if name not in modules:
            continue
        module, lam = modules[name], "lam" if name == "verl" else "lambd"
        std = "norm_adv_by_std_in_grpo" if name == "verl" else "grpo_norm_by_std"

        def grpo(
            m: Made,
            by_std: bool = True,
            dtype: Any = torch.float64,
            module: Any = module,
            name: str = name,
            std: str = std,
        ) -> Any:
            given = {key: value.to(dtype) for key, value in tensors(m, name).items()}
            return module.compute_grpo_outcome_advantage(**given, index=m.group_B, **{std: by_std})[0].numpy()

        def rloo(m: Made, module: Any = module, name: str = name) -> Any:
            return module.compute_rloo_outcome_advantage(**tensors(m, name), index=m.group_B)[0].numpy()

        def pp(m: Made, gamma: float = GAMMA, module: Any = module, name: str = name) -> Any:
            told = {"config": SimpleNamespace(gamma=gamma)} if name == "verl" else {"gamma": gamma}
            return module.compute_reinforce_plus_plus_outcome_advantage(**tensors(m, name), **told)[0].numpy()

        def gae(m: Made, whitened: bool = True, module: Any = module, name: str = name, lam: str = lam) -> Any:
            values = torch.from_numpy(m.values_BL)
            told = {"values": values, "gamma": GAMMA, lam: LAM}
            white, total = module.compute_gae_advantage_return(**tensors(m, name), **told)
            return (white if whitened else total - values).numpy()

        found |= {("grpo", name): grpo, ("grpo, centred", name): partial(grpo, by_std=False)}
        found |= {("grpo, float32", name): partial(grpo, dtype=torch.float32)}
        found |= {
            ("rloo", name): rloo,
            ("reinforce_pp", name): pp,
            ("reinforce_pp, gamma 1", name): partial(pp, gamma=1.0),
        }
        found |= {("gae", name): gae, ("gae, raw", name): partial(gae, whitened=False)}
    if "verl" in modules:
        of_group = modules["verl"].compute_reinforce_plus_plus_baseline_outcome_advantage
        found["reinforce_pp, group", "verl"] = lambda m: of_group(**tensors(m), index=m.group_B)[0].numpy()
    if "tinker-cookbook" in modules:
        compute = modules["tinker-cookbook"].compute_advantages

        def centred(m: Made) -> Any:
            sums = m.rewards_BL.sum(1)
            groups = [sums[m.group_B == n].tolist() for n in np.unique(m.group_B)]
            rows = compute([SimpleNamespace(get_total_rewards=lambda g=g: g) for g in groups])
            return torch.cat(rows).numpy()[:, None] * m.mask_BL

        found["grpo, centred", "tinker-cookbook"] = centred
    return found


def released_gigpo(m: Made, *, by_std: bool = True, cross_steps: bool = False) -> Floats:
    """[B, L] GiGPO as its authors released it, where every turn is a row of the batch; omega 1.

    Episode: ``(R - mean) / (std + 1e-6)`` of the group's attempts, or (``cross_steps``, the released default) of its
    turns' rows, so that an attempt counts as often as it has turns. Step: the same of the discounted returns of the
    turns of the group in one state. A lone score in the episode's pool has mean 0 and deviation 1, in a step's pool
    its own mean.
    """
    rows = [(n, row, keys) for n in range(len(m.rewards)) for row, keys in zip(m.rewards[n], m.keys[n], strict=True)]
    totals: dict[Any, list[float]] = {}
    steps: dict[Any, list[float]] = {}
    to_go = [returns.return_to_go(row, GAMMA) for _, row, _ in rows]
    for (n, row, keys), gains in zip(rows, to_go, strict=True):
        totals.setdefault(n, []).extend([sum(row)] * (len(row) if cross_steps else 1))
        for key, gain in zip(keys, gains, strict=True):
            steps.setdefault((n, key), []).append(gain)

    def scored(value: float, pool: list[float], lone_mean: float) -> float:
        lone = len(pool) == 1
        mean, std = (lone_mean, 1.0) if lone else (np.mean(pool), np.std(pool, ddof=1))
        return float((value - mean) / (std + 1e-6 if by_std else 1.0))

    turns = [
        [scored(sum(row), totals[n], 0.0) + scored(g, steps[n, k], g) for k, g in zip(keys, gains, strict=True)]
        for (n, row, keys), gains in zip(rows, to_go, strict=True)
    ]
    return on_tokens(m, turns)


def on_tokens(m: Made, turns: list[Any]) -> Floats:
    """[B, L] each turn's number on its tokens."""
    return np.array(
        [returns.broadcast(row, turn, mask) for row, turn, mask in zip(turns, m.turn_BL, m.mask_BL > 0, strict=True)]
    )


def by_turn(estimator: Callable[[Any], Any]) -> Rows:
    """Return an estimator of ``[N][G][T]`` rewards as one of rows."""
    return lambda m: on_tokens(m, [row for group in estimator(m.rewards) for row in group])


def whitened(rows: Rows, observed: bool = False) -> Rows:
    """Return the rows as z-scores over all of the policy's tokens, or over those of observations too."""

    def run(m: Made) -> Floats:
        result, pool = np.asarray(rows(m)).copy(), (m.real_BL if observed else m.mask_BL) > 0
        result[pool] = normalise.zscore(result[pool], ddof=1, eps=0.0)
        return result

    return run


def per_token(m: Made, observed: bool = False) -> Floats:
    """[B, L] ``return_to_go`` over the policy's own tokens, or over those of observations too."""
    result = np.zeros_like(m.rewards_BL)
    for row, rewards, mask in zip(result, m.rewards_BL, (m.real_BL if observed else m.mask_BL) > 0, strict=True):
        row[mask] = returns.return_to_go(rewards[mask], GAMMA)
    return result


def token_gae(m: Made, observed: bool = False) -> Floats:
    """[B, L] ``returns.token_gae`` over the policy's own tokens, or over those of observations too."""
    rows = zip(m.rewards_BL, m.values_BL, m.real_BL if observed else m.mask_BL, strict=True)
    return np.array([returns.token_gae(*row, gamma=GAMMA, lam=LAM)[0] for row in rows])


def turn_gae(m: Made) -> Floats:
    """[B, L] ``returns.gae`` of turns, one token each."""
    result = np.zeros_like(m.rewards_BL)
    for row, rewards, values, mask in zip(result, m.rewards_BL, m.values_BL, m.mask_BL > 0, strict=True):
        row[mask] = returns.gae(rewards[mask], values[mask], gamma=GAMMA, lam=LAM)
    return result


def our_gigpo(m: Made, scale: Literal["group", "none"] = "group") -> Floats:
    """[B, L] ``gigpo``."""
    groups = [[episode(0.0, n_turns=len(row), state_key=row) for row in group] for group in m.keys]
    return by_turn(lambda rewards: gigpo(groups, rewards, GAMMA, scale=scale))(m)


def bessel(m: Made) -> Floats:
    """[B, L] ``reinforce_pp`` in units of the sample's deviation instead of the population's."""
    n = m.mask_BL.sum()
    return by_turn(partial(reinforce_pp, gamma=GAMMA))(m) * np.sqrt((n - 1) / n)


def cases() -> list[Case]:
    """Return every comparison that can be made here."""
    found = functions()
    lone = partial(made, attempts=(1, 2))
    flat = partial(made, observed=(0, 1))
    equal = partial(made, outcomes="equal", attempts=(2, 17))
    column = partial(made, observed=(0, 1), sampled=(1, 2))
    square = partial(made, observed=(0, 1), sampled=(1, 2), turns=(5, 6))
    centred = partial(advantage.grpo, scale="none")
    raw = partial(advantage.grpo, scale="none", singleton="raw")
    pp = by_turn(partial(reinforce_pp, gamma=1.0))
    pp_group = by_turn(partial(reinforce_pp, baseline="group"))
    pp_parts = whitened(per_token)
    loo_raw = by_turn(partial(advantage.rloo, singleton="raw"))
    alone = "there a lone attempt keeps its score; ours is 0"
    counted = "there observations count as tokens of the policy"
    zero = "there a lone attempt is 0, as our default"
    weigh = "there each token counts once, here each attempt"
    table: list[tuple[str, str, Rows, str, Callable[[int], Made], str]] = [
        ("grpo", "grpo()", by_turn(advantage.grpo), "grpo", made, ""),
        ("grpo, equal scores, float32", "grpo()", by_turn(advantage.grpo), "grpo, float32", equal,
         "there a rounding error / 1e-6; ours is exactly 0"),
        ("grpo, lone attempts", "grpo()", by_turn(advantage.grpo), "grpo", lone, f"{alone}, and no option changes it"),
        ("grpo, centred", "grpo(scale='none')", by_turn(centred), "grpo, centred", made, ""),
        ("grpo, centred, lone", "grpo(scale='none')", by_turn(centred), "grpo, centred", lone, alone),
        ("grpo, centred, lone", "grpo(scale='none', singleton='raw')", by_turn(raw), "grpo, centred", lone, zero),
        ("rloo", "rloo()", by_turn(advantage.rloo), "rloo", made, ""),
        ("rloo, lone attempts", "rloo()", by_turn(advantage.rloo), "rloo", lone, alone),
        ("rloo, lone attempts", "rloo(singleton='raw')", loo_raw, "rloo", lone, zero),
        ("reinforce_pp, one token a turn, even", "reinforce_pp() * sqrt((n - 1) / n)", bessel,
         "reinforce_pp", square, ""),
        ("reinforce_pp, gamma 1, no observations", "reinforce_pp()", pp, "reinforce_pp, gamma 1", flat, weigh),
        ("reinforce_pp, no observations", "zscore of return_to_go over tokens", pp_parts, "reinforce_pp", flat, ""),
        ("reinforce_pp", "zscore of return_to_go over tokens", pp_parts, "reinforce_pp", made, counted),
        ("reinforce_pp", "the same over observations too", whitened(partial(per_token, observed=True), True),
         "reinforce_pp", made, "there observations do not count"),
        ("reinforce_pp, group", "reinforce_pp(baseline='group')", pp_group, "reinforce_pp, group", made,
         f"{weigh}; there the total is compared, here the return of each turn"),
        ("reinforce_pp, group", "zscore of grpo(scale='none') over tokens", whitened(by_turn(centred)),
         "reinforce_pp, group", made, ""),
        ("token gae", "token_gae()", token_gae, "gae, raw", made, counted),
        ("token gae", "token_gae() over observations too", partial(token_gae, observed=True), "gae, raw", made,
         "there observations do not count"),
        ("token gae, no observations", "token_gae()", token_gae, "gae, raw", flat, ""),
        ("token gae, whitened", "zscore of token_gae()", whitened(token_gae), "gae", flat, ""),
        ("turn gae", "gae()", turn_gae, "gae, raw", column, ""),
    ]  # fmt: skip
    result = [
        Case(name, trainer, call, run, found[key, trainer], batch, told)
        for name, call, run, key, batch, told in table
        for trainer in MODULES
        if (key, trainer) in found
    ]
    formula = "released formula"
    steps = partial(released_gigpo, cross_steps=True)
    plain = partial(our_gigpo, scale="none")
    return [
        *result,
        Case("gigpo", formula, "gigpo()", our_gigpo, released_gigpo, made),
        Case("gigpo, mean_norm", formula, "gigpo(scale='none')", plain, partial(released_gigpo, by_std=False), made),
        Case("gigpo, its default pools", formula, "gigpo()", our_gigpo, steps, made,
             "there an attempt counts as often as it has turns; ours once"),
        Case("gigpo, lone attempts", formula, "gigpo()", our_gigpo, released_gigpo, lone, alone),
    ]  # fmt: skip


def largest(case: Case) -> float:
    """Return the largest difference on the policy's own tokens, over all batches."""
    worst = 0.0
    for seed in range(N_BATCHES):
        m = case.batch(seed)
        apart = np.abs(np.asarray(case.run(m), np.float64) - np.asarray(case.theirs(m), np.float64))
        worst = max(worst, float(apart[m.mask_BL > 0].max()))
    return worst


def main() -> None:
    found = cases()
    names = [name for name in MODULES if any(case.trainer == name for case in found)]
    versions = [f"{name} {importlib.metadata.version(name)}" for name in (*names, "torch", "numpy")]
    print(f"{', '.join(versions)}; {N_BATCHES} batches of 8 groups")
    print(f"{'estimator':<46} {'beside':<17} {'ours':<42} {'largest difference':>18}  convention")
    for case in found:
        apart = largest(case)
        told = case.convention if apart > 1e-6 else ""
        print(f"{case.estimator:<46} {case.trainer:<17} {case.ours:<42} {apart:>18.1e}  {told}")


if __name__ == "__main__":
    main()
