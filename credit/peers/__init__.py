"""Methods that users look for beside the core ones; one a file."""
