"""One tool that may be called."""
