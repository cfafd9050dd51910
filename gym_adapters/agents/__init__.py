"""Loops that drive one `Episode` with one chat model."""
