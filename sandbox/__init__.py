"""Where untrusted commands run, and the errors of machines that fail."""
