"""Adapters to trainers: each imports its framework, and nothing but the command line imports it."""
