"""Arithmetic in a universe where the operators mean something else."""
