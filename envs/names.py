"""Names that were meant, for everything above sandboxes."""

from milepost.sandbox.names import did_you_mean

__all__ = ["did_you_mean"]
