"""Software engineering: bugs in real packages, mended in a sandbox, graded where nothing can be forged."""
