"""Answers judged against each other, not against a key."""
