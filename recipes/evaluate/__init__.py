"""Evaluate any agent on any tasks: panels, the run, its results."""

from milepost.recipes.evaluate.panel import Entry, Panel
from milepost.recipes.evaluate.results import Results, read_results
from milepost.recipes.evaluate.run import evaluate

__all__ = ["Entry", "Panel", "Results", "evaluate", "read_results"]
