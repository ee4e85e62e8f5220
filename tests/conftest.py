"""Tests press Ctrl-C, also where whoever started them had it ignored, as shells do for what they run beside them."""

import signal

signal.signal(signal.SIGINT, signal.default_int_handler)
