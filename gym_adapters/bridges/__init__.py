"""Environments of other libraries, as ours; and ours as theirs.

Each bridge is a module of its own; docs/bridges.md lists them.
"""
