"""Language models run in this process, on transformers."""
