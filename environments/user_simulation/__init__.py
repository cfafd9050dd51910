"""Serving a simulated customer who knows what they want, but not how to say it at once."""
