"""Haggling over a price, as buyer or as seller."""
