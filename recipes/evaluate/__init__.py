"""Evaluate any agent on any tasks: panels, the run, its results."""
