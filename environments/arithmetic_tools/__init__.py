"""Sums that must be worked out with a calculator."""
