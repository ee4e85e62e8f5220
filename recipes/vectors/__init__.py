"""Worked examples in YAML, computed by the library and compared: ``milepost credit vectors FILE.yaml``."""
