"""What the processes of a training run tell each other: their episodes, and their metrics as one."""

from __future__ import annotations

import re
from collections.abc import Sequence
from statistics import fmean

from milepost.agents import distributed
from milepost.envs.core import Episode

COUNTS = re.compile(
    r"skipped/|group/count$|credit/.+/(judged|unjudged|asked|annotated|labels|waiting|un\w+ed|annotator_failed|"
    r"\w*not_finite|\w*missing)$"
)
"""Metrics that count what was on one rank; those of the trainer are over all ranks already."""


def everyones(episodes: Sequence[Episode]) -> list[Episode]:
    """Return the episodes of all ranks."""
    return [episode for part in distributed.gather(list(episodes)) for episode in part]


def over_ranks(metrics: dict[str, float]) -> dict[str, float]:
    """Return each number over the ranks that have it: the sum of what was counted, the mean of all else."""
    ranks = distributed.gather(metrics)
    keys = dict.fromkeys(key for rank in ranks for key in rank)
    return {key: (sum if COUNTS.match(key) else fmean)(rank[key] for rank in ranks if key in rank) for key in keys}
