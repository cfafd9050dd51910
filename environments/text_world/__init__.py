"""A small text adventure with rooms, keys and a treasure."""
