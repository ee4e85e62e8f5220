"""A run of two attempts at one task on which three methods disagree: what did a voucher earn that nobody asked for?

python tests/three_methods.py FOLDER        writes it, to look at with ``milepost view FOLDER``
"""

import json
import sys
from dataclasses import replace
from pathlib import Path

from milepost.credit.core import assign
from milepost.credit.gra import GRA
from milepost.credit.outcome import Outcome
from milepost.credit.progress import Progress
from milepost.envs.core import Action, Call, Episode, Stop, Turn, Usage, groups_of
from milepost.envs.runs import Run

DISAGREE = 2
"""At this turn: progress -2 (its largest), gra +0.5 of at most 1.1; 1 + 0.5 / 1.1 apart."""
REQUEST = "Hello. The kettle of order 1042 arrived broken and I would like my money back. My name is Ada Marsh."
STEPS = [
    # reasoning, (tool, arguments), result, components, potential after it
    ("First I have to know who is writing.", ("find_customer", {"name": "Ada Marsh"}),
     '{"customer": 77, "name": "Ada Marsh", "since": 2021}', {"step": 0.2}, -3.0),
    ("The order decides which rules apply.", ("get_order", {"order": 1042}),
     '{"order": 1042, "item": "kettle", "price": 39.90, "delivered": "6 days ago"}', {"step": 0.2}, -2.0),
    ("She is upset; a voucher at once will please her.", ("issue_voucher", {"customer": 77, "amount": 20}),
     "Voucher V-9 over 20.00 issued. Note: an order with a voucher cannot be refunded.", {"pleased": 0.5}, -4.0),
    ("That closed the way to the refund she asked for. I must take it back.", ("cancel_voucher", {"voucher": "V-9"}),
     "Voucher V-9 cancelled.", {"step": 0.0}, -2.0),
    ("The policy asks for a reason before a refund.", ("note_reason", {"order": 1042, "reason": "arrived broken"}),
     "Reason noted.", {"step": 0.1}, -1.0),
    ("Now the refund is allowed.", ("refund", {"order": 1042, "amount": 39.90}),
     "Refunded 39.90 to the card of order 1042.", {"step": 0.1}, 0.0),
]  # fmt: skip
START = -4.0


def attempt(number: int, n_steps: int, outcome: float) -> Episode:
    turns, seen = [], {"text": REQUEST}
    for t, (reasoning, (tool, arguments), result, parts, potential) in enumerate(STEPS[:n_steps]):
        call = Call(f"call_{t}", tool, json.dumps(arguments))
        usage = Usage(prompt=420 + 95 * t, completion=38 + 3 * t, seconds=0.8)
        info = {"reward_components": parts, "potential": potential, "valid": True}
        turns.append(Turn(seen, Action("", calls=(call,), reasoning=reasoning, usage=usage), info=info))
        seen = {"results": [{"id": call.id, "text": result}]}
    turns[-1].info["outcome"] = outcome
    return Episode(
        id=f"0:desk/refund-broken-item-7:{number}",
        env_id="milepost/ToolDesk-v0",
        task="refund-broken-item-7",
        split="test",
        attempt=number,
        group="desk/refund-broken-item-7",
        instructions="You serve the customers of a shop. A refund needs a reason; an order with a voucher has none.",
        info={"potential": START},
        turns=turns,
        last=seen,
        stop=Stop.TERMINATED,
        runtime={"policy": "openai:desk-agent", "agent": "openai:desk-agent"},
    )


def write(path: Path) -> Path:
    """Write the run; attempt 0 recovers and is solved, attempt 1 stops at the voucher."""
    episodes = [attempt(0, len(STEPS), 1.0), attempt(1, 3, 0.0)]
    progress = Progress()
    with Run.open(path, "evaluate", {"panel": "desk", "agent": "openai:desk-agent"}) as run:
        for episode in episodes:
            for t, turn in enumerate(episode.turns):
                so_far = replace(episode, turns=episode.turns[: t + 1], stop=None)
                turn.put("progress", progress.on_turn(so_far))
            run.add(episode)
        groups = groups_of(episodes)
        assign([GRA(), Outcome()], groups)
        for label in ("gra", "outcome"):
            run.write_credit(label, groups, {"method": label})
        run.finish({})
    return path


if __name__ == "__main__":
    print(write(Path(sys.argv[1])))
