"""What a run costs."""

from __future__ import annotations

import psutil

from milepost.recipes.usage import give_back


def test_freed_memory_is_given_back_though_something_behind_it_lives():
    process = psutil.Process()
    blocks = [bytearray(b"x" * 60_000) for _ in range(3_000)]
    last = bytearray(60_000)
    del blocks
    give_back()
    after = process.memory_info().rss
    again = [bytearray(b"x" * 60_000) for _ in range(3_000)]
    assert process.memory_info().rss - after > 100_000_000, "it had been given back"
    assert len(again) == 3_000
    assert last
