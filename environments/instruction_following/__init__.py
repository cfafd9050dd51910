"""Requests with instructions about form that a program can check."""
