"""Panels: files that pin what is evaluated, so that two people's numbers mean the same."""
