"""The specification's worked examples, each number of ``expect`` computed by the library."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from episodes_by_hand import episode

from milepost.credit import advantage, normalise
from milepost.credit.dense import Dense, dense
from milepost.credit.gra import DRA, GRA, open_terms
from milepost.credit.returns import broadcast, return_to_go, token_gae, turn_ends

HERE = Path(__file__).parent
SPECS = [folder / "shared" / "specs" / "credit-algorithms.md" for folder in (HERE.parent, HERE.parent.parent)]
VECTORS: dict[str, dict[str, Any]] = {v["id"]: v for v in yaml.safe_load_all((HERE / "vectors.yaml").read_text())}


def com_1(group_rewards: list[float]) -> dict[str, Any]:
    x = np.array(group_rewards)
    return {
        "center": normalise.center(x),
        "zscore_sample_eps1e6": normalise.zscore(x),
        "zscore_population_eps1e6": normalise.zscore(x, ddof=0),
        "rloo": normalise.rloo(x),
    }


def com_2(group_rewards: list[float]) -> dict[str, Any]:
    x = np.array(group_rewards)
    spreads = [normalise.spread(np.delete(x, i)) for i in range(len(x))]
    required = advantage.rloo([[[r] for r in group_rewards]])
    return {
        "loo_baseline": x - normalise.rloo(x),
        "loo_std_of_others": spreads,
        "naive_division_for_item_0_with_eps1e6": normalise.rloo(x)[0] / (spreads[0] + 1e-6),
        "required": [row[0] for row in required[0]],
    }


def com_3(outcomes: list[float], process_sums: list[float], coefficients: list[float]) -> dict[str, Any]:
    def totals(c: float) -> list[list[list[float]]]:
        return [[[o + c * p] for o, p in zip(outcomes, process_sums, strict=True)]]

    largest, _, smallest = coefficients
    z, c = partial(advantage.grpo, eps=0.0), partial(advantage.grpo, scale="none")
    return {
        "zscore_adv_c1": [row[0] for row in z(totals(largest))[0]],
        "zscore_adv_c001": [row[0] for row in z(totals(smallest))[0]],
        "centered_adv_c1": [row[0] for row in c(totals(largest))[0]],
        "centered_adv_c001": [row[0] for row in c(totals(smallest))[0]],
    }


def com_4(turn_rewards: list[list[float]], gamma: float) -> dict[str, Any]:
    rtg = advantage.turn_rtg
    to_go = advantage.returns([turn_rewards], gamma)
    return {
        "per_turn_mean": means(turn_rewards),
        "center_then_accumulate": rtg([turn_rewards], gamma, leave_one_out=False, order="normalise_then_accumulate")[0],
        "return_to_go": to_go[0],
        "mean_return_to_go": means(to_go[0]),
        "accumulate_then_center": rtg([turn_rewards], gamma, leave_one_out=False)[0],
        "accumulate_then_leave_one_out_singleton_raw": rtg([turn_rewards], gamma, singleton="raw")[0],
    }


def means(rows: list[list[float]]) -> list[float]:
    """[T] the baseline of each turn: what centring took off the longest attempt."""
    longest = max(rows, key=len)
    centred = advantage.normalised([rows])[0][rows.index(longest)]
    return [value - (less or 0.0) for value, less in zip(longest, centred, strict=True)]


def com_5(turn_rewards: list[list[float]], gamma: float) -> dict[str, Any]:
    centred = advantage.normalised([turn_rewards], over="group")
    accumulated = advantage.returns(centred, gamma)[0]
    return {
        "pool_mean": turn_rewards[0][0] - (centred[0][0][0] or 0.0),
        "pooled_then_accumulate": accumulated,
        "first_turn_gap": accumulated[0][0] - accumulated[1][0],
    }


def com_6(action_mask: list[int], turn_id: list[int], turn_advantage: list[float]) -> dict[str, Any]:
    return {
        "token_advantage": broadcast(turn_advantage, turn_id, action_mask),
        "turn_end": turn_ends(turn_id, action_mask, len(turn_advantage)),
    }


def com_7(token_loss: list[list[float]], mask: list[list[int]]) -> dict[str, Any]:
    torch = pytest.importorskip("torch")
    from milepost.agents.loss import aggregate

    loss, where = torch.tensor(token_loss), torch.tensor(mask)
    return {
        "token_mean": aggregate(loss, where, "token_mean").item(),
        "seq_mean_token_mean": aggregate(loss, where, "seq_mean_token_mean").item(),
        "seq_mean_token_sum": aggregate(loss, where, "seq_mean_token_sum").item(),
        "seq_mean_token_sum_norm_const_64": aggregate(loss, where, "seq_mean_token_sum_norm", 64.0).item(),
    }


def gra_1(outcome: list[float], step_critic: list[list[float]], gate_value: float) -> dict[str, Any]:
    group = [episode(o, step=steps) for o, steps in zip(outcome, step_critic, strict=True)]
    gra = GRA(gate_value)
    gated: Any = gra.on_group(group)
    direct: Any = DRA().on_group(group)
    return {
        "gate_open": [gra.open(e) for e in group],
        "direct_total": advantage.totals([direct])[0],
        "gated_total": advantage.totals([gated])[0],
        "gated_center": firsts(advantage.grpo([gated], scale="none")),
        "gated_zscore_sample": firsts(advantage.grpo([gated])),
        "gated_rloo": firsts(advantage.rloo([gated])),
        "turn_rewards_traj0": gated[0],
        "return_to_go_traj0": return_to_go(gated[0]),
    }


def firsts(advantages: advantage.Returns) -> list[float]:
    assert all(len(set(row)) == 1 for group in advantages for row in group)
    return [row[0] for row in advantages[0]]


def gra_2(priorities: Any, values: Any, gates_variant_a: Any, gates_variant_b: Any) -> dict[str, Any]:
    def contributions(gates: dict[str, float]) -> list[dict[str, float]]:
        found = [(v, open_terms(v, priorities, gates)) for v in values]
        return [{k: v[k] if opened[k] else 0.0 for k in v} for v, opened in found]

    def totals(gates: dict[str, float]) -> list[float]:
        terms = {"patch": 1.0, "steps": 1.0}
        gra = GRA(
            terms=terms,
            priorities={"outcome": 3, "patch": 2, "steps": 1},
            gates={"outcome" if k == "resolved" else k: g for k, g in gates.items()},
        )
        group = [episode(v["resolved"], patch=[v["patch"]], steps=[v["steps"]]) for v in values]
        rows: Any = gra.on_group(group)
        return advantage.totals([rows])[0]

    return {
        "totals_variant_a": totals(gates_variant_a),
        "totals_variant_b": totals(gates_variant_b),
        "contributions_variant_b": contributions(gates_variant_b),
    }


def gra_3(good: Any, hacker: Any, gate_value: float) -> dict[str, Any]:
    group = [episode(x["outcome"], step=x["steps"]) for x in (good, hacker)]
    direct: Any = DRA().on_group(group)
    gated: Any = GRA(gate_value).on_group(group)
    return {"direct": advantage.totals([direct])[0], "gated": advantage.totals([gated])[0]}


def mtg_1(win: Any, lose: Any) -> dict[str, Any]:
    (sparse,) = Dense(sparse=True).on_group([episode(win["final"], score=win["interm"])])
    return {
        "win_turn_rewards": dense(win["interm"], win["final"]),
        "lose_turn_rewards": dense(lose["interm"], lose["final"], lose["max_total"]),
        "sparse_win": sparse,
    }


def mtg_2(token_reward: Any, values: Any, action_mask: Any, gamma: float, lam: float) -> dict[str, Any]:
    advantages, returns = token_gae(token_reward, values, action_mask, gamma=gamma, lam=lam)
    return {"advantage_unwhitened": advantages, "returns": returns}


def mtg_3(turn_rewards: list[list[float]]) -> dict[str, Any]:
    return {
        "trajectory_sum": advantage.totals([turn_rewards])[0],
        "rloo": firsts(advantage.rloo([turn_rewards])),
        "grpo_sample_std": firsts(advantage.grpo([turn_rewards])),
    }


COMPUTE: dict[str, Callable[..., dict[str, Any]]] = {
    name.upper().replace("_", "-"): function
    for name, function in list(globals().items())
    if re.fullmatch(r"(com|gra|mtg)_\d", name)
}


@pytest.mark.parametrize("name", VECTORS)
def test_the_worked_example_comes_out(name: str):
    vector = VECTORS[name]
    got = COMPUTE[name](**vector["given"])
    assert got.keys() == vector["expect"].keys()
    for key, expected in vector["expect"].items():
        assert_close(got[key], expected, f"{name} {key}")


def assert_close(got: Any, expected: Any, where: str) -> None:
    if isinstance(expected, dict):
        assert got.keys() == expected.keys(), where
        for key in expected:
            assert_close(got[key], expected[key], f"{where}.{key}")
    elif isinstance(expected, list):
        assert len(got) == len(expected), where
        for i, (a, b) in enumerate(zip(got, expected, strict=True)):
            assert_close(a, b, f"{where}[{i}]")
    else:
        assert got == pytest.approx(expected, abs=1e-5), where


def test_the_examples_are_those_of_the_specification():
    spec = next((path for path in SPECS if path.exists()), None)
    if spec is None:
        pytest.skip("the specification is not beside this checkout (../shared/specs/credit-algorithms.md)")
    blocks = re.findall(r"```yaml\n(id: (?:COM|GRA|MTG)-\d+\n.*?)```", spec.read_text(), re.DOTALL)
    assert {b["id"]: b for b in map(yaml.safe_load, blocks)} == VECTORS
