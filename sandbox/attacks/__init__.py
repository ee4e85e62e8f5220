"""Attacks on a sandbox: each is refused by what holds, and succeeds where exactly that protection is missing."""
