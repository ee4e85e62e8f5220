"""How several signals become one, and coefficients that move: pure functions, one method a file."""
