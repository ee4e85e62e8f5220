"""What the tests of combined signals draw, and how they read an error."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st

INF, NAN = float("inf"), float("nan")
check = settings(deadline=None, max_examples=60)
numbers = st.floats(-5, 5, allow_nan=False)
rows = st.lists(numbers, min_size=1, max_size=6)


def one_line(error: pytest.ExceptionInfo[Exception], *parts: str) -> bool:
    return "\n" not in str(error.value) and all(part in str(error.value) for part in parts)
