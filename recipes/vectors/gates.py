"""GRA: gated reward accumulation."""

from __future__ import annotations

from typing import Any

from milepost.credit import advantage
from milepost.credit.gra import DRA, GRA, open_terms
from milepost.credit.made import episode
from milepost.credit.returns import return_to_go
from milepost.recipes.vectors.common import column
from milepost.recipes.vectors.family import Family

gra = Family()


@gra.computes(
    "gate_open",
    "direct_total",
    "gated_total",
    "gated_center",
    "gated_zscore_sample",
    "gated_rloo",
    "turn_rewards_traj0",
    "return_to_go_traj0",
)
def one_gate(outcome: list[float], step_critic: list[list[float]], gate_value: float) -> dict[str, Any]:
    group = [episode(o, step=steps) for o, steps in zip(outcome, step_critic, strict=True)]
    method = GRA(gate_value)
    gated: Any = method.on_group(group)
    direct: Any = DRA().on_group(group)
    return {
        "gate_open": [method.open(e) for e in group],
        "direct_total": advantage.totals([direct])[0],
        "gated_total": advantage.totals([gated])[0],
        "gated_center": column(advantage.grpo([gated], scale="none")),
        "gated_zscore_sample": column(advantage.grpo([gated])),
        "gated_rloo": column(advantage.rloo([gated])),
        "turn_rewards_traj0": gated[0],
        "return_to_go_traj0": return_to_go(gated[0]),
    }


@gra.computes("totals_variant_a", "totals_variant_b", "contributions_variant_b")
def several_gates(priorities: Any, values: Any, gates_variant_a: Any, gates_variant_b: Any) -> dict[str, Any]:
    def contributions(gates: dict[str, float]) -> list[dict[str, float]]:
        found = [(v, open_terms(v, priorities, gates)) for v in values]
        return [{k: v[k] if opened[k] else 0.0 for k in v} for v, opened in found]

    def totals(gates: dict[str, float]) -> list[float]:
        terms = {"patch": 1.0, "steps": 1.0}
        method = GRA(
            terms=terms,
            priorities={"outcome": priorities["resolved"], **{term: priorities[term] for term in terms}},
            gates={"outcome" if k == "resolved" else k: g for k, g in gates.items()},
        )
        group = [episode(v["resolved"], patch=[v["patch"]], steps=[v["steps"]]) for v in values]
        rows: Any = method.on_group(group)
        return advantage.totals([rows])[0]

    return {
        "totals_variant_a": totals(gates_variant_a),
        "totals_variant_b": totals(gates_variant_b),
        "contributions_variant_b": contributions(gates_variant_b),
    }


@gra.computes("direct", "gated")
def hacker_and_gate(good: Any, hacker: Any, gate_value: float) -> dict[str, Any]:
    group = [episode(x["outcome"], step=x["steps"]) for x in (good, hacker)]
    direct: Any = DRA().on_group(group)
    gated: Any = GRA(gate_value).on_group(group)
    return {"direct": advantage.totals([direct])[0], "gated": advantage.totals([gated])[0]}
