"""Tests press Ctrl-C, also where whoever started them had it ignored, as a shell does for what it runs beside itself."""

import signal

signal.signal(signal.SIGINT, signal.default_int_handler)
