"""The recipes that ship with the library: what to run, one YAML each, for one trainer.

Readable from an installed copy through ``importlib.resources.files("gym_adapters.recipes")``.
"""
