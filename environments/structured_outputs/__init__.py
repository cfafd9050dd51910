"""Answers that must parse, and fit a schema to the letter."""
