"""The environments and what is recorded of them; importing registers the ids."""
